"""The agent of metric commands over a fake log and a reader that the test holds back."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from building import T0
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from waiting import until

from app.clients.opentelemetry_export import exported
from app.core.commands import MetricCommand, write_command
from app.core.errors import TemporaryError
from app.core.measuring import Measured, failed
from app.core.runbook import MetricCheck
from app.core.spans import carried_out
from app.streams.figures import Figures
from app.streams.metric_checking import MetricChecker
from app.streams.tracing import CommandTracing

CHECK = MetricCheck(metric_name="m", check_after_minutes=1, rollback_if_value_exceeds=90)


def command(number=1, **fields):
    return MetricCommand(
        command_id=f"e/1/1/metric/{number}",
        tenant="t",
        execution_id="e",
        run=1,
        attempt=number,
        check=CHECK,
        service_id="s",
        **fields,
    )


class Reader:
    """Answers when it may."""

    name = "fake"

    def __init__(self):
        self.go_on, self.begun, self.answer = asyncio.Event(), [], Measured(50.0, "", "value")

    async def read(self, command, at):
        self.begun.append((command.attempt, at))
        await self.go_on.wait()
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Log:
    """Keeps what was published; refuses as often as it is told to."""

    def __init__(self):
        self.events, self.letters, self.refusals = [], [], 0

    async def publish_event(self, event):
        if self.refusals:
            self.refusals -= 1
            raise TemporaryError("the broker is away")
        self.events.append(event)

    async def send_dead_letter(self, source, error):
        self.letters.append((source.value, str(error)))
        return asyncio.ensure_future(asyncio.sleep(0))


class Record:
    """A record as Faust hands it out."""

    def __init__(self, value):
        self.value, self.acked = value, False
        self.message = SimpleNamespace(topic="step-commands.metric", partition=0, offset=1, key=b"e")

    def ack(self):
        self.acked = True


class Bench:
    def __init__(self):
        self.reader, self.log, self.now = Reader(), Log(), T0
        self.registry = CollectorRegistry()
        self.figures = Figures(self.registry)
        self.checker = MetricChecker(self.reader, self.log, lambda: self.now, self.figures, concurrency=2)

    async def take(self, command):
        record = Record(write_command(command))
        await self.checker.take(command, record)
        return record

    def counted(self, result):
        return self.registry.get_sample_value("runbooks_metric_readings_total", {"source": "fake", "result": result})


@pytest.fixture
async def bench():
    bench = Bench()
    yield bench
    await bench.checker.stop()


async def is_true(condition):
    return condition()


async def test_the_answer_says_when_the_reading_began_and_the_command_is_acknowledged_after_it(bench):
    record = await bench.take(command(moment="before"))
    await until(lambda: is_true(lambda: bench.reader.begun))
    bench.now += timedelta(seconds=3)
    assert (bench.log.events, record.acked) == ([], False)
    bench.log.refusals = 1
    bench.reader.go_on.set()
    await until(lambda: is_true(lambda: record.acked))
    (answer,) = bench.log.events
    assert (answer.at, answer.moment, answer.attempt, answer.value, answer.detail) == (T0, "before", 1, 50.0, "")
    assert bench.counted("value") == 1


@pytest.mark.parametrize(
    ("answer", "detail", "result"),
    [
        (failed("x" * 2000), "x" * 1000, "error"),
        (RuntimeError("a fault of ours"), "reading the metric broke: RuntimeError", "error"),
        (Measured(None, "nothing was measured", "no_data"), "nothing was measured", "no_data"),
    ],
)
async def test_whatever_happens_to_a_reading_it_is_answered(bench, answer, detail, result):
    bench.reader.answer = answer
    bench.reader.go_on.set()
    record = await bench.take(command())
    await until(lambda: is_true(lambda: record.acked))
    assert (bench.log.events[0].value, bench.log.events[0].detail) == (None, detail)
    assert bench.counted(result) == 1


async def test_a_few_are_read_at_once_and_no_more(bench):
    taken = [asyncio.create_task(bench.take(command(number))) for number in (1, 2, 3)]
    await until(lambda: is_true(lambda: len(bench.reader.begun) == 2))
    assert bench.checker.in_flight() == 2
    assert not taken[2].done()
    bench.reader.go_on.set()
    for record in await asyncio.gather(*taken):
        await until(lambda record=record: is_true(lambda: record.acked))
    assert sorted(event.attempt for event in bench.log.events) == [1, 2, 3]


async def test_stopped_it_leaves_the_command_to_another_worker(bench):
    record = await bench.take(command())
    await until(lambda: is_true(lambda: bench.reader.begun))
    await bench.checker.stop()
    late = await bench.take(command(2))
    assert (record.acked, late.acked, bench.log.events, bench.checker.in_flight()) == (False, False, [], 0)


async def test_a_reading_is_told_of_by_its_result(bench):
    memory = InMemorySpanExporter()
    traces = exported("me", lambda: T0, to_targets=False, processor=SimpleSpanProcessor(memory))
    bench.checker.tracing = CommandTracing(traces)
    bench.reader.go_on.set()
    record = Record(write_command(command()))
    record.message.headers = None
    await bench.checker.take(command(), record)

    async def told():
        return memory.get_finished_spans()

    (span,) = await until(told)
    assert (span.name, span.attributes["runbooks.result"]) == ("read metric", "value")
    assert span.context.span_id == carried_out(command(), interrupted=False).span_id
