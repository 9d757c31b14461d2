"""Small builders, so that core tests read as scenarios: given events, then state and commands."""

from datetime import UTC, datetime, timedelta

from app.core.approving import notices_due
from app.core.commands import MetricCommand, NoticeCommand, StepCommand
from app.core.events import (
    ApprovalDecided,
    ApprovalNoticed,
    CancelRequested,
    Event,
    ExecutionRequested,
    Limits,
    MetricChecked,
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
from app.core.execution import Execution
from app.core.lifecycle import decide, evolve
from app.core.planning import ActionFailure, Inverse, Outcome, Prepared
from app.core.runbook import read_runbook

T0 = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)
LEASE = timedelta(seconds=15)
SCALE_BACK = {"type": "kubernetes", "action": "scale", "namespace": "n", "deployment": "d", "replicas": 3}


def slack(**fields):
    return {"type": "slack", "channel": "#c", "message": "m", **fields}


def scale(**fields):
    return {"type": "kubernetes", "action": "scale", "namespace": "n", "deployment": "d", "replicas": 5, **fields}


def http(**fields):
    return {"type": "http", "method": "POST", "url": "https://x.example/y", **fields}


def runbook(*steps, **fields):
    return read_runbook({"name": "r", "trigger": {"service_id": "s"}, "steps": list(steps) or [slack()], **fields})


def requested(*steps, at=T0, dry_run=False, by=None, limits=None, context=None, **fields):
    definition = runbook(*steps, **fields)
    return ExecutionRequested(
        tenant="default",
        execution_id="e",
        at=at,
        runbook=definition,
        runbook_version=1,
        runbook_digest=definition.digest(),
        dry_run=dry_run,
        requested_by=by,
        context=context or {},
        limits=limits or Limits(),
    )


def plan(summary="do it", *, inverse=False):
    if inverse:
        step = {**SCALE_BACK, "deployment": inverse} if isinstance(inverse, str) else SCALE_BACK
        return Prepared.of(summary, before={"replicas": 3}, inverse=Inverse(step=step, expected={"replicas": 5}))
    return Prepared.of(summary, manual_reason="it cannot be taken back")


class Story:
    """One execution and the events that have happened to it; times are seconds after T0."""

    def __init__(self, request: ExecutionRequested) -> None:
        self.offset = 0
        self.events: list[Event] = []
        self.state: Execution = None
        self.refusal = None
        self.seconds = 0.0
        self.tell(request)

    @property
    def status(self):
        return self.state.status.value

    @property
    def place(self) -> int:
        """The index of the step it stands at, forward or back."""
        place = self.state.standing
        return self.state.cursor if place is None else place.forward(self.state)

    @property
    def command(self) -> StepCommand | MetricCommand:
        (command,) = (one for one in decide(self.state) if not isinstance(one, NoticeCommand) and not is_before(one))
        return command

    @property
    def before_command(self) -> MetricCommand | None:
        """The reading before the first step, where it is due."""
        return next(filter(is_before, decide(self.state)), None)

    @property
    def notices(self) -> list[NoticeCommand]:
        """The messages that are to be posted or changed, at its end too."""
        return list(notices_due(self.state))

    def at(self, seconds: float) -> "Story":
        self.seconds = seconds
        return self

    @property
    def now(self):
        return T0 + timedelta(seconds=self.seconds)

    def tell(self, event: Event) -> "Story":
        self.offset += 1
        self.events.append(event)
        self.state, self.refusal = evolve(self.state, event, self.offset)
        return self

    def common(self):
        return {"tenant": "default", "execution_id": "e", "at": self.now}

    def answer(self, command=None):
        command = command or self.command
        return {
            **self.common(),
            "command_id": command.command_id,
            "run": command.run,
            "step": command.step_index,
            "phase": command.phase,
            "attempt": command.attempt,
        }

    def started(self, a_plan=None, command=None):
        return self.tell(self.start_event(a_plan, command))

    def start_event(self, a_plan=None, command=None):
        return StepStarted(**self.answer(command), plan=a_plan or plan(), lease_until=self.now + LEASE, worker="w")

    def prepared(self, a_plan=None, command=None):
        return self.tell(StepPrepared(**self.answer(command), plan=a_plan or plan()))

    def finished(self, command, outcome="succeeded", message=None, *, temporary=False, delay_s=None, output=None):
        error = ActionFailure(message=message, temporary=temporary, delay_s=delay_s) if message else None
        done = Outcome(outcome=outcome, output=output, error=error)
        return self.tell(StepFinished(**self.answer(command), outcome=done))

    def does(self, outcome="succeeded", message=None, *, inverse=False, **fields):
        """Start the due command and finish it."""
        command = self.command
        a_plan = plan(inverse=inverse)
        if command.expected_digest:
            a_plan = self.state.standing.step(self.state).plan
        return self.started(a_plan, command).finished(command, outcome, message, **fields)

    def skipped(self):
        return self.tell(StepSkipped(**self.answer(), reason="`x` is false"))

    def interrupted(self, command=None):
        return self.tell(StepInterrupted(**self.answer(command)))

    def heartbeat(self, command, until=60):
        return self.tell(StepHeartbeat(**self.answer(command), lease_until=T0 + timedelta(seconds=until)))

    def timer(self):
        return self.tell(TimerFired(**self.common()))

    def decided(self, decision="approve", by="ann", step=None, **fields):
        step = self.place if step is None else step
        return self.tell(ApprovalDecided(**self.common(), step=step, decision=decision, by=by, **fields))

    def noticed(self, command=None, **fields):
        """The message that is due is posted, or what the fields say."""
        command = command or self.notices[0]
        given = {"channel_id": "C1", "ts": f"{self.offset}.1"} if "error" not in fields else {}
        where = {"run": command.run, "step": command.step_index, "request": command.request, "notice": command.notice}
        return self.tell(ApprovalNoticed(**self.common(), **{**where, "version": command.version, **given, **fields}))

    def judged(self, effect="start", guard=None, reason=""):
        given = {"run": self.state.run, "effect": effect, "guard": guard, "reason": reason}
        return self.tell(StartJudged(**self.common(), **given))

    def cancel(self, by="ann"):
        return self.tell(CancelRequested(**self.common(), by=by))

    def back(self, by="bob", comment="", **fields):
        """Somebody wants it taken back, as it stands."""
        pinned = self.state.model_dump(mode="json")
        given = {**self.common(), "run": self.state.run, "by": by, "comment": comment, "finished": pinned}
        return self.tell(RollbackRequested(**(given | fields)))

    def resolved(self, outcome, comment="", **about):
        return self.tell(StepResolved(**self.common(), outcome=outcome, by="ann", comment=comment, **about))

    def measured(self, value, *, attempt=None, detail=""):
        attempt = attempt or self.command.attempt
        return self.tell(
            MetricChecked(**self.common(), run=self.state.run, attempt=attempt, value=value, detail=detail)
        )

    def measured_before(self, value, detail=""):
        said = {"run": self.state.run, "attempt": 1, "value": value, "detail": detail}
        return self.tell(MetricChecked(**self.common(), moment="before", **said))


def is_before(command) -> bool:
    return isinstance(command, MetricCommand) and command.moment == "before"


def story(*steps, **fields) -> Story:
    return Story(requested(*steps, **fields))
