"""What history says of one execution: the product page's list, made from the folded state."""

from datetime import datetime
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, JsonValue

from app.core.approval import Approval
from app.core.execution import Execution, Status
from app.core.planning import Prepared
from app.core.rollback import rollback_status
from app.core.step_state import Reading, RollbackStep, StepState


class Shown(BaseModel):
    """A part of an answer."""

    model_config = ConfigDict(frozen=True)


class VoteItem(Shown):
    """One person's decision: who, which way, when, through what, and what was said."""

    by: str
    decision: str
    at: datetime
    source: str
    comment: str


class NoticeItem(Shown):
    """One message about a request: whether it was delivered, and why not."""

    kind: str
    to: str
    state: str
    error: str | None


class ApprovalItem(Shown):
    """How a step was approved, or waits to be; digest is of the plan, deadline until when it may be.

    number counts the step's requests; changed says how the plan differs from the one that was approved before.
    """

    number: int
    state: str
    by: list[str]
    comment: str
    requested_at: datetime
    decided_at: datetime | None
    digest: str
    deadline: datetime
    votes: list[VoteItem]
    notices: list[NoticeItem]
    escalated: bool
    changed: str | None
    ended: str | None


class PlanItem(Shown):
    """What a step will do, or did: before and after, and how it is taken back or why it cannot be."""

    before: JsonValue
    after: JsonValue
    inverse: JsonValue
    manual_reason: str | None


class StepItem(Shown):
    """One forward step; index counts from 0."""

    index: int
    name: str | None
    type: str
    action: str
    status: str
    summary: str | None
    output: JsonValue
    truncated: bool
    error: str | None
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    approval: ApprovalItem | None
    superseded_approvals: list[ApprovalItem]
    plan: PlanItem | None


class RollbackStepItem(Shown):
    """One step taken back, or why only a person can."""

    index: int
    status: str
    summary: str | None
    reason: str | None
    output: JsonValue
    error: str | None
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    approval: ApprovalItem | None
    superseded_approvals: list[ApprovalItem]
    plan: PlanItem | None


class RollbackItem(Shown):
    """The way back: status is none, not_needed, manual, running, halted, done, partial or failed.

    cause is failure, halt, metric, no_data or person; requested_by and requested_at are of a person who wanted an
    execution taken back that had ended.
    """

    status: str
    reason: str | None
    cause: str | None
    requested_by: str | None
    requested_at: datetime | None
    steps: list[RollbackStepItem]


class ReadingItem(Shown):
    """One reading of the metric: when, and its value, or why there is none."""

    at: datetime
    value: float | None
    detail: str | None


class MetricCheckItem(Shown):
    """The metric that is checked: before the first step, and after the last one; before is None when it was not read.

    check_at: when the next reading is due, None before the last step and when there is none to come.
    """

    metric_name: str
    before: ReadingItem | None
    after: list[ReadingItem]
    check_at: datetime | None


class TriggerItem(Shown):
    """Whether the runbook's trigger holds for this run; a manual run need not match."""

    matched: bool
    reason: str | None


class HistoryItem(Shown):
    """One entry of the execution history.

    duration_seconds is the total execution time: from the request to the end, without the time between that end and
    the request of a rollback.
    """

    execution_id: str
    runbook_name: str
    runbook_version: int
    trigger_anomaly_id: str | None
    service_id: str | None
    status: str
    reason: str | None
    targets: list[str]
    dry_run: bool
    requested_by: str | None
    requested_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    duration_seconds: float | None
    trigger: TriggerItem
    steps: list[StepItem]
    approvers: list[str]
    rollback: RollbackItem
    metric_check: MetricCheckItem | None


Values = dict[str, Any]
"""An item's values by the names of its fields, in their order: plain ones, of which JSON is quickly made."""


def item_of(execution: Execution) -> HistoryItem:
    """The entry of an execution."""
    return HistoryItem.model_validate(_item(execution))


def written_item(execution: Execution) -> str:
    """The same as JSON, as a row keeps it: pydantic writes the same text, and takes twice the time."""
    try:
        return orjson.dumps(_item(execution), option=orjson.OPT_UTC_Z).decode()
    except TypeError:  # a number of more than 64 bits
        return item_of(execution).model_dump_json()


def plan_item(plan: Prepared) -> PlanItem:
    """What is shown of a plan."""
    return PlanItem.model_validate(_plan(plan))


def approval_item(approval: Approval) -> ApprovalItem:
    """What is shown of a request for approval."""
    return ApprovalItem.model_validate(_approval(approval))


