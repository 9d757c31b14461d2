"""Pausing and resuming over the API."""

from datetime import timedelta

import pytest
from building import T0, scale, slack, story

PAUSE = "/api/v1/pauses/freeze"
LATER = (T0 + timedelta(hours=1)).isoformat()


async def test_paused_shown_and_resumed(web, world):
    answer = await web.call("PUT", PAUSE, {"reason": "release", "ends_at": LATER}, roles=["operator"], sub="bob")
    assert (answer.status, answer.body["by"], answer.body["on"], answer.body["everybody"]) == (200, "bob", True, False)
    listed = (await web.call("GET", "/api/v1/pauses", roles=["viewer"])).body["items"]
    assert listed == [answer.body]
    assert (await web.call("DELETE", PAUSE, roles=["operator"])).status == 204
    assert (await web.call("GET", "/api/v1/pauses", roles=["viewer"])).body["items"] == []
    assert [change.type for change in world.log.changes] == ["pause_put", "pause_ended"]


async def test_no_body_pauses_everything_of_the_tenant_at_once(web, world):
    assert (await web.call("PUT", PAUSE, roles=["operator"])).status == 200
    assert world.definitions.catalog.pauses.why_paused("default", "any", None, T0)
    assert world.definitions.catalog.pauses.why_paused("other", "any", None, T0) is None


async def test_everybodys_pause_is_shown_and_not_a_tenants_to_end(web, world):
    world.pause("global", tenant="*")
    world.pause("over", ends_at=T0 + timedelta(seconds=1), starts_at=T0 - timedelta(seconds=1))
    world.now = T0 + timedelta(seconds=2)
    (item,) = (await web.call("GET", "/api/v1/pauses", roles=["viewer"])).body["items"]
    assert (item["name"], item["everybody"]) == ("global", True)
    answer = await web.call("DELETE", "/api/v1/pauses/global", roles=["operator"])
    assert (answer.status, answer.body["detail"]) == (404, "your tenant has no such pause")
    assert world.log.changes == []


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/api/v1/pauses/-", {}, "name"),
        (PAUSE, {"ends_at": (T0 - timedelta(1)).isoformat()}, "ends_at"),
        (PAUSE, {"starts_at": LATER, "ends_at": T0.isoformat()}, ""),
        (PAUSE, {"ends_at": "tomorrow"}, "ends_at"),
        (PAUSE, {"runbok": "r"}, "runbok"),
        (PAUSE, {"runbook": "a b"}, "runbook"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_its_field(web, world, path, body, field):
    answer = await web.call("PUT", path, body, roles=["operator"])
    assert (answer.status, answer.body["problems"][0]["path"]) == (400, field)
    assert world.log.changes == []


async def test_a_change_that_is_not_in_force_in_time_says_so(web, world):
    world.definitions.behind = True
    assert (await web.call("PUT", PAUSE, roles=["operator"])).status == 503


async def test_while_it_is_paused_only_a_dry_run_is_taken(web, world):
    world.put({"name": "r", "steps": [slack()]})
    world.pause(service_id="s", reason="release")
    body = {"runbook_name": "r", "context": {"service_id": "s"}}
    answer = await web.call("POST", "/api/v1/runbooks/execute", body, roles=["operator"])
    assert (answer.status, answer.body["detail"]) == (409, "'r' is paused by ann: release")
    dry = await web.call("POST", "/api/v1/runbooks/execute", {**body, "dry_run": True}, roles=["operator"])
    assert dry.status == 200
    other = {"runbook_name": "r", "context": {"service_id": "t"}}
    assert (await web.call("POST", "/api/v1/runbooks/execute", other, roles=["operator"])).status == 202


async def test_an_execution_says_what_it_waits_for(web, world):
    first, second = story(scale()).started().state, story(scale()).state
    request = second.request.model_copy(update={"execution_id": "e2"})
    world.history.executions |= {"e": first, "e2": second.now(request=request, run=2)}
    world.pause(reason="release")
    shown = (await web.call("GET", "/api/v1/executions/e2", roles=["viewer"])).body
    assert shown["waits_for"] == {"target": "deployment/n/d", "execution_id": "e", "runbook_name": "r"}
    assert shown["paused"] == "paused by ann: release"
    assert (await web.call("GET", "/api/v1/executions/e", roles=["viewer"])).body["waits_for"] is None
