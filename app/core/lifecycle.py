"""The fold of the log: ``evolve`` takes each event, ``decide`` says what is due, ``wake_at`` when to look again.

Total and pure. An event that is illegal or stale leaves the state as it was, and the answer says why.
"""

from datetime import datetime
from typing import NamedTuple, assert_never

from app.core.approving import (
    next_request_time,
    notices_due,
    on_decision,
    on_noticed,
    on_prepared,
    on_request_due,
    why_not_decided,
)
from app.core.commands import Command, StepCommand
from app.core.events import (
    ApprovalDecided,
    ApprovalNoticed,
    CancelRequested,
    CommandEvent,
    Event,
    ExecutionRequested,
    FollowUp,
    MetricChecked,
    Phase,
    StepFinished,
    StepHeartbeat,
    StepInterrupted,
    StepPrepared,
    StepResolved,
    StepSkipped,
    StepStarted,
    TimerFired,
)
from app.core.execution import Execution, Marker, Place, Status, StepState, begin, variables_of
from app.core.ids import command_id
from app.core.stepping import (
    Move,
    Stale,
    cancelled,
    on_finished,
    on_heartbeat,
    on_interrupted,
    on_lease_end,
    on_resolved,
    on_skipped,
    on_started,
    plans_first,
)
from app.core.transitions import TRANSITIONS, Signal
from app.core.verifying import before_commands, check_again, check_commands, on_metric


class Evolved(NamedTuple):
    """What an event made of the state; refusal says why it changed nothing, None when it did."""

    execution: Execution | Marker | None
    refusal: str | None = None


def evolve(execution: Execution | Marker | None, event: Event, offset: int) -> Evolved:
    """Fold one event into the state.

    offset: of the event's record in its partition. None is an execution nobody has heard of; a Marker one that has
    ended and shrunk.
    """
    if isinstance(event, ExecutionRequested):
        return _requested(execution, event, offset)
    if execution is None:
        return Evolved(None, "no such execution")
    if isinstance(execution, Marker) or execution.terminal:
        return Evolved(execution, f"the execution has ended: {execution.status}")
    if isinstance(event, CommandEvent | MetricChecked | ApprovalNoticed) and event.run != execution.run:
        return Evolved(execution, f"run {event.run}, and this is run {execution.run}")
    try:
        signal, changed = _interpret(execution, event)
    except Stale as stale:
        return Evolved(execution, str(stale))
    status = TRANSITIONS[execution.status].get(signal)
    if status is None:
        return Evolved(execution, f"{signal} does not apply to an execution that is {execution.status}")
    return Evolved(changed.now(status=status, last_offset=offset))


def _requested(execution: Execution | Marker | None, event: ExecutionRequested, offset: int) -> Evolved:
    if execution is None:
        return Evolved(begin(event, offset))
    until = execution.dedup_until
    if until is None or event.at <= until:
        return Evolved(execution, "requested again: it is the same execution")
    return Evolved(begin(event, offset))


def _interpret(execution: Execution, event: FollowUp) -> Move:  # noqa: PLR0911 - one case an event
    match event:
        case StepPrepared():
            return on_prepared(execution, event)
        case StepStarted():
            return on_started(execution, event)
        case StepHeartbeat():
            return on_heartbeat(execution, event)
        case StepFinished():
            return on_finished(execution, event)
        case StepSkipped():
            return on_skipped(execution, event)
        case StepInterrupted():
            return on_interrupted(execution, event)
        case ApprovalDecided():
            return on_decision(execution, event)
        case ApprovalNoticed():
            return on_noticed(execution, event)
        case TimerFired():
            return _on_timer(execution, event.at)
        case CancelRequested():
            return _on_cancel(execution, event)
        case StepResolved():
            return on_resolved(execution, event)
        case MetricChecked():
            return on_metric(execution, event)
        case _:
            assert_never(event)


def _on_timer(execution: Execution, at: datetime) -> Move:
    deadline = wake_at(execution)
    if deadline is None or at < deadline:
        raise Stale("nothing was due")
    if execution.status == Status.verifying:
        return check_again(execution, at)
    place = _standing(execution)
    assert place is not None
    step = place.step(execution)
    if step.status == "awaiting_approval":
        return on_request_due(execution, place.index, at)
    if step.status == "backing_off":
        approved = step.approval is not None and step.approval.state == "approved"
        status = "approved" if approved else "pending"  # another plan is asked about, the same one is not
        again = place.change(execution, status=status, attempt=step.attempt + 1, retry_at=None)
        return Move("retry_due", again)
    return on_lease_end(execution, place, at)


