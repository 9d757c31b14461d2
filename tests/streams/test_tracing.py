"""What agents tell as spans, through the real SDK into memory."""

import subprocess
import sys
from types import SimpleNamespace

import pytest
from building import T0, http, scale, slack, story
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from app.clients.opentelemetry_export import exported
from app.core.errors import ConfigurationError
from app.core.spans import carried_out, read_traceparent, sending, trace_of
from app.settings import TraceSettings
from app.streams.log import headers_of
from app.streams.tracing import CommandTracing, FoldTracing, MatchTracing, context_of
from app.tracing import traces_of

PRODUCERS = read_traceparent("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")


class Bench:
    """Traces into memory; told: the spans, by name."""

    def __init__(self):
        self.memory = InMemorySpanExporter()
        self.traces = exported("me", lambda: T0, to_targets=False, processor=SimpleSpanProcessor(self.memory))

    @property
    def told(self):
        return self.memory.get_finished_spans()

    @property
    def names(self):
        return [span.name for span in self.told]

    def fold(self, events, headers=()):
        """What the fold of a story's events tells."""
        tracing, before = FoldTracing(self.traces), None
        for event, after in events:
            tracing.folded(before, event, after, headers)
            before = after


@pytest.fixture
def bench():
    return Bench()


def folds(told):
    """The events of a story, each with the state after it."""
    again = story(slack())
    again.offset, again.events, again.state = 0, [], None
    return [(event, again.tell(event).state) for event in told.events]


def hex_of(context):
    return f"{context.trace_id:032x}", f"{context.span_id:016x}"


class TestHeaders:
    def test_a_span_is_read_from_what_was_written(self):
        assert context_of([("other", b"x"), *headers_of(PRODUCERS)]) == PRODUCERS

    @pytest.mark.parametrize(
        "headers", [None, (), [("traceparent", None)], [("traceparent", b"\xff\xfe")], [("x", b"y")]]
    )
    def test_what_is_no_span_is_none(self, headers):
        assert context_of(headers) is None

    def test_nothing_is_written_where_nothing_is_traced(self):
        assert headers_of(None) == []


class TestMatching:
    def record(self, context):
        headers = headers_of(context)
        return SimpleNamespace(topic="anomaly-events", partition=3, offset=7, headers=headers)

    def test_an_anomaly_is_matched_in_its_producers_trace(self, bench):
        matching = MatchTracing(bench.traces).begun(self.record(PRODUCERS))
        matching.end(2)
        (span,) = bench.told
        assert (span.name, hex_of(span.context)) == ("match anomaly", hex_of(matching.context))
        assert hex_of(span.parent) == hex_of(PRODUCERS)
        assert span.attributes["runbooks.requests"] == 2

    def test_a_producer_that_tells_nobody_of_its_trace_is_linked_and_no_more(self, bench):
        matching = MatchTracing(bench.traces).begun(self.record(PRODUCERS._replace(sampled=False)))
        matching.end(1)
        assert bench.told == ()
        assert matching.context.header.endswith("-00")

    def test_one_that_traces_nothing_costs_nothing(self, bench):
        assert MatchTracing(bench.traces).begun(self.record(None)) is None


class TestFolding:
    def test_an_execution_is_told_from_its_request_to_its_end(self, bench):
        s = story(scale(require_approval=True)).at(1).prepared().at(9).decided().at(10).does()
        bench.fold(folds(s), headers_of(PRODUCERS))
        assert bench.names == ["request execution", "wait for approval", "runbook r"]
        asked, waited, whole = bench.told
        assert [hex_of(link.context) for link in asked.links] == [hex_of(PRODUCERS)]
        assert hex_of(whole.context) == hex_of(trace_of("e", 1))
        assert hex_of(waited.parent) == hex_of(asked.parent) == hex_of(whole.context)
        assert (whole.parent, whole.links) == (None, ())
        assert waited.end_time - waited.start_time == 8_000_000_000
        assert whole.end_time - whole.start_time == 10_000_000_000
        assert whole.status.status_code is StatusCode.UNSET

    def test_folded_again_after_a_rebalance_it_is_the_same_spans(self, bench):
        s = story(slack()).at(5).does("failed", "no")
        bench.fold(folds(s))
        bench.fold(folds(s))
        first, second = bench.told[:2], bench.told[2:]
        assert [span.context for span in first] == [span.context for span in second]
        assert first[1].status.status_code is StatusCode.ERROR
        assert (first[1].start_time, first[1].end_time) == (second[1].start_time, second[1].end_time)

    def test_a_request_that_is_made_anew_ends_the_wait_for_the_one_before(self, bench):
        s = story(scale(require_approval=True)).prepared()
        for drift in ("other", "another"):
            s.decided()
            s.prepared(s.state.steps[0].plan.model_copy(update={"summary": drift, "digest": drift}))
        bench.fold(folds(s))
        assert bench.names == ["request execution", "wait for approval", "wait for approval"]
        assert len({span.context.span_id for span in bench.told}) == 3

    def test_a_command_is_told_once_the_broker_has_it(self, bench):
        command = story(http()).command
        on_its_way = FoldTracing(bench.traces).sending(command)
        assert bench.told == ()
        on_its_way.taken(Delivered(None))
        (span,) = bench.told
        assert (span.name, hex_of(span.context)) == ("send step-commands.http", hex_of(on_its_way.context))

    @pytest.mark.parametrize("error", [OSError(), "cancelled"])
    def test_one_that_the_broker_did_not_take_is_not_told(self, bench, error):
        FoldTracing(bench.traces).sending(story(http()).command).taken(Delivered(error))
        assert bench.told == ()


