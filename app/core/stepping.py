"""What the events of a step mean: the interpretations that ``evolve`` turns into status changes.

Each takes the execution and the event and gives a Move, or raises Stale when the event is not for this state.
"""

import hashlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, NamedTuple, assert_never

from app.core.events import (
    StepFinished,
    StepHeartbeat,
    StepInterrupted,
    StepPrepared,
    StepResolved,
    StepSkipped,
    StepStarted,
)
from app.core.execution import Execution, Place, Status, forward_at
from app.core.planning import ActionFailure, Outcome
from app.core.rollback import NOT_TAKEN_BACK, ROLLBACK_ATTEMPTS, begun_rollback, without_dependents
from app.core.step_state import RollbackCause, RollbackStep, StepState, Verification
from app.core.transitions import Signal

UNKNOWN_ATTEMPTS = 3
ROLLBACK_BACKOFF_S = 2.0
MAX_ROLLBACK_BACKOFF_S = 30.0
NOTHING_ELSE: Mapping[str, Any] = MappingProxyType({})
MAX_DELAY_S = 24 * 3600.0
"""However long the other side asks to wait."""
WORKER_LOST = "the worker stopped answering while the step was being applied"


class Stale(Exception):
    """The event does not apply to this state; the message says why."""


class Move(NamedTuple):
    """The execution with all but its status and some more changed, and what happened to it."""

    signal: Signal
    execution: Execution
    more: Mapping[str, Any] = NOTHING_ELSE


def on_started(execution: Execution, event: StepStarted) -> Move:
    """A side effect is about to happen."""
    place, step = expect(execution, event, ("pending", "approved"))
    agreed = step.approval.digest if step.approval is not None and step.status == "approved" else None
    if agreed != event.plan.digest and (step.status == "approved" or place.rolling_back) and place.asks(execution):
        raise Stale("this plan has no approval")
    if execution.request.dry_run:
        raise Stale("a dry run starts nothing")
    if event.phase == "prepare":
        raise Stale("the step is only planned")
    started = place.changes(
        execution,
        status="started",
        plan=event.plan,
        begun=event.plan,
        lease_until=event.lease_until,
        started_at=step.started_at or event.at,
    )
    if execution.started_at is None:
        started["started_at"] = event.at
    return Move("step_begun", execution, started)


def on_heartbeat(execution: Execution, event: StepHeartbeat) -> Move:
    """The worker is still at it: the lease is longer."""
    place, step = expect(execution, event, ("started",))
    if step.lease_until is not None and event.lease_until <= step.lease_until:
        raise Stale("the lease is already that long")
    return Move("step_continues", place.change(execution, lease_until=event.lease_until))


def on_finished(execution: Execution, event: StepFinished) -> Move:
    """An attempt ended; one that was given up as unknown may still tell how, while the next one has not been issued."""
    place, step = expect(execution, event, ("pending", "approved", "started", "unknown", "backing_off"))
    if event.outcome.outcome == "succeeded" and step.status in {"pending", "approved"}:
        raise Stale("it was never started")
    if step.status == "backing_off":
        if not event.outcome.is_final:
            raise Stale("it will be tried again already")
        execution = place.change(execution, retry_at=None)
    if step.status == "unknown":
        execution = execution.now(reason="")  # which was that nobody knew
    return _ended(begun(execution, event.at), place, event.outcome, event.at)


def on_skipped(execution: Execution, event: StepSkipped) -> Move:
    """Its ``when`` was false."""
    place, _ = expect(execution, event, ("pending",))
    if place.rolling_back:
        raise Stale("a rollback step is not skipped")
    skipped = place.change(begun(execution, event.at), status="skipped", error=event.reason, finished_at=event.at)
    return advance(skipped, event.at)


