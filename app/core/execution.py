"""The state of one execution: what the fold of its events gives."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import JsonValue, model_validator

from app.core.anomaly import TenantId
from app.core.approval import Approval, Notice
from app.core.events import CommandEvent, ExecutionRequested
from app.core.guards import Effect, End, Guard, Trace, kept_for
from app.core.model import Frozen, Instant, JsonObject
from app.core.planning import Inverse, Prepared
from app.core.runbook import Runbook
from app.core.targets import targets_of


class Status(StrEnum):
    """Where an execution stands."""

    queued = "queued"
    running = "running"
    awaiting_approval = "awaiting_approval"
    verifying = "verifying"
    rolling_back = "rolling_back"
    attention = "attention"
    succeeded = "succeeded"
    failed = "failed"
    halted = "halted"
    cancelled = "cancelled"
    rolled_back = "rolled_back"
    rollback_failed = "rollback_failed"
    skipped = "skipped"


TERMINAL = frozenset(
    {
        Status.succeeded,
        Status.failed,
        Status.halted,
        Status.cancelled,
        Status.rolled_back,
        Status.rollback_failed,
        Status.skipped,
    }
)

ENDS: dict[Status, End] = {
    Status.succeeded: "good",
    Status.failed: "bad",
    Status.rolled_back: "bad",
    Status.rollback_failed: "bad",
}
"""What an end says of the runbook; a person's no, or nobody's word, says neither."""

SHADOW = "the runbook is a shadow: it is matched, and never carried out"

StepStatus = Literal[
    "pending",  # a command is due
    "awaiting_approval",
    "approved",  # the command to apply is due
    "started",
    "backing_off",
    "planned",  # a dry run's end
    "succeeded",
    "failed",
    "unknown",
    "skipped",
    "halted",
    "manual",  # a rollback that only a person can do
    "drifted",  # a rollback that found something else than was left, and let it be
]


class StepState(Frozen):
    """One step, forward or back.

    attempt: the number in the current command's id. failures: attempts that ended without success. begun: the plan
    that was last begun to be applied, None when none was. superseded: earlier requests, whose plans were no longer
    what would be done.
    """

    status: StepStatus = "pending"
    attempt: int = 1
    failures: int = 0
    plan: Prepared | None = None
    begun: Prepared | None = None
    approval: Approval | None = None
    superseded: tuple[Approval, ...] = ()
    output: JsonValue = None
    truncated: bool = False
    error: str | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    lease_until: Instant | None = None
    retry_at: Instant | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written_before(cls, given: Any) -> Any:
        """A request of a row from before requests kept their plan: it was the step's."""
        approval = given.get("approval") if isinstance(given, dict) else None
        if isinstance(approval, dict) and "plan" not in approval:
            return {**given, "approval": {**approval, "plan": given.get("plan")}}
        return given

    def now(self, **changes: Any) -> Self:
        """The step with these fields changed."""
        return self.model_copy(update=changes)

    @property
    def requests(self) -> tuple[Approval, ...]:
        """All its requests for approval, the first one first."""
        return self.superseded if self.approval is None else (*self.superseded, self.approval)

    def with_request(self, approval: Approval) -> Self:
        """The step with this request in place of the one of the same number; the same step where it has none."""
        same = approval.number
        if all(one.number != same for one in self.requests):
            return self
        if self.approval is not None and self.approval.number == same:
            return self.now(approval=approval)
        return self.now(superseded=tuple(approval if one.number == same else one for one in self.superseded))


class RollbackStep(StepState):
    """Taking one forward step back.

    index: the forward step's. inverse: None when only a person can do it, and reason says why.
    """

    index: int
    inverse: Inverse | None = None
    reason: str | None = None


RollbackCause = Literal["failure", "halt", "metric", "no_data", "person"]


