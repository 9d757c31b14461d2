"""The state of one execution: what the fold of its events gives."""

from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Literal, Self

from pydantic import JsonValue, model_validator

from app.core.anomaly import TenantId
from app.core.approval import Approval
from app.core.events import CommandEvent, ExecutionRequested
from app.core.model import Frozen, Instant, JsonObject
from app.core.planning import Inverse, Prepared
from app.core.runbook import Runbook


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


TERMINAL = frozenset(
    {
        Status.succeeded,
        Status.failed,
        Status.halted,
        Status.cancelled,
        Status.rolled_back,
        Status.rollback_failed,
    }
)

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
        """The step with this request in place of the one of the same number."""
        if self.approval is not None and self.approval.number == approval.number:
            return self.now(approval=approval)
        same = approval.number
        return self.now(superseded=tuple(approval if one.number == same else one for one in self.superseded))


class RollbackStep(StepState):
    """Taking one forward step back.

    index: the forward step's. inverse: None when only a person can do it, and reason says why.
    """

    index: int
    inverse: Inverse | None = None
    reason: str | None = None


class Rollback(Frozen):
    """The way back, in the order it is walked."""

    reason: str
    steps: tuple[RollbackStep, ...]

    def pending(self) -> int | None:
        """The position of the step being taken back, None when all have ended."""
        over = ("succeeded", "failed", "unknown", "manual", "drifted")
        return next((place for place, step in enumerate(self.steps) if step.status not in over), None)


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


class Execution(Frozen):
    """One run of one runbook.

    run: the offset of its ``execution_requested`` record, which tells runs of the same id apart.
    cursor: the step it stands at. last_offset: of the last event that changed it.
    metric_before: the check's metric before the first step was applied, None while or where it was not read.
    cancel_by: who asked to stop it, None when nobody did.
    """

    request: ExecutionRequested
    run: int
    status: Status
    reason: str = ""
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

    def marker(self) -> "Marker":
        """What is kept of an ended execution until the dedup window is over."""
        assert self.finished_at is not None
        return Marker(
            execution_id=self.execution_id,
            tenant=self.tenant,
            run=self.run,
            status=self.status,
            dedup_until=self.finished_at + timedelta(seconds=self.request.limits.dedup_window_s),
        )


class Marker(Frozen):
    """An execution that has ended, kept so that a repeated request stays the same execution."""

    execution_id: str
    tenant: TenantId
    run: int
    status: Status
    dedup_until: Instant


class Place(Frozen):
    """Where a command's answer belongs: the forward step, or the place in the rollback."""

    rolling_back: bool
    index: int

    @classmethod
    def of(cls, execution: Execution, event: CommandEvent) -> "Place | None":
        """The place the event answers for; None when the execution does not stand there."""
        if event.phase == "rollback":
            pending = execution.rollback.pending() if execution.rollback else None
            if pending is None or execution.rollback is None or execution.rollback.steps[pending].index != event.step:
                return None
            return cls(rolling_back=True, index=pending)
        stands = execution.rollback is None and event.step == execution.cursor < len(execution.steps)
        return cls(rolling_back=False, index=event.step) if stands else None

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
    """A new execution: queued, or at once running when it is a dry run, which waits for nobody."""
    return Execution(
        request=event,
        run=offset,
        status=Status.running if event.dry_run else Status.queued,
        steps=tuple(StepState() for _ in event.runbook.steps),
        started_at=event.at if event.dry_run else None,
        last_offset=offset,
    )


def variables_of(execution: Execution) -> JsonObject:
    """What templates and ``when`` see: anomaly, context, steps, runbook, execution.

    A manual run has no anomaly: its context stands in, on top of what the trigger names.
    """
    request = execution.request
    return {
        "anomaly": _anomaly_of(request),
        "context": request.context,
        "steps": [_step_view(execution, index) for index in range(len(execution.steps))],
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
