"""Spans: ids that every worker derives alike, contexts as W3C writes them, and what of an execution they tell."""

import re
from datetime import timedelta

import pytest
from building import T0, http, scale, slack, story
from hypothesis import given
from hypothesis import strategies as st

from app.core.commands import NoticeCommand
from app.core.lifecycle import decide
from app.core.spans import (
    SpanContext,
    carried_out,
    carried_out_span,
    decided_span,
    ended_span,
    matched_span,
    read_traceparent,
    requested_span,
    sending,
    sent_span,
    trace_of,
)

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{TRACE}-{PARENT}-01"
LATER = T0 + timedelta(seconds=9)
METRIC = {"metric_name": "m", "check_after_minutes": 1, "rollback_if_value_exceeds": 1.0}


class TestTraceparent:
    def test_the_specifications_own_example(self):
        assert read_traceparent(GOOD) == SpanContext(int(TRACE, 16), int(PARENT, 16), sampled=True)
        assert read_traceparent(GOOD).header == GOOD

    @pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
    def test_one_flag_counts(self, flags, sampled):
        assert read_traceparent(f"00-{TRACE}-{PARENT}-{flags}").sampled is sampled

    @pytest.mark.parametrize("more", ["", "-", "-what later versions say"])
    def test_a_later_version_counts_as_far_as_it_is_known(self, more):
        assert read_traceparent(f"cc-{TRACE}-{PARENT}-01{more}").header == GOOD

    @pytest.mark.parametrize(
        "given",
        [
            None,
            "",
            "garbage",
            f"00-{TRACE}-{PARENT}",
            f"00-{TRACE}-{PARENT}-01-more",
            f"00-{TRACE}-{PARENT}-01 ",
            f"00-{TRACE}-{PARENT}-01\n",
            f"00-{TRACE.upper()}-{PARENT}-01",
            f"00-{TRACE}-{PARENT}-0g",
            f"00-{TRACE[1:]}-{PARENT}-01",
            f"ff-{TRACE}-{PARENT}-01",
            f"cc-{TRACE}-{PARENT}-01.more",
            f"00-{'0' * 32}-{PARENT}-01",
            f"00-{TRACE}-{'0' * 16}-01",
        ],
    )
    def test_what_is_none_does_not_count(self, given):
        assert read_traceparent(given) is None

    @given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
    def test_what_is_written_is_read(self, trace_id, span_id, sampled):
        context = SpanContext(trace_id, span_id, sampled)
        assert read_traceparent(context.header) == context

    @given(st.text())
    def test_nothing_breaks_it(self, given):
        context = read_traceparent(given)
        assert context is None or re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-0[01]", context.header)


def test_an_executions_trace_is_always_the_same_and_another_runs_is_another():
    assert trace_of("e", 7) == trace_of("e", 7)
    assert trace_of("e", 7).header == "00-39b84d2ba9daadc5ad9aac8cf7699939-3aced6d9568cb863-01"  # and in later versions
    assert len({trace_of("e", 7).trace_id, trace_of("e", 8).trace_id, trace_of("f", 7).trace_id}) == 3


def test_a_match_stands_in_its_producers_trace():
    came_from = read_traceparent(GOOD)
    span = matched_span(came_from, "anomaly-events/0/5", T0, LATER, 2)
    assert (span.context.trace_id, span.parent) == (came_from.trace_id, came_from)
    assert span.context == matched_span(came_from, "anomaly-events/0/5", LATER, LATER, 2).context
    assert span.attributes["runbooks.requests"] == 2


def test_a_request_is_linked_to_whoever_asked():
    s = story(slack())
    span = requested_span(s.state, read_traceparent(GOOD), LATER)
    first = trace_of("e", s.state.run)
    assert (span.parent, span.context.trace_id, span.link) == (first, first.trace_id, read_traceparent(GOOD))
    assert (span.started, span.ended, span.error) == (T0, LATER, None)


