"""Guards through the real worker and Kafka: every request is started, or skipped with its reason in the log."""

import asyncio
import signal

import pytest
from processes import incident, on_cluster
from waiting import until

CALL = incident()
ONE = {"name": "one", "trigger": {"service_id": "s"}, "steps": [CALL]}


def anomalies(*names: str):
    return [{"anomaly_id": name, "service_id": "s", "metric_name": "m"} for name in names]


async def by_name(api, count: int, **fields):
    return {item["trigger_anomaly_id"]: item for item in await api.ended(count, **fields)}


async def test_a_cooldown_holds_over_a_restart(worker, api, publish, stand_ins):
    await api.put_runbook({**ONE, "cooldown_seconds": 3600})
    await publish("anomaly-events", *anomalies("a", "b"), key=b"k")
    items = await by_name(api, 2)
    assert {name: item["status"] for name, item in items.items()} == {"a": "succeeded", "b": "skipped"}
    assert items["b"]["reason"].startswith("cooldown: execution ")
    await worker.end(signal.SIGKILL)
    await worker.start()
    await worker.ready(api)
    await publish("anomaly-events", *anomalies("c"), key=b"k")
    items = await by_name(api, 3)
    assert f"execution {items['a']['execution_id']} of this runbook acted on service/s until" in items["c"]["reason"]
    assert [one["title"] for one in stand_ins.incidents.values()] == ["a"]
    trail = (await api.get(f"/api/v1/executions/{items['c']['execution_id']}/events"))["items"]
    assert [entry["event"]["type"] for entry in trail] == ["execution_requested", "start_judged"]


async def test_over_the_limit_a_person_is_asked(worker, api, publish, stand_ins):
    await api.put_runbook({**ONE, "max_runs_per_hour": 1, "when_exceeded": "approve"})
    await publish("anomaly-events", *anomalies("a", "b"), key=b"k")
    waiting = await api.waiting()
    assert waiting["reason"] == "max_runs_per_hour: 1 runs in the last hour, and 1 may be"
    await api.approve()
    items = await by_name(api, 2)
    assert {item["status"] for item in items.values()} == {"succeeded"}
    assert len(stand_ins.incidents) == 2


async def test_a_breaker_opens_after_failures_in_a_row(worker, api, publish, stand_ins):
    broken = {**CALL, "headers": {}}
    await api.put_runbook({**ONE, "steps": [broken], "circuit_breaker": {"failures": 2}})
    for count, name in enumerate(("a", "b", "c"), start=1):
        await publish("anomaly-events", *anomalies(name), key=b"k")
        items = await by_name(api, count)
    assert [items[name]["status"] for name in "abc"] == ["failed", "failed", "skipped"]
    assert items["c"]["reason"].startswith("circuit_breaker: 2 runs in a row failed")


async def test_paused_nothing_starts_and_what_comes_is_skipped_with_who_and_why(worker, api, publish, stand_ins):
    await api.put_runbook(ONE)
    assert (await api.call("PUT", "/api/v1/pauses/freeze", {"reason": "release"}, roles=["operator"]))[0] == 200
    await publish("anomaly-events", *anomalies("a"))
    items = await by_name(api, 1)
    assert (items["a"]["status"], items["a"]["reason"]) == ("skipped", "paused by tester: release")
    assert (await api.call("DELETE", "/api/v1/pauses/freeze", roles=["operator"]))[0] == 204
    await publish("anomaly-events", *anomalies("b"))
    assert (await by_name(api, 2))["b"]["status"] == "succeeded"
    assert [one["title"] for one in stand_ins.incidents.values()] == ["b"]


async def test_paused_after_it_began_the_next_step_waits(worker, api, publish, stand_ins):
    first = {**CALL, "require_approval": True}
    await api.put_runbook({**ONE, "steps": [first, CALL]})
    await publish("anomaly-events", *anomalies("a"))
    waiting = await api.waiting()
    await api.call("PUT", "/api/v1/pauses/freeze", roles=["operator"])
    await api.approve()
    path = f"/api/v1/executions/{waiting['execution_id']}"
    shown = await api.get(path)
    assert (shown["status"], shown["paused"]) == ("running", "paused by tester")
    assert stand_ins.incidents == {}
    await api.call("DELETE", "/api/v1/pauses/freeze", roles=["operator"])
    (item,) = await api.ended(1)
    assert (item["status"], len(stand_ins.incidents)) == ("succeeded", 2)


@pytest.fixture
def environment(environment, cluster):
    return environment | on_cluster(cluster)


async def test_two_runbooks_take_turns_on_one_deployment_and_the_holder_is_named(worker, api, publish, world):
    await world.create(replicas=1)
    web = {"namespace": world.namespace, "deployment": "web"}
    for name, replicas in (("first", 2), ("second", 3)):
        steps = [
            {"type": "kubernetes", "action": "scale", **web, "replicas": replicas},
            {"type": "http", "url": "http://127.0.0.1:9/", "require_approval": True, "continue_on_failure": True},
        ]
        await api.put_runbook({"name": name, "trigger": {"service_id": name}, "steps": steps})
    event = {"metric_name": "m"}
    await publish("anomaly-events", {**event, "anomaly_id": "a", "service_id": "first"})
    holder = await api.waiting()
    await publish("anomaly-events", {**event, "anomaly_id": "b", "service_id": "second"})

    async def queued():
        items = await api.history("status=queued")
        return items[0] if items else None

    second = await until(queued)
    shown = await api.get(f"/api/v1/executions/{second['execution_id']}")
    target = f"deployment/{world.namespace}/web"
    assert shown["waits_for"] == {
        "target": target,
        "execution_id": holder["execution_id"],
        "runbook_name": "first",
    }
    assert await world.replicas() == 2
    await api.approve()
    await asyncio.gather(world.has_replicas(3), api.approve())
    items = await api.ended(2)
    assert {item["status"] for item in items} == {"succeeded"}