class Rollback(Frozen):
    """The way back, in the order it is walked.

    cause: failure of a step, a halt, what the metric check found or did not find, or a person's word. by: who asked
    for the rollback of an execution that had ended, None for one that began by itself; asked_at: when, and
    ended_before: when it had ended. begun_at: None in a state from before it was kept. number: counts the rollbacks of
    one execution. notice: the message that tells of it, None where the runbook and the settings name no place.
    """

    reason: str
    steps: tuple[RollbackStep, ...]
    cause: RollbackCause = "failure"
    by: str | None = None
    asked_at: Instant | None = None
    ended_before: Instant | None = None
    begun_at: Instant | None = None
    number: int = 1
    notice: Notice | None = None

    def pending(self) -> int | None:
        """The position of the step being taken back, None when all have ended."""
        return next((place for place, step in enumerate(self.steps) if step.status not in WALKED), None)

    def halted(self, reason: str, at: datetime) -> Self:
        """The rollback with all that has not ended left as it is."""
        left = {"status": "halted", "error": reason, "finished_at": at}
        steps = tuple(step if step.status in WALKED else step.now(**left) for step in self.steps)
        return self.model_copy(update={"steps": steps})


WALKED = frozenset({"succeeded", "failed", "unknown", "manual", "drifted", "halted"})


class Reading(Frozen):
    """One reading of the metric.

    at: when it was asked for. value: in the metric's own unit; None means no data, and detail says why.
    """

    at: Instant
    value: float | None
    detail: str = ""


class Verification(Frozen):
    """The metric check after the last step.

    check_at: when the next reading is to be asked for. due: it has been. attempt: the number in the current command's
    id. unanswered: how often nobody answered for this reading. readings: those there are, the first one first.
    """

    check_at: Instant
    due: bool = False
    attempt: int = 1
    unanswered: int = 0
    lease_until: Instant | None = None
    readings: tuple[Reading, ...] = ()

    def now(self, **changes: Any) -> Self:
        """The verification with these fields changed."""
        return self.model_copy(update=changes)


class StartVerdict(Frozen):
    """What the guards said; offset: of the record that says so, which is its place in the line."""

    effect: Effect
    guard: Guard | None
    reason: str
    offset: int


