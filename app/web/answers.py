"""The shapes of the API's answers; history's own are in app/history/items.py."""

from collections.abc import Iterable
from datetime import datetime
from typing import Literal, Self

import orjson
from pydantic import Field, JsonValue

from app.core.approval import Approval, ApprovalState
from app.core.approval_card import TAKES_BACK, undo_of
from app.core.catalog import Definition
from app.core.errors import Problem
from app.core.events import ApprovalDecided
from app.core.execution import Execution
from app.core.model import JsonObject
from app.core.pauses import EVERYBODY, Pause
from app.core.rollback import inverse_of
from app.history.items import (
    ApprovalItem,
    HistoryItem,
    PlanItem,
    Shown,
    TriggerItem,
    approval_item,
    item_of,
    plan_item,
)
from app.web.problems import MAX_PROBLEMS, problem_item


class ProblemItem(Shown):
    """One thing that is wrong with an input; nearest is the known name closest to an unknown one."""

    path: str
    message: str
    nearest: str | None


class ProblemDocument(Shown):
    """A refusal (RFC 9457); problems are there when it is about the input."""

    type: str
    title: str
    status: int
    detail: str
    problems: list[ProblemItem] = Field(default_factory=list)


class Accepted(Shown):
    """An execution that was requested, as far as it is known by now."""

    execution_id: str
    status: str
    runbook_name: str
    runbook_version: int
    dry_run: bool
    trigger: TriggerItem

    @classmethod
    def of(cls, execution: Execution) -> Self:
        """Of an execution."""
        item = item_of(execution)
        return cls(**{name: getattr(item, name) for name in cls.model_fields})


class EventItem(Shown):
    """One record of the audit log: its offset in the tenant's partition, and the event as it stands there."""

    offset: int
    event: JsonObject


class EventList(Shown):
    """The records of one execution; complete is false when they were too many, or took too long to read."""

    items: list[EventItem]
    complete: bool


class PlannedStep(Shown):
    """What one step would do.

    before, after: None where the action has none. inverse: the step that would take it back; None when only a person
    could, and manual_reason says why. undo: the same in words, None where nothing could be planned. error: why it could
    not be planned.
    """

    index: int
    name: str | None
    type: str
    action: str
    status: str
    summary: str | None
    require_approval: bool
    before: JsonValue
    after: JsonValue
    inverse: JsonValue
    manual_reason: str | None
    undo: str | None
    reversible: bool
    error: str | None


class DryRun(HistoryItem):
    """An ended dry run: its history item, and what a real run would do."""

    plan: list[PlannedStep]

    @classmethod
    def of(cls, execution: Execution) -> Self:
        """Of an execution that has ended."""
        plan = [_planned(execution, index) for index in range(len(execution.steps))]
        return cls(**dict(item_of(execution)), plan=plan)


def _planned(execution: Execution, index: int) -> PlannedStep:
    step, state = execution.runbook.steps[index], execution.steps[index]
    plan, inverse = state.plan, inverse_of(step, state)
    return PlannedStep(
        index=index,
        name=step.name,
        type=step.type,
        action=step.action,
        status=state.status,
        summary=plan.summary if plan else None,
        require_approval=step.require_approval,
        before=plan.before if plan else None,
        after=plan.after if plan else None,
        inverse=inverse.step if inverse else None,
        manual_reason=plan.manual_reason if plan and not step.rollback else None,
        undo=undo_of(step, plan) if plan else None,
        reversible=inverse is not None,
        error=state.error,
    )


class WaitingApproval(Shown):
    """A request for approval that waits, and whether the caller may decide it; why_not says why not.

    params: what the step would be carried out with, secrets by name.
    """

    execution_id: str
    runbook_name: str
    service_id: str | None
    requested_by: str | None
    step: int
    step_count: int
    type: str
    action: str
    plan: PlanItem
    params: JsonObject
    summary: str
    undo: str
    approvers: list[str]
    approvals_required: int
    approval: ApprovalItem
    may_decide: bool
    why_not: str | None

    @classmethod
    def of(cls, execution: Execution, why_not: str | None) -> Self:
        """Of an execution whose step waits for approval."""
        place, approval = execution.standing, execution.waiting
        plan = place.step(execution).plan if place else None
        assert place is not None
        assert approval is not None
        assert plan is not None
        index = place.forward(execution)
        step = execution.runbook.steps[index]
        return cls(
            execution_id=execution.execution_id,
            runbook_name=execution.runbook.name,
            service_id=execution.service_id,
            requested_by=execution.request.requested_by,
            step=index,
            step_count=len(execution.steps),
            type=step.type,
            action=step.action,
            plan=plan_item(plan),
            params=plan.params,
            summary=plan.summary,
            undo=TAKES_BACK if place.rolling_back else undo_of(step, plan),
            approvers=list(step.approvers),
            approvals_required=step.approvals_required,
            approval=approval_item(approval),
            may_decide=why_not is None,
            why_not=why_not,
        )


