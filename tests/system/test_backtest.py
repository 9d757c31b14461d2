"""A log that the real worker wrote, with every guard at work: the version in force gives exactly what was done."""

import json
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from processes import incident
from test_commands import runbooks  # noqa: F401 - a fixture
from waiting import until

from app.core.backtest_report import Question
from app.core.events import Limits
from app.core.runbook import read_runbook
from app.streams.backtesting import Backtester

CALL = incident()
ONE = {"trigger": {"service_id": "s", "condition": "value > 0.5"}, "steps": [CALL]}
FAILS = [{**CALL, "headers": {}}]
IN_FORCE = {
    "plain": ONE,
    "cooled": {**ONE, "cooldown_seconds": 600},
    "limited": {**ONE, "max_runs_per_hour": 4},
    "asking": {**ONE, "max_runs_per_hour": 4, "when_exceeded": "approve"},
    "broken": {**ONE, "steps": FAILS, "circuit_breaker": {"failures": 2, "open_minutes": 0.02}},
}
SHADOW = {"name": "shade", **ONE, "mode": "shadow", "cooldown_seconds": 600}


@pytest.fixture
def environment(environment):
    """Slots enough that those who wait for approval are in nobody's way."""
    return environment | {"RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS": "100"}


def storm(name: str, count: int, value: float = 1.0):
    named = {"service_id": "s", "metric_name": "m", "value": value}
    return [named | {"anomaly_id": f"{name}-{number}"} for number in range(count)]


async def settled(api, count: int):
    """The history once each anomaly has its answer from each runbook, and nothing goes on that needs nobody."""

    async def all_known():
        items = await api.history()
        known = [one for one in items if one["finished_at"] or one["status"] == "awaiting_approval"]
        return items if len(items) == len(known) == count else None

    return await until(all_known, 60)


async def recorded(api, publish):
    """Anomalies in every way that guards and pauses can meet them, 18 of which match; what history says of them."""
    for name, content in IN_FORCE.items():
        await api.put_runbook({"name": name, **content})
    await api.put_runbook(SHADOW)
    await publish("anomaly-events", {"anomaly_id": "nobody", "service_id": "t", "metric_name": "m"})
    await publish("anomaly-events", *storm("a", 6), *storm("low", 5, 0.1))
    await settled(api, 6 * len(IN_FORCE))
    await publish("anomaly-events", *storm("a", 3), *storm("b", 3))  # the same once more
    await settled(api, 9 * len(IN_FORCE))
    await api.call("PUT", "/api/v1/pauses/freeze", {"reason": "release"}, roles=["operator"])
    await publish("anomaly-events", *storm("c", 3))
    await settled(api, 12 * len(IN_FORCE))
    await api.call("DELETE", "/api/v1/pauses/freeze", roles=["operator"])
    await publish("anomaly-events", *storm("d", 6), key=b"k")
    return await settled(api, 18 * len(IN_FORCE))


async def test_the_version_in_force_gives_what_the_worker_did(
    worker,
    api,
    publish,
    runbooks,  # noqa: F811
    tmp_path,
    connection,
    settings,
):
    items = await recorded(api, publish)
    guards = set()
    backtester = Backtester(connection, Limits(max_concurrent_runbooks=100), settings.kafka.group_id)
    since = datetime.now(UTC) - timedelta(hours=1)
    for name, content in IN_FORCE.items():
        runbook = read_runbook({"name": name, **content})
        outcome = await backtester.run(Question("default", runbook, since, everything=True))
        report = orjson.loads(orjson.dumps(outcome.shown()))
        assert (report["differences"], report["unknown"], report["same_as_in_force"]) == ([], 0, True), report
        told = {one["execution_id"]: one for one in report["others"] if one["execution_id"]}
        mine = {one["execution_id"]: one for one in items if one["runbook_name"] == name}
        assert told.keys() == mine.keys()
        for execution_id, one in told.items():
            assert one["would"] == one["did"]
            item, would = mine[execution_id], one["would"]
            assert (would["result"] == "blocked") == (item["status"] == "skipped")
            if would["guard"] == "pause":
                assert item["reason"] == would["reason"]
            elif would["guard"]:
                assert item["reason"] in {f"{would['guard']}: {would['reason']}", None} or item["status"] != "skipped"
            guards.add((would["result"], would["guard"]))
        assert report["counts"][-1] == {"would": "no_match", "did": "nothing", "anomalies": 6}
    every = {("blocked", guard) for guard in ("cooldown", "max_runs_per_hour", "circuit_breaker", "pause")}
    assert guards >= every | {("runs", None), ("asks", "max_runs_per_hour")}

    stricter = {"name": "plain", **ONE, "cooldown_seconds": 3600}
    path = tmp_path / "stricter.json"
    path.write_text(json.dumps(stricter))
    status, out, errors = await runbooks("backtest", path, "--since", "1h")
    assert status == 0, errors
    assert "would: blocked (cooldown) execution " in out.splitlines()[0]
    assert "; did: runs" in out.splitlines()[0]
    assert "records" in errors
    body = {"runbook": stricter}
    status, answer = await api.call("POST", "/api/v1/runbooks/backtest", body, roles=["viewer"])
    assert (status, answer["complete"], answer["differing"]) == (200, True, out.count("; did: runs"))
    await why(api, runbooks)
    await covered(api, runbooks)


