"""The way back, derived from the steps taken: their inverses in reverse order (product page, "Automatic rollback")."""

from collections.abc import Iterator
from datetime import datetime

from app.core.approval import Notice
from app.core.execution import Execution
from app.core.model import JsonObject
from app.core.planning import Inverse
from app.core.step_state import Rollback, RollbackCause, RollbackStep, StepState
from app.core.steps import Step

ROLLBACK_ATTEMPTS = 12
"""With the pauses between them two to four minutes: a control plane that is being upgraded comes back in that time."""
NO_PLAN = "what it changed was not recorded"
NOT_TAKEN_BACK = frozenset({"failed", "unknown", "drifted"})


def begun_rollback(execution: Execution, reason: str, cause: RollbackCause, at: datetime) -> Rollback:
    """The rollback that begins now, with the message that tells of it where there is a place for one."""
    before = execution.rollback
    channel = execution.runbook.notify_channel or execution.request.limits.approval_channel
    told = {
        "begun_at": at,
        "number": 1 if before is None else before.number + 1,
        "notice": None if channel is None else Notice(kind="rollback", to=channel),
    }
    return derive_rollback(execution, reason, cause).model_copy(update=told)


def derive_rollback(execution: Execution, reason: str, cause: RollbackCause) -> Rollback:
    """One record for every step that took effect or may have, the last one first.

    A step that failed after it was begun is one of them where something can be done about it: its inverse finds out
    what is there. So is one that was begun and then stopped by a person's no, whatever can be done. A failed call or
    command of which nothing is known has none. What an earlier rollback of the same execution took back stays so; the
    rest is tried again, under attempts that were not there before.
    """
    earlier = {step.index: step for step in (execution.rollback.steps if execution.rollback else ())}
    steps = [_again(_back(execution, index), earlier.get(index)) for index in _to_take_back(execution)]
    return Rollback(reason=reason, cause=cause, steps=tuple(reversed(steps)))


def _again(fresh: RollbackStep, before: RollbackStep | None) -> RollbackStep:
    if before is None:
        return fresh
    if before.status in {"succeeded", "manual"}:
        return before
    earlier = tuple(request.in_short() for request in before.requests)
    return fresh.now(attempt=before.attempt + 1, begun=before.begun, superseded=earlier)


def _to_take_back(execution: Execution) -> Iterator[int]:
    for index, step in enumerate(execution.steps):
        if step.status in {"succeeded", "unknown"}:
            yield index
        elif step.begun is not None and step.status != "skipped":
            failed = step.status == "failed"  # anything else was begun, and ended before anybody knew how
            if not failed or inverse_of(execution.runbook.steps[index], step) is not None:
                yield index


def inverse_of(step: Step, state: StepState) -> Inverse | None:
    """How a step is taken back: by the step that the runbook declares, else by what was derived when it was planned."""
    if step.rollback is not None:
        return Inverse(step=step.rollback.model_dump(mode="json", exclude_defaults=True), declared=True)
    plan = state.begun or state.plan
    return plan.inverse if plan else None


def _back(execution: Execution, index: int) -> RollbackStep:
    state = execution.steps[index]
    inverse = inverse_of(execution.runbook.steps[index], state)
    if inverse is not None:
        return RollbackStep(index=index, inverse=inverse)
    plan = state.begun or state.plan
    why = (plan.manual_reason if plan else None) or NO_PLAN
    return RollbackStep(index=index, status="manual", reason=why)


def without_dependents(rollback: Rollback, place: int, at: datetime) -> Rollback:
    """The rollback after the step at a place was not taken back: what was done before it to the same target is left.

    Going back further would undo the older change under the newer one.
    """
    bad = rollback.steps[place]
    target = _target(bad.inverse)
    reason = f"left as it is: step {bad.index + 1}, on the same target, was not taken back"
    steps = tuple(
        step.now(status="failed", reason=reason, error=reason, finished_at=at)
        if number > place and step.status == "pending" and target is not None and _target(step.inverse) == target
        else step
        for number, step in enumerate(rollback.steps)
    )
    return rollback.model_copy(update={"steps": steps})


def _target(inverse: Inverse | None) -> JsonObject | None:
    """What a derived inverse acts on; None for one that was declared, of which it is not known."""
    if inverse is None or inverse.declared:
        return None
    return {name: inverse.step[name] for name in ("namespace", "deployment", "node") if name in inverse.step} or None


def rollback_status(rollback: Rollback) -> str:
    """One word for all of it: not_needed, manual, running, halted, done, partial or failed.

    partial: every inverse was applied, and what is left only a person can do. halted: somebody said no on the way.
    """
    states = [step.status for step in rollback.steps]
    if not states:
        return "not_needed"
    if rollback.pending() is not None:
        return "running"
    if "halted" in states:
        return "halted"
    if not NOT_TAKEN_BACK.isdisjoint(states):
        return "failed"
    if "manual" not in states:
        return "done"
    return "partial" if "succeeded" in states else "manual"