def test_an_execution_is_the_first_span_of_its_trace():
    s = story(slack()).at(3).does()
    span = ended_span(s.state)
    assert (span.context, span.parent) == (trace_of("e", s.state.run), None)
    assert (span.started, span.ended, span.error) == (T0, T0 + timedelta(seconds=3), None)
    assert span.name == "runbook r"
    assert span.attributes == {
        "runbooks.tenant": "default",
        "runbooks.execution_id": "e",
        "runbooks.runbook": "r",
        "runbooks.version": 1,
        "runbooks.status": "succeeded",
        "runbooks.dry_run": False,
    }


def test_one_that_failed_is_an_error_and_one_that_was_rejected_is_none():
    assert ended_span(story(slack()).does("failed", "no").state).error == "failed"
    rejected = story(scale(require_approval=True)).prepared().decided("reject")
    assert (rejected.status, ended_span(rejected.state).error) == ("halted", None)


def test_a_rollback_by_itself_is_part_of_the_execution_and_one_by_hand_has_a_span_of_its_own():
    by_itself = story(scale(), slack(), rollback_on_failure=True).does(inverse=True).does("failed", "no").does()
    assert by_itself.status == "rolled_back"
    assert (ended_span(by_itself.state).parent, ended_span(by_itself.state).error) == (None, "rolled_back")
    s = story(scale()).does(inverse=True)
    whole = ended_span(s.state)
    taken_back = ended_span(s.at(60).back().at(70).does().state)
    assert (taken_back.parent, taken_back.name) == (whole.context, "roll back r")
    assert taken_back.context.span_id != whole.context.span_id
    assert (taken_back.started, taken_back.ended) == (T0 + timedelta(seconds=60), T0 + timedelta(seconds=70))


def test_waiting_for_approval_takes_as_long_as_it_took():
    s = story(scale(require_approval=True)).at(2).prepared()
    span = decided_span(s.state, s.state.waiting, 0, T0 + timedelta(seconds=50))
    assert (span.started, span.ended - span.started) == (T0 + timedelta(seconds=2), timedelta(seconds=48))
    assert (span.parent, span.attributes["runbooks.step"]) == (trace_of("e", s.state.run), 0)


def test_a_command_is_sent_and_carried_out_in_the_trace_of_its_execution():
    s = story(http())
    command = s.command
    sent = sent_span(command, sending(command), T0, LATER)
    assert (sent.name, sent.context, sent.parent) == (
        "send step-commands.http",
        sending(command),
        trace_of("e", s.state.run),
    )
    context = carried_out(command, interrupted=False)
    done = carried_out_span(command, context, sent.context, T0, LATER, "unknown")
    assert (done.name, done.parent, done.error) == ("http POST", sent.context, "unknown")
    assert done.attributes == {
        "runbooks.tenant": "default",
        "runbooks.execution_id": "e",
        "runbooks.command_id": command.command_id,
        "runbooks.phase": "apply",
        "runbooks.step": 0,
        "runbooks.attempt": 1,
        "messaging.system": "kafka",
        "runbooks.result": "unknown",
    }
    assert carried_out_span(command, context, sent.context, T0, LATER, "succeeded").error is None


def test_what_may_happen_beside_each_other_has_ids_of_its_own():
    command = story(http()).command
    revoked = command.model_copy(update={"revoked": True})
    contexts = {
        trace_of("e", 1),
        sending(command),
        sending(revoked),
        carried_out(command, interrupted=False),
        carried_out(command, interrupted=True),
        sending(command.model_copy(update={"command_id": command.command_id + "2"})),
    }
    assert len(contexts) == len({context.span_id for context in contexts}) == 6
    assert len({context.trace_id for context in contexts}) == 1


def test_every_kind_of_command_is_told_of_by_what_it_is():
    asked = story(scale(require_approval=True, approval_channel="#ops")).prepared()
    (notice,) = (command for command in decide(asked.state) if isinstance(command, NoticeCommand))
    reading = story(slack(), rollback_metric_check=METRIC).before_command
    told = [
        carried_out_span(one, carried_out(one, interrupted=False), sending(one), T0, T0, "x")
        for one in (notice, reading)
    ]
    assert [span.name for span in told] == ["slack approval message", "read metric"]
    assert told[0].attributes["runbooks.step"] == 0
    assert told[1].attributes["runbooks.attempt"] == 1