async def why(api, runbooks):  # noqa: F811
    """Each anomaly and candidate has one recorded answer."""

    async def all_written():
        status, found = await api.call("GET", "/api/v1/anomalies/d-5/decisions")
        return found if status == 200 else None

    found = {one["runbook_name"]: one for one in (await until(all_written))["items"]}
    assert found.keys() == {*IN_FORCE, "shade"}
    assert found["plain"]["told"] == "succeeded"
    assert found["limited"]["told"].startswith("skipped: max_runs_per_hour: 4 runs in the last hour")
    assert (found["shade"]["result"], found["shade"]["execution_id"]) == ("would_request", None)
    low = await api.get("/api/v1/anomalies/low-1/decisions")
    assert {one["told"] for one in low["items"]} == {"did not match: condition `value > 0.5` is false"}
    paused = {one["runbook_name"]: one for one in (await api.get("/api/v1/anomalies/c-0/decisions"))["items"]}
    assert (paused["plain"]["result"], paused["plain"]["told"]) == ("paused", "skipped: paused by tester: release")
    assert paused["shade"]["told"].endswith("would have been kept from starting: paused by tester: release")
    assert (await api.call("GET", "/api/v1/anomalies/nobody/decisions"))[0] == 404
    assert (await api.call("GET", "/api/v1/anomalies/d-5/decisions", tenant="other"))[0] == 404
    status, out, errors = await runbooks("explain", "low-1")
    assert (status, out.splitlines()[0]) == (0, "low-1: s, m"), errors
    assert "  plain version 1: did not match: condition `value > 0.5` is false" in out.splitlines()


async def covered(api, runbooks):  # noqa: F811
    """What no runbook handles, and what a shadow would have done, which is never carried out."""
    found = await api.get("/api/v1/coverage")
    assert found["uncovered"] == [{"service_id": "t", "metric_name": "m", "anomalies": 1}]
    assert found["unhandled"] == [{"service_id": "s", "metric_name": "m", "anomalies": 5}]
    assert (found["anomalies"], found["complete"]) == (27, True)
    each = {one["runbook_name"]: one for one in found["runbooks"]}
    assert each["shade"]["answers"] == {"would_request": 15, "would_be_paused": 3, "no_match": 5}
    assert (each["shade"]["shadow"], each["shade"]["runs"]) == ({"start": 1, "cooldown": 14}, {})
    assert (each["plain"]["answers"]["requested"], each["plain"]["shadow"]) == (15, None)
    status, out, errors = await runbooks("coverage", "--since", "1h")
    assert status == 0, errors
    assert "  no runbook is about t, m: 1" in out.splitlines()
    assert "  shadow, as far as can be judged: 14 cooldown, 1 start" in out.splitlines()
    body = {"runbook_name": "shade", "context": {"service_id": "s", "anomaly_id": "x"}}
    status, answer = await api.call("POST", "/api/v1/runbooks/execute", body)
    assert (status, "only dry run" in answer["detail"]) == (409, True)
    status, answer = await api.call("POST", "/api/v1/runbooks/execute", {**body, "dry_run": True})
    assert (status, answer["steps"][0]["status"]) == (200, "planned")
    assert {one["status"] for one in await api.history("runbook_name=shade&limit=5")} == {"succeeded"}