class WaitingList(Shown):
    """Requests that wait, the one with the nearest deadline first; next_cursor is None on the last page."""

    items: list[WaitingApproval]
    next_cursor: str | None


class WaitsFor(Shown):
    """The execution that acts on a target which a queued one needs, or came for it before."""

    target: str
    execution_id: str
    runbook_name: str


class ExecutionItem(HistoryItem):
    """One execution as it stands; paused says who keeps it from going on, and why."""

    waits_for: WaitsFor | None
    paused: str | None

    @classmethod
    def of(cls, execution: Execution, other: Execution | None, pause: Pause | None) -> Self:
        """Of an execution, the one that it waits for, and the pause that holds for it."""
        waits_for = None
        if other is not None:
            target = next(one for one in execution.targets if one in other.targets)
            waits_for = WaitsFor(target=target, execution_id=other.execution_id, runbook_name=other.runbook.name)
        return cls(**dict(item_of(execution)), waits_for=waits_for, paused=pause.told() if pause else None)


class Decided(HistoryItem):
    """The execution after a decision that counted.

    state is that of the request it was about: pending while more have to agree, superseded where the plan has changed
    since and is asked about again.
    """

    state: ApprovalState

    @classmethod
    def of(cls, execution: Execution, event: ApprovalDecided) -> Self:
        """Of an execution that has the request which was decided."""
        request = request_decided(execution, event)
        assert request is not None
        return cls(**dict(item_of(execution)), state=request.state)


def request_decided(execution: Execution, event: ApprovalDecided) -> Approval | None:
    """The request that a decision is about, as it stands now; None where the execution has none of its number."""
    if execution.run != event.run:
        return None
    return next((one for one in execution.requests(event.step) if one.number == event.request), None)


class DecisionRecorded(Shown):
    """A decision is recorded, and the history does not show yet whether it counted."""

    execution_id: str
    state: Literal["recorded"] = "recorded"


class HistoryPage(Shown):
    """Executions, newest first; next_cursor is None on the last page."""

    items: list[HistoryItem]
    next_cursor: str | None

    @staticmethod
    def written(items: Iterable[str], next_cursor: str | None) -> str:
        """The same as JSON, of items that are JSON already."""
        return f'{{"items":[{",".join(items)}],"next_cursor":{orjson.dumps(next_cursor).decode()}}}'


class DefinitionItem(Shown):
    """One version of a runbook."""

    name: str
    version: int
    digest: str
    changed_by: str
    changed_at: datetime
    runbook: JsonObject

    @classmethod
    def of(cls, definition: Definition) -> Self:
        """Of a definition."""
        return cls(
            name=definition.name,
            version=definition.version,
            digest=definition.digest,
            changed_by=definition.by,
            changed_at=definition.at,
            runbook=definition.runbook.content(),
        )


class DefinitionList(Shown):
    """Definitions: by name, or the versions of one, the newest first."""

    items: list[DefinitionItem]


class PauseItem(Shown):
    """One pause; everybody is true for one that is not the tenant's own. on: whether it is in force now."""

    name: str
    everybody: bool
    runbook: str | None
    service_id: str | None
    starts_at: datetime
    ends_at: datetime | None
    by: str
    reason: str
    on: bool

    @classmethod
    def of(cls, pause: Pause, now: datetime) -> Self:
        """Of a pause, at this time."""
        named = pause.model_dump(include={"name", "runbook", "service_id", "starts_at", "ends_at", "by", "reason"})
        return cls(**named, everybody=pause.tenant == EVERYBODY, on=pause.is_on(now))


class PauseList(Shown):
    """Pauses."""

    items: list[PauseItem]


class Validation(Shown):
    """Whether a definition would be taken; digest is None when it would not."""

    valid: bool
    digest: str | None
    problems: list[ProblemItem]


class PublishedAnomalies(Shown):
    """The ids of the events, in their order."""

    anomaly_ids: list[str]


class PublishedAlerts(Shown):
    """What became of a webhook's alerts: ids of the events, how many had resolved, and what could not be taken."""

    anomaly_ids: list[str]
    ignored: int
    problems: list[ProblemItem]


class Alive(Shown):
    """The process answers."""

    status: Literal["alive"] = "alive"


class Readiness(Shown):
    """Whether the worker can do work, and why not; warnings: what somebody should look at, ready or not."""

    status: Literal["ready", "not ready"]
    reasons: list[str]
    warnings: list[str]


def told(problems: tuple[Problem, ...]) -> list[ProblemItem]:
    """The first problems, as they are told."""
    return [ProblemItem.model_validate(problem_item(one)) for one in problems[:MAX_PROBLEMS]]