def on_interrupted(execution: Execution, event: StepInterrupted) -> Move:
    """The command reached another worker than the one that took it: with nothing started it is issued again."""
    place, step = expect(execution, event, ("pending", "approved", "started"))
    if step.status == "started":
        raise Stale("it was started: the lease decides")
    if execution.cancel_by is not None and not place.rolling_back:
        return cancelled(execution, event.at)
    return Move("step_reissued", place.change(execution, attempt=step.attempt + 1))


def on_resolved(execution: Execution, event: StepResolved) -> Move:
    """A person said how it ended: what they were asked about, and only once."""
    if execution.status != Status.attention:
        raise Stale("nothing waits for a person's word")
    about, doubt = (event.step, event.attempt), doubt_of(execution)
    if about not in {(None, None), doubt}:
        raise Stale(f"it is about step {event.step}, attempt {event.attempt}, and another one waits for an answer")
    said = f"{event.by} said it {event.outcome}" + (f": {event.comment}" if event.comment else "")
    if execution.verification is not None:
        if event.outcome == "succeeded":
            return _over("all_done", execution, event.at, said)
        return begin_rollback(execution, said, event.at, "person")
    place = forward_at(execution.cursor)
    if event.outcome == "succeeded":
        done = place.change(execution, status="succeeded", error=said, finished_at=event.at)
        return advance(done, event.at)
    return given_up(execution, place, said, event.at)


def doubt_of(execution: Execution) -> tuple[int | None, int | None]:
    """The step and attempt that a person is asked about in ``attention``; None where it is the check."""
    if execution.verification is not None:
        return None, None
    return execution.cursor, execution.steps[execution.cursor].attempt


def on_lease_end(execution: Execution, place: Place, at: datetime) -> Move:
    """The lease ran out: nobody knows how the step ended."""
    return _unknown(execution, place, ActionFailure(message=WORKER_LOST), Outcome(outcome="unknown"), at)


def advance(execution: Execution, at: datetime, changes: Mapping[str, Any] = NOTHING_ELSE) -> Move:
    """On to the next step, or to the end; changes: what else of the execution changes with it."""
    following = execution.cursor + 1
    if following >= len(execution.steps):
        return _complete(execution.now(**changes, cursor=following), at)
    onward = {**changes, "cursor": following, "reason": ""}
    if execution.cancel_by is not None:
        return cancelled(execution.now(**onward), at)
    return Move("step_done", execution, onward)


def begin_rollback(
    execution: Execution, reason: str, at: datetime, cause: RollbackCause, otherwise: Signal = "failed"
) -> Move:
    """Walk the steps back, or end at once, as otherwise says, where no step can be."""
    rollback = begun_rollback(execution, reason, cause, at)
    taken = execution.now(rollback=rollback, reason=reason)
    if rollback.pending() is None:
        return _over(otherwise, taken, at, reason)
    return Move("rollback_begun", taken)


def cancelled(execution: Execution, at: datetime) -> Move:
    """Stopped because somebody asked; what was begun and would have been tried again may have taken effect."""
    reason = f"cancelled by {execution.cancel_by}"
    left = _left(execution, reason, at)
    if left.cursor < len(left.steps):
        step = left.steps[left.cursor]
        if step.begun is not None and step.finished_at is None and step.status != "unknown":
            untold = step.error or "nobody knows whether it was applied"
            left = left.with_step(left.cursor, status="unknown", error=untold, finished_at=at, retry_at=None)
    return _over("cancelled", left, at, reason)


def halted(execution: Execution, at: datetime, reason: str) -> Move:
    """Stopped at a step that was rejected, or that nobody approved in time."""
    if execution.rollback is not None:
        return _over("halted", _left(execution, reason, at), at, f"{execution.reason}; {reason}")
    stopped = execution.with_step(execution.cursor, status="halted", error=reason, finished_at=at)
    if stopped.runbook.on_halt == "rollback":
        return begin_rollback(stopped, reason, at, "halt", otherwise="halted")
    return _over("halted", stopped, at, reason)


def _left(execution: Execution, reason: str, at: datetime) -> Execution:
    """With what is left of the way back not walked."""
    if execution.rollback is None:
        return execution
    return execution.now(rollback=execution.rollback.halted(reason, at))


