"""The metric check: what is read when, and what the readings mean.

With ``samples`` readings, more than half of them beyond a bound take the steps back, and half of them within the bounds
end it well: of three or more, neither one spike nor one good moment decides. It is judged as soon as it is certain. A
reading without data is neither; where the missing ones could have turned it, there is no data.
"""

from datetime import datetime, timedelta
from typing import assert_never

from app.core.commands import Command, MetricCommand, StepCommand
from app.core.events import MetricChecked
from app.core.execution import Execution
from app.core.ids import command_id
from app.core.runbook import MetricCheck
from app.core.step_state import Reading, Verification
from app.core.stepping import Move, Stale, begin_rollback

CHECK_LEASE = timedelta(seconds=60)
CHECK_ATTEMPTS = 3
BEFORE_TOLERANCE = timedelta(seconds=5)
"""The first step and the reading before it are asked for at once: a metric does not move within that time."""


def check_again(execution: Execution, at: datetime) -> Move:
    """The time for the next reading has come, or nobody has answered for it."""
    verification = execution.verification
    assert verification is not None
    if not verification.due:
        asked = verification.now(due=True, lease_until=at + CHECK_LEASE)
        return Move("check_due", execution.now(verification=asked))
    unanswered = verification.unanswered + 1
    if unanswered >= CHECK_ATTEMPTS:
        return _after(execution, verification, Reading(at=at, value=None, detail="nobody answered the check"), at)
    again = verification.now(attempt=verification.attempt + 1, unanswered=unanswered, lease_until=at + CHECK_LEASE)
    return Move("check_due", execution.now(verification=again))


def on_metric(execution: Execution, event: MetricChecked) -> Move:
    """A reading has come."""
    reading = Reading(at=event.at, value=event.value, detail=event.detail)
    if event.moment == "before":
        return _before(execution, reading)
    verification = execution.verification
    if verification is None or not verification.due or event.attempt != verification.attempt:
        raise Stale("no such reading was asked for")
    return _after(execution, verification, reading, event.at)


def _before(execution: Execution, reading: Reading) -> Move:
    if execution.runbook.rollback_metric_check is None or execution.metric_before is not None:
        raise Stale("no such reading was asked for")
    begun = _first_begun(execution)
    if begun is not None and reading.at > begun + BEFORE_TOLERANCE:
        raise Stale("the first step had begun before it was read")
    return Move("metric_read", execution.now(metric_before=reading))


def _first_begun(execution: Execution) -> datetime | None:
    return min((step.started_at for step in execution.steps if step.started_at is not None), default=None)


def _after(execution: Execution, verification: Verification, reading: Reading, at: datetime) -> Move:
    check = _check_of(execution)
    readings = (*verification.readings, reading)
    read = verification.now(
        check_at=at + timedelta(seconds=check.interval_seconds),
        due=False,
        attempt=verification.attempt + 1,
        unanswered=0,
        lease_until=None,
        readings=readings,
    )
    told = execution.now(verification=read)
    values = [one.value for one in readings if one.value is not None]
    bad = [value for value in values if check.why_bad(value) is not None]
    if 2 * len(bad) > check.samples:
        return begin_rollback(told, _why_bad(check, bad), at, "metric")
    if 2 * (len(values) - len(bad)) >= check.samples:
        return Move("all_done", told.now(finished_at=at, reason=""))
    return Move("metric_read", told) if len(readings) < check.samples else _no_data(told, check, at)


def _why_bad(check: MetricCheck, bad: list[float]) -> str:
    reason = f"{check.metric_name} is {bad[-1]:g}, {check.why_bad(bad[-1])}"
    return reason if check.samples == 1 else f"{reason}, bad in {len(bad)} of {check.samples} readings"


def _no_data(execution: Execution, check: MetricCheck, at: datetime) -> Move:
    assert execution.verification is not None
    missing = [one.detail for one in execution.verification.readings if one.value is None]
    reason = f"no data for {check.metric_name}"
    if check.samples > 1:
        reason += f" in {len(missing)} of {check.samples} readings"
    if missing[-1]:
        reason += f": {missing[-1]}"
    match check.on_no_data:
        case "keep":
            return Move("all_done", execution.now(finished_at=at, reason=reason))
        case "rollback":
            return begin_rollback(execution, reason, at, "no_data")
        case "attention":
            return Move("check_unclear", execution.now(reason=reason))
        case _:
            assert_never(check.on_no_data)


def check_commands(execution: Execution) -> tuple[Command, ...]:
    """The reading that is due after the last step."""
    verification = execution.verification
    assert verification is not None
    if not verification.due:
        return ()
    name = command_id(execution.execution_id, execution.run, len(execution.steps), "metric", verification.attempt)
    ended = max((step.finished_at for step in execution.steps if step.finished_at is not None), default=None)
    command = _reading(execution, name).model_copy(update={"attempt": verification.attempt, "not_before": ended})
    return (command,)


def before_commands(execution: Execution, work: tuple[Command, ...]) -> tuple[Command, ...]:
    """The reading before the first step is applied: beside its command, so that it delays nothing."""
    first = _first_begun(execution) is None and any(isinstance(one, StepCommand) and _acts(one) for one in work)
    if not first or execution.runbook.rollback_metric_check is None or execution.metric_before is not None:
        return ()
    name = command_id(execution.execution_id, execution.run, 0, "metric", 1)
    return (_reading(execution, name).model_copy(update={"moment": "before"}),)


def _acts(command: StepCommand) -> bool:
    return command.phase == "apply" and not command.revoked


def _reading(execution: Execution, name: str) -> MetricCommand:
    check = _check_of(execution)
    return MetricCommand(
        command_id=name,
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        run=execution.run,
        attempt=1,
        check=check,
        service_id=check.service_id or execution.service_id or "",
    )


def _check_of(execution: Execution) -> MetricCheck:
    check = execution.runbook.rollback_metric_check
    assert check is not None
    return check
