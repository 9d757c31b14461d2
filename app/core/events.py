"""What happened, as it stands in the log: one record each, past tense, tagged by ``type``.

Every event names its tenant, its execution and when it happened (``at``); time enters the core only through it.
"""

from datetime import timedelta
from typing import Annotated, Any, Literal, final

from pydantic import Field, TypeAdapter, field_serializer, field_validator

from app.core.anomaly import Anomaly, TenantId
from app.core.guards import Effect, Guard
from app.core.model import Frozen, Instant, JsonObject, read_record
from app.core.planning import Outcome, Prepared
from app.core.runbook import Runbook, pinned

MAX_DEDUP_WINDOW_S = 366 * 24 * 3600.0
Phase = Literal["prepare", "apply", "rollback"]
Decision = Literal["approve", "reject"]
Source = Literal["api", "slack"]
Moment = Literal["before", "after"]


class EventFields(Frozen):
    """What every event carries."""

    tenant: TenantId
    execution_id: Annotated[str, Field(min_length=1, max_length=200)]
    at: Instant


class Limits(Frozen):
    """The limits in force when an execution was requested, so that a replay never needs today's.

    dedup_window_s: how long after its end a repeated request of the same id is the same execution, in seconds.
    approval_channel: where approvals are asked for when the runbook does not say; None means not in Slack.
    """

    max_concurrent_runbooks: Annotated[int, Field(ge=1)] = 3
    dedup_window_s: Annotated[float, Field(ge=0)] = 24 * 3600.0
    approval_channel: str | None = None

    @property
    def dedup_window(self) -> timedelta:
        """The same as a duration; a longer one than a year would lead out of the calendar."""
        return timedelta(seconds=min(self.dedup_window_s, MAX_DEDUP_WINDOW_S))


@final
class ExecutionRequested(EventFields):
    """An anomaly matched, or a person asked.

    requested_by: a subject; None for an anomaly. trigger_matches: whether the trigger would have matched a manual
    run, and trigger_reason the clause that did not. paused: why it was not to start at all, None when it was.
    """

    type: Literal["execution_requested"] = "execution_requested"
    runbook: Runbook
    runbook_version: Annotated[int, Field(ge=1)]
    runbook_digest: str
    anomaly: Anomaly | None = None
    context: JsonObject = Field(default_factory=dict)
    dry_run: bool = False
    requested_by: str | None = None
    trigger_matches: bool = True
    trigger_reason: str = ""
    limits: Limits = Limits()
    paused: str | None = None

    @field_validator("runbook", mode="before")
    @classmethod
    def _pinned(cls, given: Any) -> Any:
        return pinned(given)

    @field_serializer("runbook")
    def _content(self, runbook: Runbook) -> dict[str, Any]:
        return runbook.content()


class StartJudged(EventFields):
    """What the runbook's guards say of a request, before its first command: start, skip, or start once approved.

    guard, reason: which one and why, when it does not just start.
    """

    type: Literal["start_judged"] = "start_judged"
    run: int
    effect: Effect
    guard: Guard | None = None
    reason: str = ""


class CommandEvent(EventFields):
    """An answer to one command; run, step, phase and attempt name it."""

    command_id: str
    run: int
    step: Annotated[int, Field(ge=0)]
    phase: Phase
    attempt: Annotated[int, Field(ge=1)]


class StepPrepared(CommandEvent):
    """A step was planned, and nothing was changed."""

    type: Literal["step_prepared"] = "step_prepared"
    plan: Prepared


@final
class StepStarted(CommandEvent):
    """A step is about to be applied: written and acknowledged before the side effect.

    lease_until: without a heartbeat or an end by then, the outcome is unknown. worker: who does it.
    """

    type: Literal["step_started"] = "step_started"
    plan: Prepared
    lease_until: Instant
    worker: str


class StepHeartbeat(CommandEvent):
    """A step is still being applied."""

    type: Literal["step_heartbeat"] = "step_heartbeat"
    lease_until: Instant


@final
class StepFinished(CommandEvent):
    """A step ended: succeeded, failed or unknown."""

    type: Literal["step_finished"] = "step_finished"
    outcome: Outcome


