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
)
from app.core.ids import command_id, execution_id_for_anomaly
from app.core.steps import Step

GROUP = "group:"
CLOCKS_AGREE = timedelta(seconds=5)
Found = Sequence[tuple[Rule, str]]
NOTHING: Found = ()


@dataclass(slots=True)
class Asked:
    """A request for approval: of which plan, until when, and who has said yes to it."""

    digest: str
    deadline: datetime
    voters: list[str] = field(default_factory=list)


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
    ``forward/2`` or ``back/2``. rollback_by: who wanted a run taken back that had ended.
    """

    started: dict[str, Start] = field(default_factory=dict)
    asked: dict[str, Asked] = field(default_factory=dict)
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
                timeout = timedelta(seconds=request.runbook.approval_timeout_s(event.step))
                self.asked[_place(event)] = Asked(event.plan.digest, event.at + timeout)
            case ApprovalDecided():
                self._vote(request, event)
            case _:
                pass
        return NOTHING

    def _vote(self, request: ExecutionRequested, event: ApprovalDecided) -> None:
        asked = self.asked.get(f"{'forward' if self.rollback_by is None else 'back'}/{event.step}")
        if asked is None or event.decision != "approve" or event.refusal is not None or event.at >= asked.deadline:
            return
        step = request.runbook.steps[event.step]
        own = event.by == (self.rollback_by or request.requested_by) and not step.allow_self_approval
        meant = event.digest in {None, asked.digest}
        if meant and not own and _may(step, event) and event.by not in asked.voters:
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


def _may(step: Step, event: ApprovalDecided) -> bool:
    named = {*step.approvers, *step.escalate_to}
    if not step.approvers:
        return True
    return event.by in named or any(GROUP + group in named for group in event.groups)
