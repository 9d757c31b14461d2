"""What holds for every route: who is let in, and what is described."""

from typing import get_args

import pytest
from building import slack, story

from app.web.auth import Role
from app.web.openapi import describe
from app.web.routes import ROUTES, Route

GUARDED = [route for route in ROUTES if route.roles]
FILLED = {"anomaly_id": "a", "execution_id": "e", "name": "scale-out-payment-api"}
BODIES = {
    "execute": {"runbook_name": "scale-out-payment-api"},
    "backtest": {"runbook": {"name": "r", "steps": [{"type": "slack", "channel": "#c", "message": "m"}]}},
    "decide": {"decision": "approve"},
    "resolve": {"outcome": "failed"},
    "put_runbook": {"steps": [{"type": "slack", "channel": "#c", "message": "m"}]},
    "publish": {"service_id": "s", "metric_name": "m"},
    "alertmanager": {"alerts": [{"labels": {"job": "j", "alertname": "n"}}]},
}
ROLES = get_args(Role)


def named(route: Route) -> str:
    return route.name


async def call(web, route, **fields):
    return await web.call(route.method, route.path.format(**FILLED), BODIES.get(route.name), **fields)


def written(world):
    return [*world.log.events, *world.log.changes, *world.log.anomalies, *world.log.decisions]


@pytest.mark.parametrize("route", GUARDED, ids=named)
async def test_nobody_is_let_in_without_a_token(web, world, route):
    answer = await web.plain(route.method, route.path.format(**FILLED))
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"]
    assert written(world) == []


@pytest.mark.parametrize("route", GUARDED, ids=named)
async def test_every_other_role_is_refused_and_the_missing_one_named(web, world, route):
    others = [role for role in ROLES if role not in (*route.roles, "admin")]
    for roles in ([], others):
        answer = await call(web, route, roles=roles)
        assert answer.status == 403
        assert f"this needs the role {' or '.join(route.roles)};" in answer.body["detail"]
    assert written(world) == []


@pytest.mark.parametrize("route", GUARDED, ids=named)
async def test_its_own_roles_and_the_admin_are_let_in(web, world, route):
    world.history.executions["e"] = story(slack(require_approval=True)).prepared().state
    for role in (*route.roles, "admin"):
        world.put({"name": "scale-out-payment-api", "steps": BODIES["put_runbook"]["steps"]})
        world.pause("scale-out-payment-api")
        assert (await call(web, route, roles=[role])).status not in {401, 403, 404, 500}


@pytest.mark.parametrize("route", [route for route in GUARDED if "execution_id" in route.path], ids=named)
async def test_another_tenants_execution_is_not_there(web, world, route):
    world.history.executions["e"] = story(slack(require_approval=True)).prepared().state
    answer = await call(web, route, tenant="other")
    missing = await web.call(route.method, route.path.format(execution_id="none"), BODIES.get(route.name))
    assert answer.status == missing.status == 404
    assert answer.body == missing.body
    assert written(world) == []


READING = [route for route in GUARDED if "{name}" in route.path and route.method != "PUT"]  # that makes one's own


@pytest.mark.parametrize("route", READING, ids=named)
async def test_another_tenants_runbook_is_not_there(web, world, route):
    answer = await call(web, route, tenant="third")
    assert answer.status == 404
    assert written(world) == []


def test_only_these_need_no_token():
    probes = {"healthz", "readyz", "metrics", "openapi"}
    signed_by_slack = {"slack_interactions"}
    assert {route.name for route in ROUTES if not route.roles} == probes | signed_by_slack


async def test_the_document_names_every_route_that_is_served(web):
    described = (await web.plain("GET", "/openapi.json")).body
    served = {
        (route.method, route.resource.canonical) for route in web.client.app.router.routes() if route.method != "HEAD"
    }
    assert served == {(method.upper(), path) for path, methods in described["paths"].items() for method in methods}
    assert described == describe(ROUTES)


def test_the_document_is_whole():
    document = describe(ROUTES)
    assert document["openapi"] == "3.1.0"
    operations = [operation for methods in document["paths"].values() for operation in methods.values()]
    assert len({operation["operationId"] for operation in operations}) == len(ROUTES)
    assert all(operation["summary"].endswith(".") for operation in operations)
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def references(value):
    if isinstance(value, dict):
        if isinstance(value.get("$ref"), str):
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


@pytest.mark.parametrize("name", sorted(BODIES.keys() - {"alertmanager"}))
def test_the_bodies_that_are_taken_are_as_described(name):
    from jsonschema import Draft202012Validator

    document = describe(ROUTES)
    route = next(route for route in ROUTES if route.name == name)
    operation = document["paths"][route.path][route.method.lower()]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    validator = Draft202012Validator({**schema, "components": document["components"]})
    assert not list(validator.iter_errors(BODIES[name]))
    assert list(validator.iter_errors({}))
