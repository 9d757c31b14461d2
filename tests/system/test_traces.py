"""Traces of real workers, as a collector gets them over OTLP."""

import signal

import pytest
from collector import running_collector
from processes import Api, WorkerProcess, http_worker, incident, run_command

from app.core.spans import trace_of

PRODUCERS = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADERS = [("traceparent", f"00-{PRODUCERS[0]}-{PRODUCERS[1]}-01".encode())]
ANOMALY = {"anomaly_id": "a", "service_id": "s", "metric_name": "m", "note": "nobody else's business"}
RUNBOOK = {
    "name": "traced",
    "trigger": {"service_id": "s"},
    "steps": [
        {"type": "slack", "channel": "#ops", "message": "{{ anomaly.note }}"},
        incident("{{ anomaly.note }}"),
    ],
}
NAMES = {
    "runbook traced",
    "request execution",
    "send step-commands.slack",
    "slack message",
    "send step-commands.http",
    "http POST",
    "POST",
}


@pytest.fixture
async def collector():
    async with running_collector() as running:
        yield running


@pytest.fixture
def environment(environment, collector):
    return environment | {
        "RUNBOOKS_TRACES__ENABLED": "true",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-team=sre",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "RUNBOOKS_WORKER__ELSEWHERE": '["http"]',
    }


@pytest.fixture
async def near(environment, tmp_path, unused_tcp_port_factory, session):
    """A worker for http steps alone."""
    port = unused_tcp_port_factory()
    process = http_worker(environment, tmp_path, port)
    await process.start()
    try:
        await process.ready(Api(f"http://127.0.0.1:{port}", session))
        yield process
    finally:
        await process.end(signal.SIGKILL)


def trace_in(records, execution_id):
    """The record of an execution's request, and the id of its trace in hex."""
    asked = (one for one in records if b'"execution_requested"' in one.value and execution_id.encode() in one.value)
    request = next(asked)
    return request, f"{trace_of(execution_id, request.offset).trace_id:032x}"


async def test_two_steps_on_two_workers_are_one_trace(worker, near, api, publish, read_topic, collector, environment):
    await api.put_runbook(RUNBOOK)
    await publish("anomaly-events", ANOMALY, headers=HEADERS)
    (item,) = await api.ended(1)
    records = await read_topic("execution-events")
    request, trace = trace_in(records, item["execution_id"])
    spans = {span.name: span for span in await collector.spans_of(trace, NAMES)}
    assert set(spans) == NAMES
    (matched,) = await collector.spans_of(PRODUCERS[0], {"match anomaly"})
    assert matched.parent == PRODUCERS[1]

    parents = {span.id: name for name, span in spans.items()}
    assert {name: parents.get(span.parent, "") for name, span in spans.items()} == {
        "runbook traced": "",
        "request execution": "runbook traced",
        "send step-commands.slack": "runbook traced",
        "slack message": "send step-commands.slack",
        "send step-commands.http": "runbook traced",
        "http POST": "send step-commands.http",
        "POST": "http POST",
    }
    assert spans["request execution"].links == ((PRODUCERS[0], matched.id),)
    assert spans["runbook traced"].attributes["runbooks.status"] == "succeeded"
    assert spans["POST"].attributes["http.response.status_code"] == 201
    assert all(span.started <= span.ended and not span.error for span in spans.values())
    call, attempt = spans["POST"], spans["http POST"]
    assert attempt.started <= call.started <= call.ended <= attempt.ended

    instances = {name: span.resource["service.instance.id"] for name, span in spans.items()}
    assert instances["slack message"] == instances["runbook traced"] != instances["http POST"] == instances["POST"]
    assert {span.resource["service.name"] for span in spans.values()} == {"infrasage-runbooks"}
    assert collector.headers[0]["x-team"] == "sre"
    assert "business" not in str(collector.spans)  # what steps work with is told to nobody

    assert dict(request.headers)["traceparent"].decode() == f"00-{PRODUCERS[0]}-{matched.id}-01"
    assert not [one for one in records if trace.encode() in one.value or PRODUCERS[0].encode() in one.value]
    (command,) = await read_topic("step-commands.http")
    assert dict(command.headers)["traceparent"].decode() == f"00-{trace}-{spans['send step-commands.http'].id}-01"
    status, printed = await run_command(environment, "audit", "verify")
    assert status == 0, printed  # neither hashes nor folds know of headers


async def test_a_worker_that_takes_over_goes_on_with_the_trace(
    environment, api, publish, read_topic, collector, tmp_path
):
    own = environment | {"RUNBOOKS_WORKER__ELSEWHERE": ""}
    first, second = (WorkerProcess(own, tmp_path / f"{name}.log") for name in ("first", "second"))
    steps = [RUNBOOK["steps"][0], RUNBOOK["steps"][1] | {"require_approval": True}]
    try:
        await first.start()
        await first.ready(api)
        await api.put_runbook(RUNBOOK | {"steps": steps})
        await publish("anomaly-events", ANOMALY)
        item = await api.waiting()
        _, begun = trace_in(await read_topic("execution-events"), item["execution_id"])
        await collector.spans_of(begun, {"request execution", "slack message"})
        await first.end(signal.SIGKILL)
        await second.start()
        await second.ready(api)
        await api.approve()
        await api.ended(1)
        spans = await collector.spans_of(begun, {"runbook traced", "wait for approval", "POST"})
    finally:
        await first.end(signal.SIGKILL)
        await second.end(signal.SIGKILL)
    of_each = [{span.name for span in spans if span.resource["service.instance.id"] == one} for one in instances(spans)]
    assert "slack message" in of_each[0]
    assert {"runbook traced", "wait for approval", "POST"} <= of_each[1]
    assert {span.trace for span in collector.spans} == {begun}
    assert [span.name for span in spans if not span.parent] == ["runbook traced"]


def instances(spans):
    """Who told, in the order in which they first did."""
    return list(dict.fromkeys(span.resource["service.instance.id"] for span in spans))


async def test_a_collector_that_is_away_is_in_nobodys_way(worker, near, api, publish, collector, environment):
    collector.is_away = True
    await api.put_runbook(RUNBOOK)
    await publish("anomaly-events", ANOMALY)
    (item,) = await api.ended(1)
    assert item["status"] == "succeeded"
    assert await worker.end() == 0
    assert collector.spans == []