class Delivered:
    """A delivery that is done."""

    def __init__(self, error):
        self.error = error

    def cancelled(self):
        return self.error == "cancelled"

    def exception(self):
        return self.error


class TestCommands:
    COMMAND = story(http()).command

    def carried(self, bench, headers, result="succeeded", **fields):
        tracing = CommandTracing(bench.traces)
        tracing.begin(self.COMMAND, headers, **fields)
        if result:
            tracing.came_to(self.COMMAND.command_id, result)
        tracing.end(self.COMMAND.command_id)
        tracing.end(self.COMMAND.command_id)
        return bench.told

    def test_it_hangs_from_the_span_that_sent_it(self, bench):
        (span,) = self.carried(bench, headers_of(sending(self.COMMAND)), "unknown")
        assert hex_of(span.parent) == hex_of(sending(self.COMMAND))
        assert hex_of(span.context) == hex_of(carried_out(self.COMMAND, interrupted=False))
        assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, "unknown")

    @pytest.mark.parametrize("headers", [(), headers_of(PRODUCERS)], ids=["none", "of another trace"])
    def test_without_a_word_of_its_sender_it_stands_where_it_would_have(self, bench, headers):
        (span,) = self.carried(bench, headers)
        assert hex_of(span.parent) == hex_of(sending(self.COMMAND))

    def test_what_its_sender_tells_nobody_of_is_not_told(self, bench):
        assert self.carried(bench, headers_of(sending(self.COMMAND)._replace(sampled=False))) == ()

    def test_what_came_to_nothing_is_another_workers_to_tell(self, bench):
        assert self.carried(bench, (), result=None) == ()

    def test_that_nobody_will_carry_it_out_is_a_span_of_its_own(self, bench):
        (span,) = self.carried(bench, (), "interrupted", interrupted=True)
        assert hex_of(span.context) == hex_of(carried_out(self.COMMAND, interrupted=True))


def test_a_sampler_that_wants_none_is_asked_before_anything_is_made(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_off")
    bench = Bench()
    command = story(http()).command
    assert FoldTracing(bench.traces).sending(command) is None
    CommandTracing(bench.traces).begin(command, ())
    bench.fold(folds(story(slack()).does()))
    assert bench.told == ()


def test_all_workers_sample_the_same_traces(monkeypatch):
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.5")
    traces = [trace_of("e", run).trace_id for run in range(200)]
    one, other = ([Bench().traces.wants(trace) for trace in traces] for _ in range(2))
    assert one == other
    assert 50 < sum(one) < 150


def test_a_service_bears_the_name_that_the_environment_gives_it(monkeypatch):
    monkeypatch.setenv("OTEL_SERVICE_NAME", "remediation")
    bench = Bench()
    bench.fold(folds(story(slack())))
    resource = bench.told[0].resource.attributes
    assert (resource["service.name"], resource["service.instance.id"]) == ("remediation", "me")


def test_wanted_without_the_packages_is_one_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    monkeypatch.delitem(sys.modules, "app.clients.opentelemetry_export")
    with pytest.raises(ConfigurationError, match=r"infrasage-runbooks\[otel\]"):
        traces_of(TraceSettings(enabled=True), "me")


def test_not_wanted_nothing_of_them_is_loaded():
    said = "import sys, app.main, app.step_worker; print([one for one in sys.modules if 'opentelemetry' in one])"
    done = subprocess.run([sys.executable, "-c", said], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert traces_of(TraceSettings(), "me") is None
