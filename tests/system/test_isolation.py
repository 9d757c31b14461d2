"""One tenant's token and records on every route and topic, against what another tenant has: on a real worker."""

import itertools
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from metrics_page import Metrics
from processes import SECRET, incident
from waiting import until

from app.core.decisions import ApprovalDecision
from app.core.events import CancelRequested, RollbackRequested, StepResolved, TimerFired, write_event
from app.development import make_token

CANARY = "canary-of-the-first"
SERVICE = f"service-{CANARY}"
STEP = {"type": "slack", "channel": "#c", "message": "m"}
FIRST = {
    "name": "guarded",
    "description": CANARY,
    "trigger": {"service_id": SERVICE},
    "steps": [incident(), {**incident(f"{CANARY} {{{{ anomaly.anomaly_id }}}}"), "require_approval": True}],
}
BODIES = {
    "/api/v1/runbooks/execute": {"runbook_name": "guarded", "context": {}},
    "/api/v1/runbooks/validate": {"name": "guarded", "steps": [STEP]},
    "/api/v1/runbooks/backtest": {"runbook": {"name": "guarded", "trigger": {"service_id": SERVICE}, "steps": [STEP]}},
    "/api/v1/runbooks/{name}": {"steps": [STEP]},
    "/api/v1/executions/{execution_id}/approvals": {"decision": "approve"},
    "/api/v1/executions/{execution_id}/resolve": {"outcome": "failed"},
    "/api/v1/anomalies": {"service_id": "other", "metric_name": "m"},
    "/api/v1/webhooks/alertmanager": {"alerts": [{"labels": {"job": "j", "alertname": "n"}}]},
}
OWN = {("put", "/api/v1/runbooks/{name}"), ("put", "/api/v1/pauses/{name}")}
"""What makes something of the caller's own under a name that another tenant uses too."""
STRANGER, OWNER = ("get", "delete", "post", "put"), ("get", "post", "put", "delete")
"""In this order they call: a stranger makes things of its own last, an owner deletes last."""


async def opened(api, publish) -> dict[str, str]:
    """What the first tenant has: a runbook, a pause, an anomaly with its decisions, an execution that waits."""
    await api.put_runbook(FIRST)
    body = {"runbook": "another", "reason": CANARY}
    assert (await api.call("PUT", "/api/v1/pauses/guarded", body))[0] == 200
    anomaly = {"anomaly_id": f"anomaly-{CANARY}", "service_id": SERVICE, "metric_name": "m", "labels": {"x": CANARY}}
    await publish("anomaly-events", anomaly, key=b"k")
    waiting = await api.waiting()
    return {"name": "guarded", "execution_id": waiting["execution_id"], "anomaly_id": anomaly["anomaly_id"]}


async def view(api, ids) -> dict:
    """All that the first tenant sees of its own."""
    one = f"/api/v1/executions/{ids['execution_id']}"
    paths = ["/api/v1/runbooks/history", one, f"{one}/events", "/api/v1/runbooks", "/api/v1/runbooks/guarded/versions"]
    paths += ["/api/v1/approvals?all=true", "/api/v1/pauses", f"/api/v1/anomalies/{ids['anomaly_id']}/decisions"]
    return {path: await api.get(path) for path in paths}


async def operations(api, order) -> list[tuple[str, str]]:
    """Every method and path of the API's own description."""
    async with api.session.get(f"{api.url}/openapi.json") as answer:
        described = await answer.json()
    found = [(method, path) for path, methods in described["paths"].items() for method in methods]
    return sorted(found, key=lambda one: (order.index(one[0]), one[1]))


async def request(api, method: str, path: str, ids, **fields):
    """The status, and all of the answer as text."""
    body = BODIES.get(path) if method in {"post", "put"} else None
    headers = {"Authorization": f"Bearer {fields['token']}"}
    query = {"limit": "200", "all": "true"} if method == "get" and path.endswith(("history", "approvals")) else {}
    async with api.session.request(
        method, api.url + path.format(**ids), json=body, headers=headers, params=query, allow_redirects=False
    ) as answer:
        return answer.status, str(dict(answer.headers)) + await answer.text()


@pytest.fixture
def token():
    return lambda tenant: make_token(SECRET, "mallory", ["admin"], tenant)


