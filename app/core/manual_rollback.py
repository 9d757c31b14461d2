"""Taking back what an execution did that has ended, because a person wants it."""

from app.core.events import RollbackRequested
from app.core.execution import ENDS, Execution
from app.core.rollback import begun_rollback, derive_rollback
from app.core.step_state import FirstEnd
from app.core.stepping import Move, Stale


def on_rollback_requested(execution: Execution, event: RollbackRequested) -> Move:
    """Somebody wants what an execution that has ended did taken back."""
    refusal = why_not_rolled_back(execution)
    if refusal is not None:
        raise Stale(refusal)
    reason = f"rollback asked for by {event.by}" + (f": {event.comment}" if event.comment else "")
    asked = {
        "by": event.by,
        "asked_at": event.at,
        "ended_before": execution.finished_at,
        "first_end": _first_end(execution),
    }
    rollback = begun_rollback(execution, reason, "person", event.at).model_copy(update=asked)
    again = {"reason": reason, "finished_at": None, "cancel_by": None}
    return Move("rollback_asked", execution.now(rollback=rollback, **again))


def _first_end(execution: Execution) -> FirstEnd | None:
    """What the guards go by, however often it is taken back; None where an older state does not tell."""
    if execution.rollback is not None and execution.taken_up_again:
        return execution.rollback.first_end
    assert execution.finished_at is not None
    end = ENDS.get(execution.status, "neither")
    return FirstEnd(at=execution.finished_at, offset=execution.last_offset, end=end)


def why_not_rolled_back(execution: Execution) -> str | None:
    """Why an execution that has ended cannot be rolled back; None when it can."""
    if execution.request.dry_run:
        return "a dry run changed nothing"
    rollback = derive_rollback(execution, "", "person")
    if rollback.pending() is not None:
        return None
    by_hand = [f"step {step.index + 1}: {step.reason}" for step in rollback.steps if step.status == "manual"]
    return "; ".join(by_hand) or "there is nothing to take back"