class StepSkipped(CommandEvent):
    """The step's ``when`` was false."""

    type: Literal["step_skipped"] = "step_skipped"
    reason: str


class StepInterrupted(CommandEvent):
    """A command came again to a worker that is not the one which took it first."""

    type: Literal["step_interrupted"] = "step_interrupted"


class ApprovalDecided(EventFields):
    """Somebody decided, or tried to.

    run, request: the run of the execution, and the number of the step's request, that were decided on; digest: of the
    plan. None where the decider named none, which binds it to what waits. groups: the decider's. refusal: why it does
    not count, None when the sender was checked and may decide.
    """

    type: Literal["approval_decided"] = "approval_decided"
    step: Annotated[int, Field(ge=0)]
    decision: Decision
    by: str
    groups: tuple[str, ...] = ()
    source: Source = "api"
    comment: str = ""
    run: int | None = None
    request: int | None = None
    digest: str | None = None
    refusal: str | None = None


class ApprovalNoticed(EventFields):
    """A message about a request for approval, or about the rollback, was posted or changed, or could not be.

    request: the number of the step's request, 0 for the rollback. notice: the message's place among its notices, or the
    number of the rollback. version: of the request,
    as the message shows it. error: why it could not be; channel_id and ts say where it stands when it could. unknown:
    Slack's answer was lost and nobody can look, so that the message may be there or not.
    """

    type: Literal["approval_noticed"] = "approval_noticed"
    run: int
    step: Annotated[int, Field(ge=0)]
    request: int
    notice: Annotated[int, Field(ge=0)]
    version: int
    channel_id: str | None = None
    ts: str | None = None
    error: str | None = None
    unknown: bool = False


class TimerFired(EventFields):
    """A deadline may have passed: ``at`` is the time that counts."""

    type: Literal["timer_fired"] = "timer_fired"


class CancelRequested(EventFields):
    """Somebody wants it stopped."""

    type: Literal["cancel_requested"] = "cancel_requested"
    by: str
    comment: str = ""


@final
class RollbackRequested(EventFields):
    """Somebody wants what an ended execution did taken back.

    run: of the execution. finished: its state as it ended, as JSON, pinned like a runbook in its request: the live fold
    keeps no more than a marker of it.
    """

    type: Literal["rollback_requested"] = "rollback_requested"
    run: int
    by: str
    comment: str = ""
    finished: JsonObject


class StepResolved(EventFields):
    """A person said how a step with an unknown outcome ended, or the metric check without a clear one.

    step, attempt: the one that nobody knew the end of; None where it was the check, or in a record from before they
    were kept.
    """

    type: Literal["step_resolved"] = "step_resolved"
    outcome: Literal["succeeded", "failed"]
    step: int | None = None
    attempt: int | None = None
    by: str
    comment: str = ""


class MetricChecked(EventFields):
    """The metric was read: before the first step, or after the last one.

    at: when the reading began. value: in the metric's own unit; None means no data, and detail says why.
    """

    type: Literal["metric_checked"] = "metric_checked"
    moment: Moment = "after"
    run: int
    attempt: Annotated[int, Field(ge=1)]
    value: float | None
    detail: str = ""


FollowUp = (
    StartJudged
    | StepPrepared
    | StepStarted
    | StepHeartbeat
    | StepFinished
    | StepSkipped
    | StepInterrupted
    | ApprovalDecided
    | ApprovalNoticed
    | TimerFired
    | CancelRequested
    | StepResolved
    | MetricChecked
)
"""What can happen to an execution that has not ended."""

Event = ExecutionRequested | RollbackRequested | FollowUp

EVENTS: TypeAdapter[Event] = TypeAdapter(Annotated[Event, Field(discriminator="type")])


def write_event(event: Event) -> bytes:
    """The event as JSON, as it stands in the log."""
    return event.model_dump_json().encode()


def read_event(raw: bytes | None) -> Event:
    """Read one record of the log.

    Raises RecordRefused with the paths that are wrong.
    """
    event: Event = read_record(raw, EVENTS)
    return event
