"""The state of one execution: what the fold of its events gives."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from functools import lru_cache
from typing import Any, Self, TypeVar, final

from pydantic import JsonValue

from app.core.anomaly import TenantId
from app.core.approval import Approval
from app.core.events import CommandEvent, ExecutionRequested
from app.core.guards import End, Trace, kept_for
from app.core.model import Frozen, Instant, JsonObject, made, replaced
from app.core.runbook import MAX_STEPS, Runbook
from app.core.step_state import (
    Reading,
    Rollback,
    StartVerdict,
    StepState,
    Verification,
)
from app.core.targets import named_targets, targets_of
from app.core.variables import request_variables


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

    __hash__ = str.__hash__  # the same number as Enum's, which is worked out in Python at each look into a table


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
            if (first := self.rollback.first_end) is not None:
                return trace.ended(first.at, first.end, first.offset)
            return trace.ended(self.rollback.ended_before or self.request.at, "neither")
        return trace if self.finished_at is None else trace.ended(self.finished_at, ENDS.get(self.status, "neither"))

    @property
    def taken_up_again(self) -> bool:
        """Whether it had ended, and somebody wanted it taken back."""
        return self.rollback is not None and self.rollback.by is not None

    @property
    def is_stopping(self) -> bool:
        """Whether it was cancelled and only lets the step finish that is in flight."""
        if self.cancel_by is None or self.status not in {Status.queued, Status.running}:
            return False
        return self.steps[self.cursor].status in {"pending", "approved", "started"}

    @property
    def dedup_until(self) -> datetime | None:
        """Until when a repeated request is this very execution; None while it has not ended."""
        if self.finished_at is None:
            return None
        return self.finished_at + self.request.limits.dedup_window

    def now(self, **changes: Any) -> Self:
        """The execution with these fields changed."""
        return replaced(self, changes)

    def with_step(self, index: int, **changes: Any) -> Self:
        """The execution with one forward step changed."""
        return self.now(steps=_with_step(self.steps, index, changes))

    @property
    def standing(self) -> "Place | None":
        """Where it stands, forward or on the way back; None when it has gone all the way."""
        if self.rollback is not None:
            pending = self.rollback.pending()
            return None if pending is None else back_at(pending)
        cursor = self.cursor
        return forward_at(cursor) if cursor < len(self.steps) else None

    @property
    def waiting(self) -> Approval | None:
        """The request for approval that it waits for; None when it waits for none."""
        place = self.standing if self.status == Status.awaiting_approval else None
        return place.step(self).approval if place else None

    def requests(self, index: int) -> tuple[Approval, ...]:
        """All requests for approval about a forward step: to apply it, then to take it back."""
        forward = self.steps[index].requests if index < len(self.steps) else ()
        if self.rollback is None:
            return forward
        return sum((step.requests for step in self.rollback.steps if step.index == index), forward)

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
        trace = self.trace()
        kept: dict[str, Any] = {
            "execution_id": self.execution_id,
            "tenant": self.tenant,
            "run": self.run,
            "status": self.status,
            "dedup_until": self.finished_at + self.request.limits.dedup_window,
            "last_offset": self.last_offset,
            "trace": trace,
            "kept_until": None if trace is None else self.finished_at + kept_for(self.runbook),
        }
        return made(Marker, kept, MARKER_FIELDS)


@final
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


MARKER_FIELDS = set(Marker.model_fields)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command's answer belongs: the forward step, or the place in the rollback."""

    rolling_back: bool
    index: int

    @classmethod
    def of(cls, execution: Execution, event: CommandEvent) -> "Place | None":
        """The place the event answers for; None when the execution does not stand there."""
        back = execution.rollback
        if (event.phase == "rollback") != (back is not None):
            return None
        if back is not None:
            place = execution.standing
            return place if place is not None and place.forward(execution) == event.step else None
        cursor = execution.cursor
        return forward_at(cursor) if event.step == cursor and cursor < len(execution.steps) else None

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
        if execution.request.runbook.steps[self.forward(execution)].require_approval:
            return True
        verdict = execution.verdict
        if self.rolling_back or verdict is None or verdict.effect != "approve":
            return False
        # the guards want an approval before anything is done: whether nobody has given one before this step
        return all(step.approval is None for step in execution.steps[: self.index])

    def step(self, execution: Execution) -> StepState:
        """The step's state."""
        if self.rolling_back:
            assert execution.rollback is not None
            return execution.rollback.steps[self.index]
        return execution.steps[self.index]

    def change(self, execution: Execution, **changes: Any) -> Execution:
        """The execution with the step changed."""
        return replaced(execution, self.changes(execution, **changes))

    def changes(self, execution: Execution, **changes: Any) -> dict[str, Any]:
        """What changes of the execution with the step: for those who change more of it in the same copy."""
        if not self.rolling_back:
            steps, index = execution.steps, self.index
            return {"steps": (*steps[:index], steps[index].changed(changes), *steps[index + 1 :])}
        rollback = execution.rollback
        assert rollback is not None
        return {"rollback": replaced(rollback, {"steps": _with_step(rollback.steps, self.index, changes)})}


Steps = TypeVar("Steps", bound=StepState)


def _with_step(steps: tuple[Steps, ...], index: int, changes: Mapping[str, Any]) -> tuple[Steps, ...]:
    return (*steps[:index], steps[index].changed(changes), *steps[index + 1 :])


@lru_cache(maxsize=MAX_STEPS)
def forward_at(index: int) -> Place:
    """The place of a forward step; there are few, and each event of a step asks for one."""
    return Place(rolling_back=False, index=index)


@lru_cache(maxsize=MAX_STEPS)
def back_at(index: int) -> Place:
    """A place in the rollback."""
    return Place(rolling_back=True, index=index)


UNTOUCHED = StepState()
_UNBEGUN: dict[str, Any] = {name: field.get_default() for name, field in Execution.model_fields.items()}
_GIVEN = {"request", "run", "status", "targets", "steps", "started_at", "last_offset"}


def begin(event: ExecutionRequested, offset: int) -> Execution:
    """A new execution: queued, or running at once when it is a dry run, or skipped: paused, or a shadow."""
    refusal = SHADOW if event.runbook.mode == "shadow" and not event.dry_run else event.paused
    dry_run = event.dry_run
    said = {
        "request": event,
        "run": offset,
        "status": Status.running if dry_run else Status.queued,
        "targets": () if dry_run or refusal is not None else _targets_of(event),
        "steps": (UNTOUCHED,) * len(event.runbook.steps),
        "started_at": event.at if dry_run else None,
        "last_offset": offset,
    }
    execution = made(Execution, {**_UNBEGUN, **said}, _GIVEN)
    if refusal is None:
        return execution
    return execution.now(status=Status.skipped, reason=refusal, finished_at=event.at)


def _targets_of(event: ExecutionRequested) -> tuple[str, ...]:
    named = named_targets(event.runbook)
    return targets_of(named, request_variables(event)) if named else ()


def keys_of(execution: Execution) -> tuple[str, ...]:
    """What guards take it to be about: its targets, else its service."""
    return execution.targets or (f"service/{execution.service_id or '*'}",)


def variables_of(execution: Execution) -> JsonObject:
    """What templates and ``when`` see: anomaly, context, steps, runbook, execution."""
    steps: list[JsonValue] = [_step_view(execution, index) for index in range(len(execution.steps))]
    return {**request_variables(execution.request), "steps": steps}


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
