"""From an anomaly on Kafka to the history, through the real worker process."""

import asyncio
import shutil
import signal
import subprocess
from pathlib import Path

from processes import ANOMALY, DEMO_RUNBOOK, incident
from waiting import until

from app.core.events import read_event
from app.core.lifecycle import evolve

WATCHED = {
    "name": "watched",
    "trigger": {"service_id": "s", "condition": "value > 10.0"},
    "steps": [incident()],
}


def anomaly(**fields):
    return {"service_id": "s", "metric_name": "m", "value": 11, **fields}


async def test_the_product_pages_example_runs_from_anomaly_to_history(worker, api, publish, stand_ins):
    await api.put_runbook(DEMO_RUNBOOK)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a-1"})
    await api.approve()
    (item,) = await api.ended(1, "service_id=payment-api")
    assert item["status"] == "succeeded", item
    assert (item["runbook_name"], item["runbook_version"]) == ("scale-out-payment-api", 1)
    assert item["trigger_anomaly_id"] == "a-1"
    assert [step["status"] for step in item["steps"]] == ["succeeded"] * 3
    assert item["steps"][1]["summary"] == "Scale production/payment-api from 3 to 5"
    assert item["steps"][2]["output"]["status"] == 201
    assert item["approvers"] == ["tester"]
    assert item["rollback"]["status"] == "none"
    assert item["duration_seconds"] > 0
    assert stand_ins.replicas == {"production/payment-api": 5}
    assert [message["text"] for message in stand_ins.messages] == [DEMO_RUNBOOK["steps"][0]["message"]]
    assert len(stand_ins.incidents) == 1
    assert "pagerduty-stand-in" not in str(item)


async def test_the_same_anomaly_three_times_starts_one_execution_and_different_ones_start_each(
    worker, api, publish, stand_ins
):
    await api.put_runbook(WATCHED)
    same = anomaly(anomaly_id="same")
    await publish("anomaly-events", same, same)
    await publish("anomaly-events", same, *(anomaly(anomaly_id=f"n-{number}") for number in range(7)), key=b"k")
    items = await api.ended(8)
    assert len(items) == 8
    assert sorted(i["title"] for i in stand_ins.incidents.values()) == sorted(["same", *(f"n-{n}" for n in range(7))])


async def test_events_without_an_id_are_told_apart_by_their_place(worker, api, publish):
    await api.put_runbook(WATCHED)
    await publish("anomaly-events", anomaly(), anomaly())
    assert len(await api.ended(2)) == 2


async def test_the_limit_holds_under_a_burst_and_all_finish_in_log_order(worker, api, publish, session):
    running, most, order = set(), [], []
    release = asyncio.Event()

    async def slow(request):
        body = await request.json()
        running.add(body["title"])
        order.append(body["title"])
        most.append(len(running))
        await release.wait()
        running.discard(body["title"])
        return aiohttp_json({})

    from aiohttp import web
    from aiohttp.test_utils import TestServer

    def aiohttp_json(value):
        return web.json_response(value)

    server = web.Application()
    server.router.add_post("/", slow)
    async with TestServer(server) as target:
        await api.put_runbook(
            {
                **WATCHED,
                "steps": [
                    {
                        "type": "http",
                        "method": "POST",
                        "url": str(target.make_url("/")),
                        "body": {"title": "{{ anomaly.anomaly_id }}"},
                    }
                ],
            }
        )
        await publish("anomaly-events", *(anomaly(anomaly_id=f"{number:03}") for number in range(30)), key=b"one")

        async def three_run_and_the_rest_waits():
            items = await api.history()
            return len(items) == 30 and len(running) == 3 and [i["status"] for i in items].count("queued") == 27

        await until(three_run_and_the_rest_waits)
        release.set()
        items = await api.ended(30)
    assert {item["status"] for item in items} == {"succeeded"}
    assert max(most) == 3
    # Commands of three executions travel at once, so an execution may be overtaken by the two that run beside it.
    assert all(int(title) - place <= 2 for place, title in enumerate(order))


async def test_an_unreadable_record_goes_to_dead_letters_and_the_stream_goes_on(worker, api, publish, read_topic):
    await api.put_runbook(WATCHED)
    await publish("anomaly-events", b"{", b'{"service_id":"s","metric_name":"m","value":NaN}', anomaly(), key=b"k")
    await publish("execution-events", b"not an event", key=b"default")
    await publish("step-commands.http", b"not a command", key=b"x")
    await publish("approval-decisions", b"not a decision", key=b"default")
    assert len(await api.ended(1)) == 1

    async def five_letters():
        letters = await read_topic("dead-letters")
        return letters if len(letters) == 5 else None

    letters = await until(five_letters)
    headers = [dict(letter.headers) for letter in letters]
    assert {one["source-topic"] for one in headers} == {
        b"anomaly-events",
        b"execution-events",
        b"step-commands.http",
        b"approval-decisions",
    }
    assert any(b"value: nan is not a finite number" in one["error"] for one in headers)
    assert all({"source-partition", "source-offset"} <= set(one) for one in headers)


