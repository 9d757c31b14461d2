"""A log that the real worker wrote, with every guard at work: the version in force gives exactly what was done."""

import json

import orjson
from test_commands import runbooks  # noqa: F401 - a fixture
from waiting import until

CALL = {
    "type": "http",
    "method": "POST",
    "url": "$PAGERDUTY_URL/incidents",
    "headers": {"Authorization": "Token $PAGERDUTY_API_TOKEN"},
    "body": {"title": "{{ anomaly.anomaly_id }}"},
}
ONE = {"trigger": {"service_id": "s", "condition": "value > 0.5"}, "steps": [CALL]}
FAILS = [{**CALL, "headers": {}}]
IN_FORCE = {
    "plain": ONE,
    "cooled": {**ONE, "cooldown_seconds": 600},
    "limited": {**ONE, "max_runs_per_hour": 4},
    "asking": {**ONE, "max_runs_per_hour": 4, "when_exceeded": "approve", "cooldown_seconds": 0.01},
    "broken": {**ONE, "steps": FAILS, "circuit_breaker": {"failures": 2, "open_minutes": 0.02}},
}


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


async def test_the_version_in_force_gives_what_the_worker_did(worker, api, publish, runbooks, tmp_path):  # noqa: F811
    items = await recorded(api, publish)
    guards = set()
    for name, content in IN_FORCE.items():
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"name": name, **content}))
        status, out, errors = await runbooks("backtest", path, "--since", "1h", "--all", "--json")
        assert status == 0, errors
        report = orjson.loads(out)
        assert (report["differences"], report["unknown"], report["same_as_in_force"]) == ([], 0, True), out
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
        assert report["counts"][-1] == {"would": "no_match", "did": "nothing", "anomalies": 5}
    every = {("blocked", guard) for guard in ("cooldown", "max_runs_per_hour", "circuit_breaker", "pause")}
    assert guards >= every | {("runs", None), ("asks", "max_runs_per_hour")}

    stricter = {"name": "plain", **ONE, "cooldown_seconds": 3600}
    path.write_text(json.dumps(stricter))
    status, out, errors = await runbooks("backtest", path, "--since", "1h")
    assert status == 0, errors
    assert "would: blocked (cooldown) execution " in out.splitlines()[0]
    assert "; did: runs" in out.splitlines()[0]
    assert "of 100" not in errors
    assert "records" in errors
    body = {"runbook": stricter}
    status, answer = await api.call("POST", "/api/v1/runbooks/backtest", body, roles=["viewer"])
    assert (status, answer["complete"], answer["differing"]) == (200, True, out.count("; did: runs"))