def backoff_s(base_s: float, cap_s: float, failures: int, seed: str) -> float:
    """Seconds until the next try: doubling, capped, the upper half spread by the seed (equal jitter)."""
    full = min(cap_s, base_s * 2.0 ** min(failures - 1, 30))
    spread = int.from_bytes(hashlib.sha256(seed.encode()).digest()[:4], "big") / 2**32
    return full / 2 + full / 2 * spread


def expect(execution: Execution, event: "StepAnswer", statuses: tuple[str, ...]) -> tuple[Place, StepState]:
    """Where an answer belongs, and the state there.

    Raises Stale when it is not the answer to what is being done there.
    """
    place = Place.of(execution, event)
    if place is None:
        raise Stale(f"the execution is not at step {event.step}")
    step = place.step(execution)
    if event.attempt != step.attempt:
        raise Stale(f"attempt {event.attempt}, and the step is at attempt {step.attempt}")
    status = step.status
    if status not in statuses:
        raise Stale(f"the step is {status}")
    if not place.rolling_back:
        planned = status == "pending" and (execution.request.dry_run or place.asks(execution))
        if event.phase != ("prepare" if planned else "apply"):
            raise Stale(f"the step is not at its {event.phase} phase")
    return place, step


def plans_first(execution: Execution, index: int) -> bool:
    """Whether the step is only planned before anything else: it needs approval, or it is a dry run."""
    return execution.request.dry_run or forward_at(index).asks(execution)


def begun(execution: Execution, at: datetime) -> Execution:
    """The execution with its start, which the first thing that happens to it is."""
    return execution if execution.started_at is not None else execution.now(started_at=at)


def _ended(execution: Execution, place: Place, outcome: Outcome, at: datetime) -> Move:
    match outcome.outcome:
        case "succeeded":
            done = place.changes(
                execution,
                status="succeeded",
                output=outcome.output,
                truncated=outcome.truncated,
                error=None,
                finished_at=at,
                lease_until=None,
            )
            return _walked_back(execution.now(**done), at) if place.rolling_back else advance(execution, at, done)
        case "failed":
            return _failed(execution, place, outcome, at)
        case "unknown":
            error = outcome.error or ActionFailure(message="the outcome is unknown")
            return _unknown(execution, place, error, outcome, at)
        case _:
            assert_never(outcome.outcome)


def _failed(execution: Execution, place: Place, outcome: Outcome, at: datetime) -> Move:
    error = outcome.error or ActionFailure(message="it failed and gave no reason")
    told = place.change(execution, output=outcome.output, truncated=outcome.truncated)
    if error.temporary and not told.request.dry_run and _tries_left(told, place, _max_attempts(told, place)):
        return _try_later(told, place, error, at)
    drifted = place.rolling_back and error.drifted
    return given_up(told, place, error.message, at, status="drifted" if drifted else "failed")


def _unknown(execution: Execution, place: Place, error: ActionFailure, outcome: Outcome, at: datetime) -> Move:
    told = place.change(execution, output=outcome.output, truncated=outcome.truncated)
    tries = max(_max_attempts(told, place), UNKNOWN_ATTEMPTS)
    if place.rolling_back:
        policy = "retry" if _inverse_is_harmless(told, place) else "fail"
    else:
        policy = told.runbook.steps[place.index].unknown_policy
    if policy == "retry" and _tries_left(told, place, tries):
        return _try_later(told, place, error, at)
    if policy == "fail" or place.rolling_back:
        return given_up(told, place, error.message, at, status="unknown")
    waits = place.change(told, status="unknown", error=error.message, lease_until=None)
    return Move("outcome_unknown", waits.now(reason=f"step {place.index + 1}: {error.message}"))


def _max_attempts(execution: Execution, place: Place) -> int:
    if place.rolling_back:
        return ROLLBACK_ATTEMPTS
    return execution.runbook.steps[place.index].retries.max_attempts