async def test_history_and_tables_come_back_from_the_log(worker, api, publish, environment, stand_ins):
    await api.put_runbook(WATCHED)
    await publish("anomaly-events", *(anomaly(anomaly_id=f"n-{number}") for number in range(5)))
    before = await api.ended(5)
    assert await worker.end(signal.SIGTERM) == 0
    data = Path(environment["RUNBOOKS_DATA_DIR"])
    for path in data.glob("history.db*"):
        path.unlink()
    shutil.rmtree(data / "faust", ignore_errors=True)
    await worker.start()
    await worker.ready(api)
    assert await api.ended(5) == before
    await publish("anomaly-events", anomaly(anomaly_id="n-0"), anomaly(anomaly_id="new"))
    after = await api.ended(6)
    assert len(after) == 6
    assert len(stand_ins.incidents) == 6


async def test_killed_in_the_middle_nothing_is_lost_and_nothing_is_doubled(worker, api, publish, stand_ins):
    await api.put_runbook(WATCHED)
    await publish("anomaly-events", *(anomaly(anomaly_id=f"n-{number}") for number in range(60)))

    async def some():
        return len(stand_ins.incidents) >= 5

    await until(some)
    await worker.end(signal.SIGKILL)
    await worker.start()
    await worker.ready(api)

    async def settled():
        items = await api.history()
        done = [item for item in items if item["finished_at"] or item["status"] == "attention"]
        return items if len(done) == 60 else None

    items = await until(settled, 90)
    titles = [incident["title"] for incident in stand_ins.incidents.values()]
    assert len(titles) == len(set(titles))
    assert {item["trigger_anomaly_id"] for item in items if item["status"] == "succeeded"} <= set(titles)
    assert {item["status"] for item in items} <= {"succeeded", "attention"}


async def test_the_audit_log_and_the_history_agree(worker, api, publish, read_topic):
    await api.put_runbook(WATCHED)
    await publish("anomaly-events", *(anomaly(anomaly_id=f"n-{number}") for number in range(4)))
    items = {item["execution_id"]: item for item in await api.ended(4)}
    states = {}
    for record in await read_topic("execution-events"):
        event = read_event(record.value)
        states[event.execution_id] = evolve(states.get(event.execution_id), event, record.offset).execution
    assert {key: state.status.value for key, state in states.items()} == {k: v["status"] for k, v in items.items()}


async def test_an_approval_through_the_api(worker, api, publish, stand_ins):
    guarded = {**WATCHED, "steps": [{**WATCHED["steps"][0], "require_approval": True}]}
    await api.put_runbook(guarded)
    await publish("anomaly-events", anomaly(anomaly_id="x"))
    item = await api.waiting()
    assert stand_ins.incidents == {}
    path = f"/api/v1/executions/{item['execution_id']}/approvals"
    assert (await api.call("POST", path, {"decision": "approve"}, roles=["operator"]))[0] == 403
    assert (await api.call("POST", path, {"decision": "approve"}, tenant="other"))[0] == 404
    status, _ = await api.call("POST", path, {"decision": "approve", "comment": "go"}, roles=["approver"])
    assert status == 200
    (done,) = await api.ended(1)
    assert done["status"] == "succeeded"
    assert done["approvers"] == ["tester"]
    assert done["steps"][0]["approval"]["comment"] == "go"


async def test_a_forged_decision_is_recorded_and_does_nothing(worker, api, publish, stand_ins, read_topic):
    await api.put_runbook({**WATCHED, "steps": [{**WATCHED["steps"][0], "require_approval": True}]})
    await publish("anomaly-events", anomaly(anomaly_id="x"))
    item = await api.waiting()
    forged = {
        "tenant": "default",
        "execution_id": item["execution_id"],
        "step": 0,
        "decision": "approve",
        "by": "eve",
        "source": "api",
        "at": item["requested_at"],
        "key_id": "api",
        "signature": "00",
    }
    await publish("approval-decisions", forged, key=b"default")

    async def recorded():
        return [r for r in await read_topic("execution-events") if b"approval_decided" in r.value]

    (record,) = await until(recorded)
    assert read_event(record.value).refusal == "the decision's signature does not hold"
    assert (await api.get(f"/api/v1/executions/{item['execution_id']}"))["status"] == "awaiting_approval"
    assert stand_ins.incidents == {}


async def test_a_failed_step_takes_the_others_back(worker, api, publish, stand_ins):
    broken = {**DEMO_RUNBOOK["steps"][2], "headers": {"Authorization": "Token wrong"}}
    await api.put_runbook({**DEMO_RUNBOOK, "steps": [*DEMO_RUNBOOK["steps"][:2], broken]})
    await publish("anomaly-events", ANOMALY)
    await api.approve()
    (item,) = await api.ended(1)
    assert item["status"] == "rolled_back"
    assert stand_ins.replicas == {"production/payment-api": 3}
    assert [step["status"] for step in item["rollback"]["steps"]] == ["succeeded", "manual"]
    assert item["rollback"]["status"] == "partial"


def test_the_worker_says_what_is_wrong_with_the_broker(tmp_path):
    environment = {"RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1", "RUNBOOKS_DATA_DIR": str(tmp_path)}
    done = subprocess.run(
        [".venv/bin/runbooks", "worker"], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("runbooks: no Kafka broker answers at 127.0.0.1:1")
