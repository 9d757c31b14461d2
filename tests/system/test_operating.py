"""What operators see of a real worker: its metrics, its warnings and its log."""

import json
import re
import signal

import pytest
from metrics_page import Metrics
from processes import incident

WAITS = {**incident(), "require_approval": True}


@pytest.fixture
def figures(api) -> Metrics:
    return Metrics(api)


def anomalies(*names: str):
    return [{"anomaly_id": name, "service_id": "s", "metric_name": "m"} for name in names]


async def test_the_lag_grows_while_nothing_is_read_and_is_gone_afterwards(worker, api, publish, figures, stand_ins):
    await api.put_runbook({"name": "one", "trigger": {"service_id": "s"}, "steps": [incident()]})
    await publish("anomaly-events", *anomalies("a", "b"), key=b"k")
    await api.ended(2)
    topics = ("anomaly-events", "execution-events", "step-commands.http", "approval-decisions")
    for topic in topics:
        await figures.reach(0.0, "runbooks_consumer_lag_events", topic=topic)
    for topic in ("execution-events", "match-decisions"):
        await figures.reach(0.0, "runbooks_projector_lag_events", topic=topic)
        await figures.reach(0.0, "runbooks_projector_lag_seconds", topic=topic)
    assert not re.search("changelog", await figures.text())


async def test_what_waits_for_a_person_and_for_a_slot_is_shown_with_its_age(worker, api, publish, figures):
    await api.put_runbook({"name": "one", "trigger": {"service_id": "s"}, "steps": [WAITS]})
    await publish("anomaly-events", *anomalies(*"abcde"), key=b"k")
    await figures.reach(3.0, "runbooks_waiting_approvals", tenant="default")
    await figures.reach(2.0, "runbooks_queued_executions", tenant="default")
    for name in ("runbooks_oldest_queued_seconds", "runbooks_oldest_approval_seconds"):
        before = await figures.value(name, tenant="default")
        assert before > 0
        assert await figures.value(name, tenant="default") > before


async def test_a_dead_letter_waits_and_warns_and_the_worker_stays_ready(worker, api, publish, figures):
    await figures.reach(0.0, "runbooks_dead_letters_waiting")
    await publish("anomaly-events", b"not an anomaly")
    await figures.reach(1.0, "runbooks_dead_letters_waiting")
    assert await figures.value("runbooks_dead_letters_total", topic="anomaly-events") == 1
    ready = await api.get("/readyz")
    assert (ready["status"], ready["reasons"]) == ("ready", [])
    assert ready["warnings"][0].startswith("1 record was put on dead-letters within the last hour")
    await worker.end(signal.SIGKILL)
    await worker.start()
    await worker.ready(api)
    await figures.reach(1.0, "runbooks_dead_letters_waiting")


async def test_bad_input_forges_no_line_of_the_log(worker, api, publish, figures):
    evil = 'x\n{"level": "ERROR"}\r\x1b[2J\x9b\N{RIGHT-TO-LEFT OVERRIDE}\N{LINE SEPARATOR}'
    records = [b"{" + evil.encode(), {"service_id": evil, "metric_name": 1}, {"service_id": "s", evil: evil}]
    for topic in ("anomaly-events", "execution-events", "approval-decisions", "step-commands.http", "metric-samples"):
        await publish(topic, *records, key=evil.encode())
    await publish("runbook-definitions", *records)
    await figures.reach(15.0, "runbooks_dead_letters_waiting")
    async with api.session.get(f"{api.url}/api/v1/runbooks/%0a%1b", headers={"Authorization": "Bearer x"}) as answer:
        assert answer.status == 401
    lines = worker.log.read_text().split("\n")[:-1]
    assert any("anomaly_refused" in line for line in lines)
    for line in lines:
        assert line.isprintable(), line
        assert {"at", "level", "event"} <= json.loads(line).keys(), line