async def test_on_every_route_nothing_of_another_tenant_is_seen_or_changed(worker, api, publish, stand_ins, token):
    ids = await opened(api, publish)
    before = await view(api, ids)
    for method, path in await operations(api, STRANGER):
        status, text = await request(api, method, path, ids, token=token("second"))
        named = f"{method} {path}: {status} {text}"
        assert CANARY not in text.replace(json.dumps(ids["anomaly_id"]), ""), named
        if "{" in path and (method, path) not in OWN:
            assert status == 404, named
        else:
            assert status < 500, named
    assert await view(api, ids) == before
    assert len(stand_ins.incidents) == 1
    for method, path in await operations(api, OWNER):  # the same calls, by whom they are for: each finds what it names
        status, text = await request(api, method, path, ids, token=token("default"))
        assert status != 404 or path == "/slack/interactions", f"{method} {path}: {status} {text}"


async def test_one_idempotency_key_of_two_tenants_is_two_executions(worker, api, stand_ins):
    await api.put_runbook({"name": "one", "steps": [incident()]})
    assert (await api.call("PUT", "/api/v1/runbooks/one", {"steps": [incident()]}, tenant="second"))[0] == 201
    ids = set()
    for tenant in ("default", "second", "default"):
        body = {"runbook_name": "one"}
        _, given = await api.call("POST", "/api/v1/runbooks/execute", body, tenant=tenant, Idempotency_Key="k")
        ids.add(given["execution_id"])
    assert len(ids) == 2


def in_anothers_name(record: bytes) -> bytes:
    """The record with the second tenant for the first."""
    content = json.loads(record)
    return json.dumps(content | {"tenant": "second"}).encode()


def forged_events(ids) -> Iterator[bytes]:
    """Events that would change the first tenant's execution, in the second one's name."""
    common = {"tenant": "second", "execution_id": ids["execution_id"], "at": datetime.now(UTC)}
    yield write_event(CancelRequested(**common, by="mallory"))
    yield write_event(TimerFired(**common))
    yield write_event(RollbackRequested(**common, by="mallory", run=0, finished={}))
    yield write_event(StepResolved(**common, by="mallory", outcome="succeeded"))


def signed_decision(ids) -> bytes:
    """An approval by the second tenant's approver, signed as the API signs."""
    key = b"approval decisions\x00" + SECRET.encode()
    named = {"tenant": "second", "execution_id": ids["execution_id"], "step": 1, "by": "mallory", "source": "api"}
    decision = ApprovalDecision(**named, decision="approve", at=datetime.now(UTC))
    return decision.signed("api", key).model_dump_json().encode()


async def test_on_every_topic_a_record_in_anothers_name_changes_nothing(worker, api, publish, read_topic, stand_ins):
    ids = await opened(api, publish)
    before = await view(api, ids)
    log = [one.value for one in await read_topic("execution-events")]
    commands = [one.value for one in await read_topic("step-commands.http")]
    anomaly = {"anomaly_id": ids["anomaly_id"], "tenant_id": "second", "service_id": SERVICE, "metric_name": "m"}
    change = (await read_topic("runbook-definitions"))[0].value
    answers = [one.value for one in await read_topic("match-decisions")]
    sample = {"tenant_id": "second", "service_id": SERVICE, "metric_name": "m", "value": 1.0}
    forged: dict[str, list[bytes]] = {
        "execution-events": [*map(in_anothers_name, log), *forged_events(ids)],
        "approval-decisions": [signed_decision(ids)],
        **{f"step-commands.{kind}": list(map(in_anothers_name, commands)) for kind in ("http",)},
        "anomaly-events": [json.dumps(anomaly).encode()],
        "runbook-definitions": [in_anothers_name(change)],
        "match-decisions": list(map(in_anothers_name, answers)),
        "metric-samples": [json.dumps(sample).encode()],
        "dead-letters": [b"x"],
    }
    for kind in ("kubernetes", "shell", "slack", "metric"):  # those of another kind are no commands of theirs
        forged[f"step-commands.{kind}"] = forged["step-commands.http"]
    assert forged.keys() == yaml.safe_load(Path("topics.yaml").read_text())["topics"].keys()
    for (topic, values), key in itertools.product(forged.items(), (b"default", b"second")):
        await publish(topic, *values, key=key)
    figures = Metrics(api)

    async def all_read():
        written = len(await read_topic("execution-events"))
        text = await figures.text()
        counted = [line for line in text.splitlines() if line.startswith("runbooks_execution_events_total{")]
        repeated = await figures.value("runbooks_commands_total", kind="http", result="repeated")
        return (repeated or 0) >= 2 * len(commands) and sum(float(line.split()[-1]) for line in counted) >= written

    await until(all_read, 60)
    for topic in ("execution-events", "match-decisions"):
        await figures.reach(0.0, "runbooks_projector_lag_events", topic=topic)
    assert await view(api, ids) == before
    assert len(stand_ins.incidents) == 1
    await api.approve(sub="ann")
    (item,) = await api.ended(1)
    assert (item["status"], len(stand_ins.incidents)) == ("succeeded", 2)