class Execution(Frozen):
    """One run of one runbook.

    run: the offset of its ``execution_requested`` record, which tells runs of the same id apart.
    targets: what it acts on, as far as its request tells. verdict: of the runbook's guards, None where none was needed
    or none has been given. cursor: the step it stands at. last_offset: of the last event that changed it.
    metric_before: the check's metric before the first step was applied, None while or where it was not read.
    cancel_by: who asked to stop it, None when nobody did.
    """

    request: ExecutionRequested
    run: int
    status: Status
    reason: str = ""
    targets: tuple[str, ...] = ()
    verdict: StartVerdict | None = None
    steps: tuple[StepState, ...]
    cursor: int = 0
    rollback: Rollback | None = None
    verification: Verification | None = None
    metric_before: Reading | None = None
    cancel_by: str | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    last_offset: int

    @property
    def execution_id(self) -> str:
        """Its id."""
        return self.request.execution_id

    @property
    def tenant(self) -> str:
        """Whose it is."""
        return self.request.tenant

    @property
    def runbook(self) -> Runbook:
        """The pinned definition."""
        return self.request.runbook

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in TERMINAL

    @property
    def holds_slot(self) -> bool:
        """Whether it counts against max_concurrent_runbooks.

        A dry run does not, nor one that waits for a metric or for a person's word about an unknown outcome: three
        lost workers must not stop all that comes after them. What goes on from there waits for no slot again.
        """
        waits = self.status in {Status.queued, Status.verifying, Status.attention}
        return not (self.terminal or waits or self.request.dry_run)

    @property
    def service_id(self) -> str | None:
        """The service it is about: the anomaly's, else the context's, else the trigger's."""
        if self.request.anomaly is not None:
            return self.request.anomaly.service_id
        named = self.request.context.get("service_id")
        if isinstance(named, str):
            return named
        trigger = self.runbook.trigger
        return None if trigger is None or trigger.service_id == "*" else trigger.service_id

    @property
    def awaits_verdict(self) -> bool:
        """Whether the runbook's guards have to speak before it may start: what a person asked for is not judged."""
        asked = self.request.requested_by is not None or self.request.dry_run
        return self.status == Status.queued and self.verdict is None and self.runbook.guarded and not asked

    @property
    def place_in_line(self) -> int:
        """The offset at which it came to wait for its start."""
        return self.run if self.verdict is None else self.verdict.offset

    def is_in_the_way_of(self, other: "Execution") -> bool:
        """Whether another, queued one has to wait for this one, which acts on one of its targets or came before."""
        if self.execution_id == other.execution_id or self.terminal or set(self.targets).isdisjoint(other.targets):
            return False
        return self.status != Status.queued or self.place_in_line < other.place_in_line

    def trace(self) -> Trace | None:
        """What the guards remember of it; None where they need not, as of what was skipped."""
        if not self.runbook.guarded or self.request.dry_run or self.status == Status.skipped:
            return None
        trace = Trace(runbook=self.runbook.name, keys=keys_of(self), at=self.request.at)
        if self.taken_up_again:
            assert self.rollback is not None
            return trace.ended(self.rollback.ended_before or self.request.at, "neither")
        return trace if self.finished_at is None else trace.ended(self.finished_at, ENDS.get(self.status, "neither"))

    @property
    def taken_up_again(self) -> bool:
        """Whether it had ended, and somebody wanted it taken back."""
        return self.rollback is not None and self.rollback.by is not None

    @property
    def dedup_until(self) -> datetime | None:
        """Until when a repeated request is this very execution; None while it has not ended."""
        if self.finished_at is None:
            return None
        return self.finished_at + timedelta(seconds=self.request.limits.dedup_window_s)

    def now(self, **changes: Any) -> Self:
        """The execution with these fields changed."""
        return self.model_copy(update=changes)

    def with_step(self, index: int, **changes: Any) -> Self:
        """The execution with one forward step changed."""
        step = self.steps[index].now(**changes)
        return self.now(steps=(*self.steps[:index], step, *self.steps[index + 1 :]))

    def with_rollback_step(self, place: int, **changes: Any) -> Self:
        """The execution with the rollback step at a place changed."""
        assert self.rollback is not None
        steps = self.rollback.steps
        changed = (*steps[:place], steps[place].now(**changes), *steps[place + 1 :])
        return self.now(rollback=self.rollback.model_copy(update={"steps": changed}))

    @property
    def standing(self) -> "Place | None":
        """Where it stands, forward or on the way back; None when it has gone all the way."""
        if self.rollback is not None:
            pending = self.rollback.pending()
            return None if pending is None else Place(rolling_back=True, index=pending)
        return Place(rolling_back=False, index=self.cursor) if self.cursor < len(self.steps) else None

    def requests(self, index: int) -> tuple[Approval, ...]:
        """All requests for approval about a forward step: to apply it, then to take it back."""
        back = (step.requests for step in (self.rollback.steps if self.rollback else ()) if step.index == index)
        return sum(back, self.steps[index].requests if index < len(self.steps) else ())

    def with_request(self, index: int, approval: Approval) -> Self:
        """The execution with this request in place of the one of the same number about a forward step."""
        forward = self.steps[index].with_request(approval)
        changed = self.now(steps=(*self.steps[:index], forward, *self.steps[index + 1 :]))
        if self.rollback is None:
            return changed
        back = (step.with_request(approval) if step.index == index else step for step in self.rollback.steps)
        return changed.now(rollback=self.rollback.model_copy(update={"steps": tuple(back)}))

    def marker(self) -> "Marker":
        """What is kept of an ended execution until the dedup window is over."""
        assert self.finished_at is not None
        return Marker(
            execution_id=self.execution_id,
            tenant=self.tenant,
            run=self.run,
            status=self.status,
            last_offset=self.last_offset,
            dedup_until=self.finished_at + timedelta(seconds=self.request.limits.dedup_window_s),
            trace=(trace := self.trace()),
            kept_until=None if trace is None else self.finished_at + kept_for(self.runbook),
        )


class Marker(Frozen):
    """An execution that has ended, kept so that a repeated request stays the same execution.

    last_offset: of the event that ended it, None in a row from before markers kept it. trace: what the runbook's guards
    remember of it until kept_until, None where they need not.
    """

    execution_id: str
    tenant: TenantId
    run: int
    status: Status
    dedup_until: Instant
    last_offset: int | None = None
    trace: Trace | None = None
    kept_until: Instant | None = None

    @property
    def until(self) -> datetime:
        """When nobody needs it any more."""
        return self.dedup_until if self.kept_until is None else max(self.dedup_until, self.kept_until)


