"""What happens next in an execution whose steps all succeed: the events of a log that nobody had to carry out."""

from collections.abc import Callable
from datetime import datetime, timedelta

from app.core.commands import StepCommand
from app.core.events import CommandEvent, Event, ExecutionRequested, StepFinished, StepStarted
from app.core.execution import Execution
from app.core.lifecycle import decide
from app.core.planning import Outcome, Prepared

LEASE = timedelta(seconds=15)


def following(
    state: Execution, event: Event, at: datetime, plan_of: Callable[[StepCommand], Prepared]
) -> CommandEvent | None:
    """The event after one: a due command is started at this time, a started one has succeeded; None at the end."""
    if isinstance(event, ExecutionRequested | StepFinished):
        due = decide(state)
        if not due:
            return None
        (command,) = due
        assert isinstance(command, StepCommand)
        named = command.model_dump(include={"tenant", "execution_id", "command_id", "run", "phase", "attempt"})
        started = {"step": command.step_index, "at": at, "plan": plan_of(command), "lease_until": at + LEASE}
        return StepStarted(**named, **started, worker="w")
    answer = event.model_dump(exclude={"plan", "lease_until", "worker", "type"})
    return StepFinished(**answer, outcome=Outcome(outcome="succeeded", output={"status": 200}))