def _inverse_is_harmless(execution: Execution, place: Place) -> bool:
    """Whether the inverse may be applied twice: derived ones carry preconditions, a declared one is a step like any."""
    back = place.step(execution)
    assert isinstance(back, RollbackStep)
    assert back.inverse is not None
    declared = execution.runbook.steps[back.index].rollback
    return not back.inverse.declared or (declared is not None and declared.harmless_twice)


def _tries_left(execution: Execution, place: Place, attempts: int) -> bool:
    stopping = execution.cancel_by is not None and not place.rolling_back
    return not stopping and place.step(execution).failures + 1 < attempts


def _try_later(execution: Execution, place: Place, error: ActionFailure, at: datetime) -> Move:
    step = place.step(execution)
    base_s, cap_s = ROLLBACK_BACKOFF_S, MAX_ROLLBACK_BACKOFF_S
    if not place.rolling_back:
        retries = execution.runbook.steps[place.index].retries
        base_s, cap_s = retries.backoff_seconds, retries.max_backoff_seconds
    seed = f"{execution.execution_id}/{execution.run}/{place.rolling_back}/{place.index}/{step.attempt}"
    delay_s = max(backoff_s(base_s, cap_s, step.failures + 1, seed), min(error.delay_s or 0, MAX_DELAY_S))
    waits = place.change(
        execution,
        status="backing_off",
        failures=step.failures + 1,
        error=error.message,
        lease_until=None,
        retry_at=at + timedelta(seconds=delay_s),
    )
    return Move("retry_waits", waits)


def given_up(execution: Execution, place: Place, message: str, at: datetime, status: str = "failed") -> Move:
    """A step that will not be tried again, and what comes of it."""
    step = place.step(execution)
    ended = place.change(
        execution,
        status=status,
        failures=step.failures + 1,
        error=message,
        finished_at=at,
        lease_until=None,
    )
    if place.rolling_back:
        assert ended.rollback is not None
        return _walked_back(ended.now(rollback=without_dependents(ended.rollback, place.index, at)), at)
    if execution.request.dry_run or execution.runbook.steps[place.index].continue_on_failure:
        return advance(ended, at)
    reason = f"step {place.index + 1} failed: {message}"
    if execution.runbook.rollback_on_failure:
        return begin_rollback(ended, reason, at, "failure")
    return _over("failed", ended, at, reason)


def _walked_back(execution: Execution, at: datetime) -> Move:
    assert execution.rollback is not None
    if execution.rollback.pending() is not None:
        return Move("rollback_continues", execution)
    bad = [step.index + 1 for step in execution.rollback.steps if step.status in NOT_TAKEN_BACK]
    if not bad:
        return _over("rollback_done", execution, at, execution.reason)
    named = ", ".join(str(number) for number in bad)
    return _over("rollback_failed", execution, at, f"{execution.reason}; step {named} was not taken back")


def _complete(execution: Execution, at: datetime) -> Move:
    failed = [index + 1 for index, step in enumerate(execution.steps) if step.status in {"failed", "unknown"}]
    named = ", ".join(str(number) for number in failed)
    if execution.request.dry_run:
        return (
            _over("failed", execution, at, f"step {named} cannot run")
            if failed
            else _over("all_done", execution, at, "")
        )
    check = execution.runbook.rollback_metric_check
    if check is not None and any(step.status == "succeeded" for step in execution.steps):
        if execution.cancel_by is not None:
            return cancelled(execution, at)
        verification = Verification(check_at=at + timedelta(minutes=check.check_after_minutes))
        return Move("check_waits", execution.now(verification=verification, reason=""))
    return _over("all_done", execution, at, f"step {named} failed and was passed over" if failed else "")


def _over(signal: Signal, execution: Execution, at: datetime, reason: str) -> Move:
    return Move(signal, execution, {"finished_at": at, "reason": reason})


StepAnswer = StepPrepared | StepStarted | StepHeartbeat | StepFinished | StepSkipped | StepInterrupted
