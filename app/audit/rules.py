"""The rules of a run, checked from its events alone: nothing here asks the product's fold what it thinks.

A start is judged whether the fold took it or not: the side effect came after the record either way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from app.audit.findings import Rule
from app.core.events import (
    ApprovalDecided,
    CommandEvent,
    Event,
    ExecutionRequested,
    RollbackRequested,
    StartJudged,
    StepFinished,
    StepPrepared,
    StepStarted,
    TimerFired,
)
from app.core.ids import command_id, execution_id_for_anomaly
from app.core.steps import Step

GROUP = "group:"
CLOCKS_AGREE = timedelta(seconds=5)
ESCALATE_AFTER = 0.75  # of the time there is
Found = Sequence[tuple[Rule, str]]
NOTHING: Found = ()


@dataclass(slots=True)
class Asked:
    """A request for approval: of which plan, the step's which, since when and until when, and who has said yes or no.

    escalated: whether those count too whom the step names for later. rejected_by: None where nobody has said no.
    """

    digest: str
    number: int
    at: datetime
    deadline: datetime
    escalated: bool = False
    voters: list[str] = field(default_factory=list)
    rejected_by: str | None = None

    def escalate(self, at: datetime) -> None:
        """A timer was taken at a time: from most of the request's own on, others may decide as well."""
        self.escalated = self.escalated or at >= self.at + ESCALATE_AFTER * (self.deadline - self.at)

    def is_meant(self, event: ApprovalDecided) -> bool:
        """Whether a decision is about this request, and came in its time."""
        named = event.request in {None, self.number} and event.digest in {None, self.digest}
        return named and event.at < self.deadline and (event.request is not None or event.at >= self.at)


class Start(NamedTuple):
    """Who started a command, and when."""

    worker: str
    at: datetime

    def told(self) -> str:
        """In a few words."""
        return f"{self.worker} {self.at.isoformat()}"


@dataclass(slots=True)
class Facts:
    """What a run's events have said so far.

    started: when and by whom each command was started, by its id. asked: the last request of each place, by
    ``forward/2`` or ``back/2``, in the order they were made. requests: how many there were of each step that has any.
    rollback_by: who wanted a run taken back that had ended.
    """

    started: dict[str, Start] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
    requests: dict[int, int] = field(default_factory=dict)
    verdict: str = "start"
    rollback_by: str | None = None

    def take(self, request: ExecutionRequested, event: Event, *, accepted: bool) -> Found:
        """Note an event of the run that this request began, and give what is wrong with it.

        accepted: whether the product's fold took it.
        """
        if type(event) is StepStarted:  # what is told most comes first
            return self._start(request, event)
        if type(event) is StepFinished:
            return self._finish(event) if accepted else NOTHING
        match event:
            case StartJudged() if accepted:
                self.verdict = event.effect
            case RollbackRequested() if accepted:
                self.rollback_by = event.by
                self.asked = {name: asked for name, asked in self.asked.items() if name.startswith("forward/")}
            case StepPrepared() if accepted and not request.dry_run:
                self._ask(request, event)
            case ApprovalDecided():
                self._vote(request, event)
            case TimerFired() if accepted and self.asked:
                self.asked[next(reversed(self.asked))].escalate(event.at)
            case _:
                pass
        return NOTHING

    def _ask(self, request: ExecutionRequested, event: StepPrepared) -> None:
        step, place = event.step, _place(event)
        number = self.requests[step] = self.requests.get(step, 0) + 1
        self.asked.pop(place, None)
        deadline = event.at + timedelta(seconds=request.runbook.approval_timeout_s(step))
        self.asked[place] = Asked(event.plan.digest, number, event.at, deadline)

    def _vote(self, request: ExecutionRequested, event: ApprovalDecided) -> None:
        asked = self.asked.get(f"{'forward' if self.rollback_by is None else 'back'}/{event.step}")
        if asked is None or event.refusal is not None or not asked.is_meant(event):
            return
        step = request.runbook.steps[event.step]
        decided = asked.rejected_by is not None or len(asked.voters) >= step.approvals_required
        if decided or event.by in asked.voters or not _may(step, event, escalated=asked.escalated):
            return
        if event.decision == "reject":
            asked.rejected_by = event.by
        elif step.allow_self_approval or event.by != (self.rollback_by or request.requested_by):
            asked.voters.append(event.by)

    def _start(self, request: ExecutionRequested, event: StepStarted) -> Found:
        wrong: list[tuple[Rule, str]] = []
        name, start = event.command_id, Start(event.worker, event.at)
        first = self.started.setdefault(name, start)
        if first is not start and first.told() != start.told():
            wrong.append(("started_twice", f"{name} was started by {first.told()}, and again by {start.told()}"))
        if request.dry_run:
            wrong.append(("not_started", f"a dry run started {name}"))
        steps = request.runbook.steps
        if event.step >= len(steps):
            return [*wrong, ("ids", f"the runbook has no step {event.step}")]
        step = steps[event.step]
        if not self._needs_approval(step, event):
            return wrong
        asked = self.asked.get(_place(event))
        if asked is None or asked.digest != event.plan.digest:
            wrong.append(("approval", f"step {event.step} was started with a plan that nobody was asked about"))
        elif asked.rejected_by is not None:
            wrong.append(("approval", f"step {event.step} was started after {asked.rejected_by} had rejected its plan"))
        elif len(asked.voters) < step.approvals_required:
            votes = f"{len(asked.voters)} of {step.approvals_required} approvals"
            wrong.append(("approval", f"step {event.step} was started with {votes} of plan {asked.digest}"))
        return wrong

    def _needs_approval(self, step: Step, event: StepStarted) -> bool:
        if event.phase == "rollback":
            return self.rollback_by is not None and step.require_approval
        if step.require_approval or self.verdict != "approve":
            return step.require_approval
        return not any(f"forward/{index}" in self.asked for index in range(event.step))

    def _finish(self, event: StepFinished) -> Found:
        if event.outcome.outcome != "succeeded":
            return NOTHING
        name, at = event.command_id, event.at
        started = self.started.get(name)
        if started is None:
            return [("not_started", f"{name} succeeded and was never started")]
        if at < started.at - CLOCKS_AGREE:
            return [("order", f"{name} ended {(started.at - at).total_seconds():g} s before it started")]
        return NOTHING


def wrong_ids(event: Event) -> Found:
    """What is wrong with the ids that an event carries."""
    if isinstance(event, CommandEvent):
        said = event.__dict__  # which takes a fraction of what as many attributes of a model take
        derived = command_id(said["execution_id"], said["run"], said["step"], said["phase"], said["attempt"])
        if said["command_id"] != derived:
            return [("ids", f"command {event.command_id} should be {derived}")]
    elif type(event) is ExecutionRequested and event.requested_by is None:
        if event.anomaly is None:
            return [("ids", "neither an anomaly nor a person asked for it")]
        derived = execution_id_for_anomaly(event.tenant, event.anomaly.anomaly_id, event.runbook.name)
        if event.execution_id != derived:
            return [("ids", f"the execution of anomaly {event.anomaly.anomaly_id} should be {derived}")]
    return NOTHING


def _place(event: CommandEvent) -> str:
    return f"{'back' if event.phase == 'rollback' else 'forward'}/{event.step}"


def _may(step: Step, event: ApprovalDecided, *, escalated: bool) -> bool:
    if not step.approvers:
        return True
    named = {*step.approvers, *(step.escalate_to if escalated else ())}
    by_name = event.by in named and not event.by.startswith(GROUP)
    return by_name or any(GROUP + group in named for group in event.groups)
