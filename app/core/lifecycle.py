"""The fold of the log: ``evolve`` takes each event, ``decide`` says what is due, ``wake_at`` when to look again.

Total and pure. An event that is illegal or stale leaves the state as it was, and the answer says why.
"""

from datetime import datetime
from typing import NamedTuple, assert_never

from pydantic import ValidationError

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
    RollbackRequested,
    StartJudged,
    StepFinished,
    StepHeartbeat,
    StepInterrupted,
    StepPrepared,
    StepResolved,
    StepSkipped,
    StepStarted,
    TimerFired,
)
from app.core.execution import TERMINAL, Execution, Marker, Place, Status, begin, variables_of
from app.core.ids import command_id
from app.core.manual_rollback import on_rollback_requested
from app.core.model import replaced
from app.core.step_state import StartVerdict, StepState
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
from app.core.transitions import NEXT, TRANSITIONS, Signal
from app.core.verifying import before_commands, check_again, check_commands, on_metric

OF_ONE_RUN = (CommandEvent, MetricChecked, ApprovalNoticed, StartJudged)


class Evolved(NamedTuple):
    """What an event made of the state; refusal says why it changed nothing, None when it did."""

    execution: Execution | Marker | None
    refusal: str | None = None


def evolve(execution: Execution | Marker | None, event: Event, offset: int) -> Evolved:
    """Fold one event into the state.

    offset: of the event's record in its partition. None is an execution nobody has heard of; a Marker one that has
    ended and shrunk.
    """
    if type(event) is ExecutionRequested:  # asking for the type is faster than isinstance, which a model makes slow
        return _requested(execution, event, offset)
    if type(event) is RollbackRequested:
        return _rollback_requested(execution, event, offset)
    if execution is None:
        return Evolved(None, "no such execution")
    standing = execution.status
    if standing in TERMINAL or type(execution) is Marker:
        return Evolved(execution, f"the execution has ended: {standing}")
    if isinstance(event, OF_ONE_RUN) and event.run != execution.run:
        return Evolved(execution, f"run {event.run}, and this is run {execution.run}")
    try:
        signal, changed, more = _interpret(execution, event, offset)
    except Stale as stale:
        return Evolved(execution, str(stale))
    status = NEXT.get((standing, signal))
    if status is None:
        return Evolved(execution, f"{signal} does not apply to an execution that is {standing}")
    return Evolved(replaced(changed, {**more, "status": status, "last_offset": offset}))


def _requested(execution: Execution | Marker | None, event: ExecutionRequested, offset: int) -> Evolved:
    if execution is None:
        return Evolved(begin(event, offset))
    until = execution.dedup_until
    if until is None or event.at <= until:
        return Evolved(execution, "requested again: it is the same execution")
    return Evolved(begin(event, offset))


def _rollback_requested(execution: Execution | Marker | None, event: RollbackRequested, offset: int) -> Evolved:
    """An execution that has ended goes on backwards: from its state, else from the one that the event pins."""
    if isinstance(execution, Execution) and not execution.terminal:
        return Evolved(execution, f"the execution is {execution.status}")
    try:
        pinned = Execution.model_validate(event.finished)
    except ValidationError as error:
        return Evolved(execution, f"the pinned state cannot be read: {error.errors(include_url=False)[0]['msg']}")
    if not pinned.terminal:
        return Evolved(execution, f"the execution is {pinned.status}")
    known = pinned if execution is None else execution
    own = (event.tenant, event.execution_id, event.run, known.status)
    if (pinned.tenant, pinned.execution_id, pinned.run, pinned.status) != own or known.last_offset not in {
        None,
        pinned.last_offset,
    }:
        return Evolved(execution, "something has happened to the execution since it was asked for")
    try:
        signal, changed, more = on_rollback_requested(pinned if isinstance(known, Marker) else known, event)
    except Stale as stale:
        return Evolved(execution, str(stale))
    return Evolved(changed.now(**more, status=TRANSITIONS[pinned.status][signal], last_offset=offset))


def _interpret(execution: Execution, event: FollowUp, offset: int) -> Move:  # noqa: PLR0911 - one case an event
    if type(event) is StepStarted:  # what is told most comes first
        return on_started(execution, event)
    if type(event) is StepFinished:
        return on_finished(execution, event)
    match event:
        case StartJudged():
            return _on_judged(execution, event, offset)
        case StepPrepared():
            return on_prepared(execution, event)
        case StepHeartbeat():
            return on_heartbeat(execution, event)
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


def _on_judged(execution: Execution, event: StartJudged, offset: int) -> Move:
    if not execution.awaits_verdict:
        raise Stale("no verdict is awaited")
    verdict = StartVerdict(effect=event.effect, guard=event.guard, reason=event.reason, offset=offset)
    judged = execution.now(verdict=verdict)
    if event.effect == "skip":
        return Move("skipped", judged.now(reason=f"{event.guard}: {event.reason}", finished_at=event.at))
    return Move("judged", judged)


def _on_timer(execution: Execution, at: datetime) -> Move:
    deadline = wake_at(execution)
    if deadline is None or at < deadline:
        raise Stale("nothing was due")
    if execution.status == Status.verifying:
        return check_again(execution, at)
    place = execution.standing
    assert place is not None
    step = place.step(execution)
    if step.status == "awaiting_approval":
        return on_request_due(execution, place, at)
    if step.status == "backing_off":
        approved = step.approval is not None and step.approval.state == "approved"
        status = "approved" if approved else "pending"  # another plan is asked about, the same one is not
        again = place.change(execution, status=status, attempt=step.attempt + 1, retry_at=None)
        return Move("retry_due", again)
    return on_lease_end(execution, place, at)


def _on_cancel(execution: Execution, event: CancelRequested) -> Move:
    if execution.is_stopping:
        raise Stale("it is being cancelled already")
    asked = _withdrawn(execution.now(cancel_by=event.by))
    return Move("cancel_noted", asked) if asked.is_stopping else cancelled(asked, event.at)


def _withdrawn(execution: Execution) -> Execution:
    """With the request that waits, if one does, taken back."""
    place = execution.standing
    if execution.status != Status.awaiting_approval or place is None:
        return execution
    approval = place.step(execution).approval
    assert approval is not None
    ended = f"the execution was cancelled by {execution.cancel_by}"
    return place.change(execution, approval=approval.now(state="withdrawn", ended=ended))


def decide(execution: Execution) -> tuple[Command, ...]:
    """All that is outstanding now; the same state gives the same commands, with the same ids."""
    if execution.terminal:
        return ()
    work = _work_due(execution)
    return (*before_commands(execution, work), *work, *notices_due(execution))


def _work_due(execution: Execution) -> tuple[Command, ...]:
    if execution.status == Status.verifying:
        return check_commands(execution)
    place = execution.standing
    if execution.awaits_verdict and execution.cancel_by is None:
        return ()
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
        plan_only=back.status == "pending" and place.asks(execution),
        expected_digest=back.approval.digest if back.approval and back.status == "approved" else None,
        secrets_named=_secret_names(execution, 0),
        begun=back.begun,
    )


def wake_at(execution: Execution) -> datetime | None:
    """When something falls due by time alone: approval, retry, lease or metric check; None when nothing does."""
    if execution.status == Status.verifying and execution.verification is not None:
        verification = execution.verification
        return verification.lease_until if verification.due else verification.check_at
    place = execution.standing
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


__all__ = ["TRANSITIONS", "Evolved", "Signal", "decide", "evolve", "wake_at", "why_not_decided"]