class Place(Frozen):
    """Where a command's answer belongs: the forward step, or the place in the rollback."""

    rolling_back: bool
    index: int

    @classmethod
    def of(cls, execution: Execution, event: CommandEvent) -> "Place | None":
        """The place the event answers for; None when the execution does not stand there."""
        place = execution.standing
        if place is None or place.rolling_back != (event.phase == "rollback"):
            return None
        return place if place.forward(execution) == event.step else None

    def forward(self, execution: Execution) -> int:
        """The index of the forward step that it is about."""
        if not self.rolling_back:
            return self.index
        assert execution.rollback is not None
        return execution.rollback.steps[self.index].index

    def asks(self, execution: Execution) -> bool:
        """Whether nothing may be done here without approval.

        A rollback that begins by itself asks nobody; one that a person wants asks where the step had to.
        """
        if self.rolling_back and (execution.rollback is None or execution.rollback.by is None):
            return False
        if execution.runbook.steps[self.forward(execution)].require_approval:
            return True
        return not self.rolling_back and self._is_first_to_ask(execution)

    def _is_first_to_ask(self, execution: Execution) -> bool:
        """Whether the guards want an approval before anything is done, and nobody has given one before this step."""
        if execution.verdict is None or execution.verdict.effect != "approve":
            return False
        return all(step.approval is None for step in execution.steps[: self.index])

    def step(self, execution: Execution) -> StepState:
        """The step's state."""
        if self.rolling_back:
            assert execution.rollback is not None
            return execution.rollback.steps[self.index]
        return execution.steps[self.index]

    def change(self, execution: Execution, **changes: Any) -> Execution:
        """The execution with the step changed."""
        if self.rolling_back:
            return execution.with_rollback_step(self.index, **changes)
        return execution.with_step(self.index, **changes)


def begin(event: ExecutionRequested, offset: int) -> Execution:
    """A new execution: queued, or running at once when it is a dry run, or skipped: paused, or a shadow."""
    execution = Execution(
        request=event,
        run=offset,
        status=Status.running if event.dry_run else Status.queued,
        steps=tuple(StepState() for _ in event.runbook.steps),
        started_at=event.at if event.dry_run else None,
        last_offset=offset,
    )
    refusal = SHADOW if event.runbook.mode == "shadow" and not event.dry_run else event.paused
    if refusal is not None:
        return execution.now(status=Status.skipped, reason=refusal, finished_at=event.at)
    return execution.now(targets=() if event.dry_run else targets_of(event.runbook, _known_at_request(event)))


def keys_of(execution: Execution) -> tuple[str, ...]:
    """What guards take it to be about: its targets, else its service."""
    return execution.targets or (f"service/{execution.service_id or '*'}",)


def variables_of(execution: Execution) -> JsonObject:
    """What templates and ``when`` see: anomaly, context, steps, runbook, execution.

    A manual run has no anomaly: its context stands in, on top of what the trigger names.
    """
    steps: list[JsonValue] = [_step_view(execution, index) for index in range(len(execution.steps))]
    return {**_known_at_request(execution.request), "steps": steps}


def _known_at_request(request: ExecutionRequested) -> JsonObject:
    return {
        "anomaly": _anomaly_of(request),
        "context": request.context,
        "runbook": {"name": request.runbook.name, "version": request.runbook_version},
        "execution": {
            "id": request.execution_id,
            "tenant": request.tenant,
            "dry_run": request.dry_run,
            "requested_by": request.requested_by,
            "requested_at": request.at.isoformat(),
        },
    }


def _anomaly_of(request: ExecutionRequested) -> JsonObject:
    if request.anomaly is not None:
        return request.anomaly.variables()
    trigger = request.runbook.trigger
    named = {} if trigger is None else {"service_id": trigger.service_id, "metric_name": trigger.metric_name}
    return {key: value for key, value in named.items() if value != "*"} | request.context


def _step_view(execution: Execution, index: int) -> JsonObject:
    step, state = execution.runbook.steps[index], execution.steps[index]
    return {
        "name": step.name,
        "type": step.type,
        "action": step.action,
        "status": state.status,
        "output": state.output,
        "before": state.plan.before if state.plan else None,
        "after": state.plan.after if state.plan else None,
    }
