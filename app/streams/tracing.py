"""What the agents tell of their records as spans; a worker that exports no traces has none of this.

Contexts travel in the header ``traceparent`` of a record, never in its body: from a producer to the request, and from a
command's sender to whoever carries it out.
"""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from app.clients.traces import Attempt, Traces
from app.core.approval import Approval
from app.core.commands import Command
from app.core.events import (
    CommandEvent,
    Event,
    ExecutionRequested,
    StepFinished,
    StepInterrupted,
    StepPrepared,
    StepSkipped,
)
from app.core.execution import Execution
from app.core.spans import (
    TRACEPARENT,
    SpanContext,
    decided_span,
    ended_span,
    matched_span,
    read_traceparent,
    requested_span,
    sending,
    sent_span,
    trace_of,
)
from app.streams.publisher import Delivery

Headers = Iterable[tuple[str, bytes | None]]
"""Of a record, as aiokafka gives them."""


def context_of(headers: Any) -> SpanContext | None:
    """The span in a record's headers; None where there is none that counts."""
    given: Headers = headers or ()
    found = next((value for name, value in given if name == TRACEPARENT), None)
    return None if found is None else read_traceparent(found.decode("ascii", errors="replace"))


class MatchTracing:
    """What the matcher tells: of anomalies that come with a trace of their producer's."""

    def __init__(self, traces: Traces) -> None:
        """Tell these."""
        self._traces = traces

    def begun(self, message: Any) -> "Matching | None":
        """An anomaly's record is matched; None where its producer traces nothing."""
        came_from = context_of(message.headers)
        if came_from is None:
            return None
        record = f"{message.topic}/{message.partition}/{message.offset}"
        return Matching(self._traces, came_from, record)


class Matching:
    """One anomaly that is matched."""

    def __init__(self, traces: Traces, came_from: SpanContext, record: str) -> None:
        """Begin now."""
        self._traces, self._came_from, self._record = traces, came_from, record
        self._started = traces.now()
        self.context = came_from.child(record)

    def end(self, requests: int) -> None:
        """Tell of it, if its producer tells of its own."""
        if self._came_from.sampled:
            now = self._traces.now()
            self._traces.tell(matched_span(self._came_from, self._record, self._started, now, requests))


class FoldTracing:
    """What the fold tells: how an execution began, waited and ended, and the commands it sent."""

    def __init__(self, traces: Traces) -> None:
        """Tell these."""
        self._traces = traces

    def folded(self, before: Any, event: Event, after: Execution, headers: Any) -> None:
        """An event changed an execution; before: its state, a marker, or None."""
        decided = _decided(before, after) if isinstance(before, Execution) else None
        began = isinstance(event, ExecutionRequested)
        if not (began or decided or after.terminal) or not self._wants(after.execution_id, after.run):
            return
        if began:
            self._traces.tell(requested_span(after, context_of(headers), self._traces.now()))
        if decided is not None:
            self._traces.tell(decided_span(after, *decided, event.at))
        if after.terminal:
            self._traces.tell(ended_span(after))

    def sending(self, command: Command) -> "Sending | None":
        """A command is being sent; None where its trace is not exported."""
        if not self._wants(command.execution_id, command.run):
            return None
        return Sending(self._traces, command, self._traces.now())

    def _wants(self, execution_id: str, run: int) -> bool:
        return self._traces.wants(trace_of(execution_id, run).trace_id)


def _decided(before: Execution, after: Execution) -> tuple[Approval, int] | None:
    """The request for approval that an execution waits for no more, and the step it was about."""
    waited, place = before.waiting, before.standing
    if waited is None or place is None or (after.waiting is not None and after.waiting.number == waited.number):
        return None
    return waited, place.forward(before)


class Sending:
    """One command on its way to the broker."""

    def __init__(self, traces: Traces, command: Command, started: datetime) -> None:
        """Begin at a time."""
        self._traces, self._command, self._started = traces, command, started
        self.context = sending(command)

    def taken(self, delivery: Delivery) -> None:
        """Tell of it once the broker has it."""
        if not delivery.cancelled() and delivery.exception() is None:
            self._traces.tell(sent_span(self._command, self.context, self._started, self._traces.now()))


def result_of(event: CommandEvent) -> str:
    """What an answer says became of its command."""
    match event:
        case StepFinished():
            return event.outcome.outcome
        case StepPrepared():
            return "prepared"
        case StepSkipped():
            return "skipped"
        case StepInterrupted():
            return "interrupted"
        case _:
            return "started"


class CommandTracing:
    """What executors tell: of each command that they carry out."""

    def __init__(self, traces: Traces) -> None:
        """Tell these."""
        self._traces = traces
        self._attempts: dict[str, Attempt] = {}

    def begin(self, command: Command, headers: Any, *, interrupted: bool = False) -> None:
        """A command is carried out from now on; interrupted: it is only said that nobody will.

        What its sender decided about its trace holds, so that a trace is whole or not there; one that was sent without
        a word of it is judged here.
        """
        parent = sending(command)
        told = context_of(headers)
        if told is None or told.trace_id != parent.trace_id:
            is_wanted = self._traces.wants(parent.trace_id)
        else:
            is_wanted, parent = told.sampled, told
        if is_wanted:
            attempt = Attempt.at(self._traces, command, parent, interrupted=interrupted)
            self._attempts[command.command_id] = attempt

    def find(self, command_id: str) -> Attempt | None:
        """A command that is being carried out; None where nothing is told of it."""
        return self._attempts.get(command_id)

    def came_to(self, command_id: str, result: str) -> None:
        """Something became of it; the last word counts."""
        attempt = self._attempts.get(command_id)
        if attempt is not None:
            attempt.result = result

    def end(self, command_id: str) -> None:
        """It is over."""
        attempt = self._attempts.pop(command_id, None)
        if attempt is not None:
            attempt.end()
