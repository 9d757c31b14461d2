"""The way back, derived from the steps taken: their inverses in reverse order (product page, "Automatic rollback")."""

from app.core.execution import Execution, Rollback, RollbackStep, StepState

ROLLBACK_ATTEMPTS = 3
NO_PLAN = "what it changed was not recorded"


def derive_rollback(execution: Execution, reason: str) -> Rollback:
    """One record for every step that took effect or may have, the last one first."""
    steps = [_back(index, step) for index, step in execution.applied()]
    return Rollback(reason=reason, steps=tuple(reversed(steps)))


def _back(index: int, step: StepState) -> RollbackStep:
    inverse = step.plan.inverse if step.plan else None
    if inverse is not None:
        return RollbackStep(index=index, inverse=inverse)
    why = (step.plan.manual_reason if step.plan else None) or NO_PLAN
    return RollbackStep(index=index, status="manual", reason=why)


def rollback_status(rollback: Rollback) -> str:
    """One word for all of it: not_needed, manual, running, done, partial or failed.

    partial: every inverse was applied, and what is left only a person can do.
    """
    states = [step.status for step in rollback.steps]
    if not states:
        return "not_needed"
    if rollback.pending() is not None:
        return "running"
    if "failed" in states or "unknown" in states:
        return "failed"
    if "manual" not in states:
        return "done"
    return "partial" if "succeeded" in states else "manual"
