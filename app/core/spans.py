"""Spans: what was done for one execution, and when, as a trace shows it.

Every id is derived from the log, as command ids are: each worker gives the same trace and the same spans whoever took
over from whom, and nothing has to be remembered or recovered. The trace is named by the execution and its run.
Attributes hold ids, names and outcomes; never parameters, outputs or anything else that steps work with.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache
from typing import Literal, NamedTuple, assert_never

from app.core.approval import Approval
from app.core.commands import Command, MetricCommand, NoticeCommand, StepCommand
from app.core.events import ExecutionRequested
from app.core.execution import ENDS, Execution

TRACEPARENT = "traceparent"
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_SAMPLED = 0x01
BAD = frozenset({"failed", "unknown"})

SpanKind = Literal["internal", "producer", "consumer", "client"]
Attributes = Mapping[str, str | int | bool]


class SpanContext(NamedTuple):
    """Where a span stands; sampled: whether it is told to anyone."""

    trace_id: int
    span_id: int
    sampled: bool = True

    @property
    def header(self) -> str:
        """As a ``traceparent``."""
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{'01' if self.sampled else '00'}"

    def child(self, name: str) -> "SpanContext":
        """The span of this trace that has a name."""
        return self._replace(span_id=span_id_of(name))


class Span(NamedTuple):
    """What was done.

    parent: None for the first of its trace. link: what it came of in another trace. error: None where it went well.
    """

    name: str
    kind: SpanKind
    context: SpanContext
    parent: SpanContext | None
    started: datetime
    ended: datetime
    attributes: Attributes
    link: SpanContext | None = None
    error: str | None = None


def read_traceparent(given: str | None) -> SpanContext | None:
    """A ``traceparent`` by W3C Trace Context, section 3.2; None for what is none, or none that counts."""
    form = None if given is None else _FORM.fullmatch(given)
    if form is None:
        return None
    version, trace_id, span_id, flags, more = form.groups()
    if version == "ff" or (version == "00" and more is not None):
        return None
    context = SpanContext(int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & _SAMPLED))
    return context if context.trace_id and context.span_id else None


@lru_cache(maxsize=4096)
def trace_of(execution_id: str, run: int) -> SpanContext:
    """The first span of an execution's trace, sampled."""
    name = f"{execution_id}/{run}"
    trace_id = int.from_bytes(hashlib.blake2b(name.encode(), digest_size=16, person=b"trace").digest())
    return SpanContext(trace_id, span_id_of(name))


def span_id_of(name: str) -> int:
    """The id of the span with a name that no other one has."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8, person=b"span").digest())


def matched_span(came_from: SpanContext, record: str, started: datetime, ended: datetime, requests: int) -> Span:
    """An anomaly that came with a trace of its producer's: there it was matched.

    record: names the anomaly's record. requests: how many executions it started.
    """
    attributes: Attributes = {"messaging.system": "kafka", "runbooks.requests": requests}
    return Span("match anomaly", "consumer", came_from.child(record), came_from, started, ended, attributes)


def requested_span(execution: Execution, link: SpanContext | None, ended: datetime) -> Span:
    """From the request to its fold; link: whoever asked."""
    first = trace_of(execution.execution_id, execution.run)
    context = first.child(f"{execution.execution_id}/{execution.run}/requested")
    request = execution.request
    return Span("request execution", "internal", context, first, request.at, ended, _whose(request), link)


def decided_span(execution: Execution, approval: Approval, step: int, ended: datetime) -> Span:
    """From a request for approval until the execution waits for it no more."""
    first = trace_of(execution.execution_id, execution.run)
    context = first.child(f"{execution.execution_id}/{execution.run}/{step}/approval/{approval.number}")
    attributes = {**_whose(execution.request), "runbooks.step": step}
    return Span("wait for approval", "internal", context, first, approval.requested_at, ended, attributes)


def ended_span(execution: Execution) -> Span:
    """All of an execution; where it had ended before and was taken back by hand, that part of it."""
    first = trace_of(execution.execution_id, execution.run)
    request, rollback = execution.request, execution.rollback
    attributes = {
        **_whose(request),
        "runbooks.runbook": request.runbook.name,
        "runbooks.version": request.runbook_version,
        "runbooks.status": execution.status.value,
        "runbooks.dry_run": request.dry_run,
    }
    error = execution.status.value if ENDS.get(execution.status) == "bad" else None
    assert execution.finished_at is not None
    if rollback is not None and rollback.by is not None:
        context = first.child(f"{execution.execution_id}/{execution.run}/rollback/{rollback.number}")
        started = rollback.asked_at or execution.finished_at
        name = f"roll back {request.runbook.name}"
        return Span(name, "internal", context, first, started, execution.finished_at, attributes, None, error)
    name = f"runbook {request.runbook.name}"
    return Span(name, "internal", first, None, request.at, execution.finished_at, attributes, None, error)


def sending(command: Command) -> SpanContext:
    """The span of a command's being sent; what carries it out hangs from it."""
    revoked = isinstance(command, StepCommand) and command.revoked
    return trace_of(command.execution_id, command.run).child(f"{command.command_id}/{'revoke' if revoked else 'send'}")


def sent_span(command: Command, context: SpanContext, started: datetime, ended: datetime) -> Span:
    """Sending a command, until the broker has it; context: as of ``sending``."""
    first, topic = trace_of(command.execution_id, command.run), command.topic
    attributes = {**_about(command), "messaging.system": "kafka", "messaging.destination.name": topic}
    return Span(f"send {topic}", "producer", context, first, started, ended, attributes)


def carried_out(command: Command, *, interrupted: bool) -> SpanContext:
    """The span of carrying a command out; interrupted: of saying that nobody will."""
    name = f"{command.command_id}/{'interrupted' if interrupted else 'attempt'}"
    return trace_of(command.execution_id, command.run).child(name)


def carried_out_span(
    command: Command, context: SpanContext, parent: SpanContext, started: datetime, ended: datetime, result: str
) -> Span:
    """Carrying a command out, and what came of it."""
    attributes = {**_about(command), "messaging.system": "kafka", "runbooks.result": result}
    error = result if result in BAD else None
    return Span(_title(command), "consumer", context, parent, started, ended, attributes, None, error)


def _title(command: Command) -> str:
    match command:
        case StepCommand():
            return f"{command.step.type} {command.step.action}"
        case NoticeCommand():
            return "slack approval message"
        case MetricCommand():
            return "read metric"
        case _:
            assert_never(command)


def _about(command: Command) -> dict[str, str | int | bool]:
    named: dict[str, str | int | bool] = {
        "runbooks.tenant": command.tenant,
        "runbooks.execution_id": command.execution_id,
        "runbooks.command_id": command.command_id,
    }
    return named | dict(_place_of(command))


def _place_of(command: Command) -> Iterator[tuple[str, str | int]]:
    if isinstance(command, StepCommand):
        yield "runbooks.phase", command.phase
    if not isinstance(command, MetricCommand):
        yield "runbooks.step", command.step_index
    if not isinstance(command, NoticeCommand):
        yield "runbooks.attempt", command.attempt


def _whose(request: ExecutionRequested) -> dict[str, str | int | bool]:
    return {"runbooks.tenant": request.tenant, "runbooks.execution_id": request.execution_id}
