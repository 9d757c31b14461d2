"""What is answered for a command that no record can hold: nobody will ever take it, so nothing was done."""

from datetime import datetime
from typing import Any, assert_never

from app.core.commands import Command, MetricCommand, NoticeCommand, StepCommand
from app.core.events import ApprovalNoticed, CancelRequested, Event, MetricChecked, StepFinished, StepInterrupted
from app.core.execution import Execution, Status
from app.core.planning import ActionFailure, Outcome

BY = "runbooks"
"""Who stops what the log cannot hold."""


def answer_for(command: Command, why: str, at: datetime) -> Event:
    """The step failed, the message could not be posted, the metric could not be read: as its agent would say it."""
    common: dict[str, Any] = {
        "tenant": command.tenant,
        "execution_id": command.execution_id,
        "at": at,
        "run": command.run,
    }
    match command:
        case NoticeCommand():
            named = command.model_dump(include={"request", "notice", "version"})
            return ApprovalNoticed(**common, **named, step=command.step_index, error=why)
        case MetricCommand():
            return MetricChecked(**common, attempt=command.attempt, value=None, detail=why)
        case StepCommand():
            named = command.model_dump(include={"command_id", "phase", "attempt"})
            answer = {**common, **named, "step": command.step_index}
            if command.revoked:
                return StepInterrupted(**answer)
            return StepFinished(**answer, outcome=Outcome(outcome="failed", error=ActionFailure(message=why)))
        case _:
            assert_never(command)


def stop_of(execution: Execution, why: str, at: datetime) -> CancelRequested | None:
    """What ends an execution whose state has grown too large to be kept; None when it is ending by itself."""
    if execution.terminal or execution.cancel_by is not None or execution.status == Status.rolling_back:
        return None
    return CancelRequested(tenant=execution.tenant, execution_id=execution.execution_id, at=at, by=BY, comment=why)