def _item(execution: Execution) -> Values:
    request = execution.request
    finished = execution.finished_at
    return {
        "execution_id": request.execution_id,
        "runbook_name": request.runbook.name,
        "runbook_version": request.runbook_version,
        "trigger_anomaly_id": request.anomaly.anomaly_id if request.anomaly else None,
        "service_id": execution.service_id,
        "status": execution.status.value,
        "reason": execution.reason or None,
        "targets": list(execution.targets),
        "dry_run": request.dry_run,
        "requested_by": request.requested_by,
        "requested_at": request.at,
        "started_at": execution.started_at,
        "finished_at": finished,
        "duration_seconds": _duration_s(execution),
        "trigger": {"matched": request.trigger_matches, "reason": request.trigger_reason or None},
        "steps": [_step(execution, index, state) for index, state in enumerate(execution.steps)],
        "approvers": _approvers(execution),
        "rollback": _rollback(execution),
        "metric_check": _metric_check(execution),
    }


def _duration_s(execution: Execution) -> float | None:
    if execution.finished_at is None:
        return None
    whole, back = execution.finished_at - execution.request.at, execution.rollback
    if back is not None and back.asked_at is not None and back.ended_before is not None:
        whole -= back.asked_at - back.ended_before
    return whole.total_seconds()


def _step(execution: Execution, index: int, state: StepState) -> Values:
    step = execution.runbook.steps[index]
    return {
        "index": index,
        "name": step.name,
        "type": step.type,
        "action": step.action,
        "status": state.status,
        "summary": state.plan.summary if state.plan else None,
        "output": state.output,
        "truncated": state.truncated,
        **_tried(state),
    }


def _tried(state: StepState) -> Values:
    """What forward and back have alike."""
    return {
        "error": state.error,
        "attempts": _attempts(state),
        "started_at": state.started_at,
        "finished_at": state.finished_at,
        "approval": _approval(state.approval) if state.approval else None,
        "superseded_approvals": [_approval(one) for one in state.superseded],
        "plan": _plan(state.plan) if state.plan else None,
    }


def _attempts(state: StepState) -> int:
    """How often it was tried: what failed, and what is tried or ended otherwise."""
    unclear = state.status == "unknown" and state.finished_at is None  # it waits for a person and is no failure yet
    counted = unclear or state.status in {"started", "succeeded", "planned"}
    return state.failures + (1 if counted else 0)


def _plan(plan: Prepared) -> Values:
    return {
        "before": plan.before,
        "after": plan.after,
        "inverse": plan.inverse.step if plan.inverse else None,
        "manual_reason": plan.manual_reason,
    }


def _approval(approval: Approval) -> Values:
    votes = approval.votes
    decided = votes[-1].at if votes and approval.state in {"approved", "rejected"} else None
    return {
        "number": approval.number,
        "state": approval.state,
        "by": [vote.by for vote in votes],
        "comment": "; ".join(vote.comment for vote in votes if vote.comment),
        "requested_at": approval.requested_at,
        "decided_at": decided,
        "digest": approval.digest,
        "deadline": approval.deadline,
        "votes": [
            {"by": vote.by, "decision": vote.decision, "at": vote.at, "source": vote.source, "comment": vote.comment}
            for vote in votes
        ],
        "notices": [
            {"kind": one.kind, "to": one.to, "state": one.state, "error": one.error} for one in approval.notices
        ],
        "escalated": approval.escalated,
        "changed": approval.changed or None,
        "ended": approval.ended or None,
    }


def _approvers(execution: Execution) -> list[str]:
    """Everybody whose decision counted, once, in the order of the steps."""
    if execution.rollback is None and not any(step.approval or step.superseded for step in execution.steps):
        return []
    requests = [one for index in range(len(execution.steps)) for one in execution.requests(index)]
    return list(dict.fromkeys([vote.by for one in requests for vote in one.votes]))


def _rollback(execution: Execution) -> Values:
    if execution.rollback is None:
        return {
            "status": "none",
            "reason": None,
            "cause": None,
            "requested_by": None,
            "requested_at": None,
            "steps": [],
        }
    return {
        "status": rollback_status(execution.rollback),
        "reason": execution.rollback.reason,
        "cause": execution.rollback.cause,
        "requested_by": execution.rollback.by,
        "requested_at": execution.rollback.asked_at,
        "steps": [_back(step) for step in execution.rollback.steps],
    }


def _metric_check(execution: Execution) -> Values | None:
    check, verification = execution.runbook.rollback_metric_check, execution.verification
    if check is None:
        return None
    waits = verification is not None and execution.status == Status.verifying
    return {
        "metric_name": check.metric_name,
        "before": _reading(execution.metric_before) if execution.metric_before else None,
        "after": [_reading(one) for one in verification.readings] if verification else [],
        "check_at": verification.check_at if verification and waits else None,
    }


def _reading(reading: Reading) -> Values:
    return {"at": reading.at, "value": reading.value, "detail": reading.detail or None}


def _back(step: RollbackStep) -> Values:
    return {
        "index": step.index,
        "status": step.status,
        "summary": step.plan.summary if step.plan else None,
        "reason": step.reason,
        "output": step.output,
        **_tried(step),
    }