def _on_cancel(execution: Execution, event: CancelRequested) -> Move:
    if execution.cancel_by is not None:
        raise Stale("it is being cancelled already")
    asked = _withdrawn(execution.now(cancel_by=event.by))
    in_flight = {"pending", "approved", "started"}
    forward = execution.status in {Status.queued, Status.running}
    if forward and execution.steps[execution.cursor].status in in_flight:
        return Move("cancel_noted", asked)
    return cancelled(asked, event.at)


def _withdrawn(execution: Execution) -> Execution:
    """With the request that waits, if one does, taken back."""
    if execution.status != Status.awaiting_approval:
        return execution
    approval = execution.steps[execution.cursor].approval
    assert approval is not None
    ended = f"the execution was cancelled by {execution.cancel_by}"
    return execution.with_step(execution.cursor, approval=approval.now(state="withdrawn", ended=ended))


def decide(execution: Execution) -> tuple[Command, ...]:
    """All that is outstanding now; the same state gives the same commands, with the same ids."""
    if execution.terminal:
        return ()
    work = _work_due(execution)
    return (*before_commands(execution, work), *work, *notices_due(execution))


def _work_due(execution: Execution) -> tuple[Command, ...]:
    if execution.status == Status.verifying:
        return check_commands(execution)
    place = _standing(execution)
    if place is None or execution.status not in {Status.queued, Status.running, Status.rolling_back}:
        return ()
    step = place.step(execution)
    if step.status not in {"pending", "approved"}:
        return ()
    return (
        (_rollback_command(execution, place),) if place.rolling_back else (_step_command(execution, place.index, step),)
    )


def _step_command(execution: Execution, index: int, step: StepState) -> StepCommand:
    phase: Phase = "prepare" if step.status == "pending" and plans_first(execution, index) else "apply"
    return StepCommand(
        command_id=command_id(execution.execution_id, execution.run, index, phase, step.attempt),
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        run=execution.run,
        step_index=index,
        phase=phase,
        attempt=step.attempt,
        step=execution.runbook.steps[index],
        variables=variables_of(execution),
        expected_digest=step.approval.digest if step.approval and step.status == "approved" else None,
        simulated=execution.request.dry_run,
        revoked=execution.cancel_by is not None,
        secrets_needed=_secrets_needed(execution, index),
        secrets_named=_secret_names(execution, 0),
        begun=step.begun,
    )


def _secrets_needed(execution: Execution, index: int) -> tuple[str, ...]:
    """Those of every step from this one on while nothing was applied; later, and in a dry run, each step asks."""
    applied = any(step.started_at is not None for step in execution.steps)
    if applied or execution.request.dry_run:
        return ()
    return _secret_names(execution, index)


def _secret_names(execution: Execution, first: int) -> tuple[str, ...]:
    """Those that the steps from the first on name, each once."""
    names = (name for step in execution.runbook.steps[first:] for name in step.secret_names())
    return tuple(dict.fromkeys(names))


def _rollback_command(execution: Execution, place: Place) -> StepCommand:
    assert execution.rollback is not None
    back = execution.rollback.steps[place.index]
    assert back.inverse is not None
    return StepCommand(
        command_id=command_id(execution.execution_id, execution.run, back.index, "rollback", back.attempt),
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        run=execution.run,
        step_index=back.index,
        phase="rollback",
        attempt=back.attempt,
        step=back.inverse.step,
        variables=variables_of(execution),
        expected=back.inverse.expected,
        ready=not back.inverse.declared,
        secrets_named=_secret_names(execution, 0),
        begun=back.begun,
    )


def wake_at(execution: Execution) -> datetime | None:
    """When something falls due by time alone: approval, retry, lease or metric check; None when nothing does."""
    if execution.status == Status.verifying and execution.verification is not None:
        verification = execution.verification
        return verification.lease_until if verification.due else verification.check_at
    place = _standing(execution)
    if place is None or execution.terminal or execution.status == Status.attention:
        return None
    step = place.step(execution)
    match step.status:
        case "awaiting_approval":
            return next_request_time(step.approval) if step.approval else None
        case "backing_off":
            return step.retry_at
        case "started":
            return step.lease_until
        case _:
            return None


def _standing(execution: Execution) -> Place | None:
    if execution.rollback is not None:
        pending = execution.rollback.pending()
        return None if pending is None else Place(rolling_back=True, index=pending)
    if execution.cursor >= len(execution.steps):
        return None
    return Place(rolling_back=False, index=execution.cursor)


__all__ = ["TRANSITIONS", "Evolved", "Signal", "decide", "evolve", "wake_at", "why_not_decided"]
