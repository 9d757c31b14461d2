"""What another definition would have done: its trigger, guards, locks and slots over what was recorded.

A fold like every other one: recorded anomalies and the tenant's log go in, in the order in which they happened, and one
``Decision`` for each anomaly comes out, beside what was really done. Nothing is started and nobody is asked.

A request that the log has is judged at its place in the log, with the times that stand there, so that the definition
that was in force is judged here exactly as it was then. An anomaly that the log has no request for is judged at the
time of its record.
"""

import heapq
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from app.core.anomaly import Anomaly
from app.core.catalog import Definition
from app.core.events import Event, ExecutionRequested, Limits
from app.core.execution import ENDS, Execution, Marker, Status, begin
from app.core.guards import Effect, Guard, RunbookRuns, Verdict
from app.core.lifecycle import evolve
from app.core.matching import request_of, seen_by_triggers, why_not
from app.core.occupancy import Occupancy
from app.core.pauses import PauseEnded, PausePut, Pauses
from app.core.runbook import Runbook
from app.core.step_state import StartVerdict
from app.core.survey import answered_by

KEPT_LONGER = timedelta(hours=1)
"""Like the live table's: what has ended is kept a little longer than its window."""

Result = Literal["runs", "asks", "plans", "blocked", "no_match", "repeated", "nothing", "unknown"]
"""asks: runs once somebody approved. plans: a dry run. blocked: guard says by what. repeated: the anomaly came
again and is the same execution. Of what was really done also nothing, and unknown where the log does not tell."""


class Answer(NamedTuple):
    """What becomes of an anomaly, or became. guard: what blocks it, or wants the approval."""

    result: Result
    guard: str | None = None
    reason: str = ""


class Decision(NamedTuple):
    """One anomaly.

    execution_id: None where none would be. waits_for: what would keep its execution from starting at once, None when
    nothing would.
    """

    anomaly_id: str
    service_id: str
    metric_name: str
    at: datetime
    execution_id: str | None
    would: Answer
    did: Answer
    waits_for: str | None = None

    @property
    def differs(self) -> bool:
        """Whether something else would be done than was; the wording of a reason is no difference."""
        if self.did.result == "unknown":
            return False
        same = {"no_match": "nothing", "repeated": "nothing"}
        would = same.get(self.would.result, self.would.result)
        return (would, self.would.guard) != (self.did.result, self.did.guard)


class Assumed(NamedTuple):
    """What is taken for granted where the log has no run: how long it lasts, and the limits in force."""

    lasts: timedelta
    limits: Limits = Limits()


NOTHING = Answer("nothing")
UNKNOWN = Answer("unknown")
PLANS = Answer("plans")
REPEATED = Answer("repeated")


class Backtest:
    """One definition over one tenant's records.

    tell is called with each decision, in order of the moment at which what was really done is known.
    """

    def __init__(self, definition: Definition, assumed: Assumed, tell: Callable[[Decision], None]) -> None:
        """Start with nothing recorded."""
        self.definition = definition
        self.assumed_runs = 0
        self._assumed = assumed
        self._tell = tell
        self._pauses = Pauses()
        self._runs = RunbookRuns()
        self._occupancy = Occupancy()
        self._offset = 0
        self._recorded: dict[str, Execution | Marker] = {}
        self._expiries: list[tuple[datetime, str]] = []
        self._own: dict[str, Execution] = {}
        self._open: dict[str, Decision] = {}
        self._unbacked: set[str] = set()
        self._to_start: set[str] = set()
        self._ends: list[tuple[datetime, str]] = []
        self._repeats: dict[str, datetime | None] = {}
        self._missed: set[str] = set()

    def pause_changed(self, change: PausePut | PauseEnded) -> None:
        """A pause came or went."""
        self._pauses.apply(change)

    def happened(self, event: Event, offset: int, seen: datetime) -> None:
        """One record of the tenant's log; seen: the time of the record."""
        self._pass(seen)
        self._offset = offset
        before = self._recorded.get(event.execution_id)
        after, refusal = evolve(before, event, offset)
        if refusal is not None or not isinstance(after, Execution):
            self._asked_again(event, seen)
            return
        self._keep(after)
        if after.runbook.name != self.definition.name:
            self._occupancy.follow(after, after.targets)
        elif isinstance(event, ExecutionRequested):
            self._requested(after)
        else:
            self._follow(after)
        self._start_assumed(seen)

    def unanswered(self, anomaly: Anomaly, seen: datetime) -> None:
        """One anomaly of the tenant that has no request of this runbook of its own; seen: the time of its record."""
        self._pass(seen)
        reason = self._why_not(anomaly)
        if reason is not None:
            self._tell(_decision(None, anomaly, seen, Answer("no_match", None, reason)))
            return
        request = self._request(anomaly, seen)
        if self._comes_again(request.execution_id, seen) or self._was_taken(request.execution_id, seen):
            self._tell(_decision(request, anomaly, seen, REPEATED))
            return
        simulated = begin(request, self._offset)
        answer, waits_for = self._judge(simulated)
        self._tell(_decision(request, anomaly, seen, answer, waits_for=waits_for))
        if request.execution_id in self._own:
            self._assume(simulated)
            self._start_assumed(seen)
        else:
            self._let_repeat(request, seen)

    def finish(self) -> None:
        """Nothing more comes: what is not known now stays so."""
        for decision in self._open.values():
            self._tell(decision)
        self._open.clear()

    def _requested(self, real: Execution) -> None:
        """The log has a request: judge it here, at its place."""
        request = real.request
        simulated = begin(self._as_candidate(request), real.run)
        still_at_work = real.execution_id in self._unbacked  # what was assumed to be over by now is not
        if request.anomaly is None or request.requested_by is not None:
            if not (simulated.terminal or still_at_work):
                self._begin(simulated)
            self._follow(real)
            return
        reason, waits_for = self._why_not(request.anomaly), None
        self._missed.discard(real.execution_id)
        if reason is not None:
            self._missed.add(real.execution_id)
            answer = Answer("no_match", None, reason)
        elif still_at_work or self._comes_again(real.execution_id, request.at):
            answer = REPEATED
        else:
            answer, waits_for = self._judge(simulated)
        self._open[real.execution_id] = _decision(request, request.anomaly, request.at, answer, UNKNOWN, waits_for)
        self._follow(real)

    def _asked_again(self, event: Event, seen: datetime) -> None:
        """What was refused may be a request for an anomaly that came again: it is new where the first one is missed."""
        anomaly = answered_by(event, self.definition.name)
        if anomaly is None or event.execution_id not in self._missed:
            return
        if self._why_not(anomaly) is None and not self._comes_again(event.execution_id, seen):
            self.unanswered(anomaly, seen)

    def _comes_again(self, name: str, at: datetime) -> bool:
        """Whether it is what would be already, though the log has no run of that."""
        until = self._repeats.get(name, at)
        return until is None or until > at

    def _was_taken(self, name: str, at: datetime) -> bool:
        """Whether it is what the log has a run of, and would have one."""
        recorded = self._recorded.get(name)
        if recorded is None or name in self._missed:
            return False
        return not isinstance(recorded, Marker) or recorded.dedup_until >= at

    def _judge(self, simulated: Execution) -> tuple[Answer, str | None]:
        if simulated.request.paused is not None:
            return Answer("blocked", "pause", simulated.request.paused), None
        if simulated.request.dry_run:
            return PLANS, None
        verdict, trace = Verdict("start"), simulated.trace()
        if simulated.awaits_verdict and trace is not None:
            verdict = self._runs.judge(simulated.runbook, trace)
        if verdict.effect == "skip":
            return Answer("blocked", verdict.guard, verdict.reason), None
        self._begin(simulated)
        return _started(simulated.runbook, verdict), self._occupancy.why_waiting(simulated.execution_id)

    def _begin(self, simulated: Execution) -> None:
        name, trace = simulated.execution_id, simulated.trace()
        if trace is not None:
            self._runs.begin(name, trace)
        self._own[name] = simulated
        self._occupancy.wait(simulated, simulated.targets)

    def _follow(self, real: Execution) -> None:
        """What was really done goes on: so does what would be, where it is a run too."""
        name = real.execution_id
        if name in self._open and (did := _done(real)) is not None:
            self._tell(self._open.pop(name)._replace(did=did))
        simulated = self._own.get(name)
        if real.taken_up_again:
            self._occupancy.follow(real, real.targets)
        elif simulated is None or name in self._unbacked:
            return
        elif real.status == Status.skipped or (real.request.dry_run and not simulated.request.dry_run):
            self._assume(simulated)
        elif real.finished_at is None:
            if real.status != Status.queued:
                self._occupancy.follow(real, simulated.targets)
        else:
            self._end(simulated, real.finished_at, real.status)

    def _assume(self, simulated: Execution) -> None:
        """The log has no run of it: it starts as soon as it may, and lasts as long as is assumed."""
        self.assumed_runs += 1
        self._unbacked.add(simulated.execution_id)
        self._to_start.add(simulated.execution_id)
        self._repeats[simulated.execution_id] = None

    def _start_assumed(self, at: datetime) -> None:
        if not self._to_start:
            return
        for name in self._occupancy.startable():
            if name in self._to_start:
                self._to_start.discard(name)
                self._occupancy.take(name, self._own[name].targets, holds_slot=True)
                heapq.heappush(self._ends, (at + self._assumed.lasts, name))

    def _pass(self, now: datetime) -> None:
        """Time passes: what was assumed to last until now ends, what nobody needs any more is forgotten."""
        while self._ends and self._ends[0][0] <= now:
            at, name = heapq.heappop(self._ends)
            simulated = self._own[name]
            self._unbacked.discard(name)
            self._end(simulated, at, Status.succeeded)
            self._let_repeat(simulated.request, at)
            self._start_assumed(at)
        while self._expiries and self._expiries[0][0] < now:
            _, name = heapq.heappop(self._expiries)
            self._forget(name, now)

    def _end(self, simulated: Execution, at: datetime, status: Status) -> None:
        name, trace = simulated.execution_id, simulated.trace()
        if trace is not None:
            self._runs.end(name, trace.ended(at, ENDS.get(status, "neither")))
        self._occupancy.leave(name)
        del self._own[name]

    def _keep(self, real: Execution) -> None:
        """As the live table does: an ended one shrinks."""
        if not real.terminal:
            self._recorded[real.execution_id] = real
            return
        marker = self._recorded[real.execution_id] = real.marker()
        heapq.heappush(self._expiries, (marker.dedup_until + KEPT_LONGER, real.execution_id))

    def _let_repeat(self, request: ExecutionRequested, ended_at: datetime) -> None:
        until = ended_at + timedelta(seconds=request.limits.dedup_window_s)
        self._repeats[request.execution_id] = until
        heapq.heappush(self._expiries, (until + KEPT_LONGER, request.execution_id))

    def _forget(self, name: str, now: datetime) -> None:
        recorded = self._recorded.get(name)
        if isinstance(recorded, Marker) and recorded.dedup_until < now:
            del self._recorded[name]
            self._missed.discard(name)
        until = self._repeats.get(name)
        if until is not None and until < now:
            del self._repeats[name]

    def _why_not(self, anomaly: Anomaly) -> str | None:
        trigger = self.definition.runbook.trigger
        assert trigger is not None
        return why_not(trigger, seen_by_triggers(anomaly))

    def _request(self, anomaly: Anomaly, at: datetime) -> ExecutionRequested:
        """What the matcher would have written."""
        return request_of(anomaly, self.definition, at, self._assumed.limits, self._pauses)

    def _as_candidate(self, request: ExecutionRequested) -> ExecutionRequested:
        """A recorded request, as it would have been for this definition; what was pinned of pauses and limits stays."""
        one = self.definition
        changed = {"runbook": one.runbook, "runbook_version": one.version, "runbook_digest": one.digest}
        if request.requested_by is not None or request.anomaly is None:
            return request.model_copy(update=changed)
        paused = self._paused(request.anomaly.service_id, request.at) if request.dry_run else request.paused
        dry_run = one.runbook.dry_run
        return request.model_copy(update={**changed, "dry_run": dry_run, "paused": None if dry_run else paused})

    def _paused(self, service_id: str, at: datetime) -> str | None:
        if self.definition.runbook.dry_run:
            return None
        pause = self._pauses.why_paused(self.definition.tenant, self.definition.name, service_id, at)
        return None if pause is None else pause.told()


def _decision(
    request: ExecutionRequested | None,
    anomaly: Anomaly,
    at: datetime,
    would: Answer,
    did: Answer = NOTHING,
    waits_for: str | None = None,
) -> Decision:
    return Decision(
        anomaly_id=anomaly.anomaly_id,
        service_id=anomaly.service_id,
        metric_name=anomaly.metric_name,
        at=at,
        execution_id=None if request is None else request.execution_id,
        would=would,
        did=did,
        waits_for=waits_for,
    )


def _started(runbook: Runbook, verdict: Verdict) -> Answer:
    if verdict.effect == "approve":
        return Answer("asks", verdict.guard, verdict.reason)
    return Answer("asks" if any(step.require_approval for step in runbook.steps) else "runs")


def _done(real: Execution) -> Answer | None:
    """What was really done; None while the log does not tell."""
    verdict = real.verdict
    if real.status == Status.skipped:
        if verdict is None:
            return Answer("blocked", "pause", real.reason)
        return Answer("blocked", verdict.guard, verdict.reason)
    if real.request.dry_run:
        return PLANS
    if real.awaits_verdict:
        return None
    if verdict is None and real.runbook.guarded:
        return UNKNOWN  # it was cancelled before it was judged
    return _started(real.runbook, Verdict("start") if verdict is None else Verdict(*verdict_of(verdict)))


def verdict_of(given: StartVerdict) -> tuple[Effect, Guard | None, str]:
    """Effect, guard and reason of a verdict that stands in the log."""
    return given.effect, given.guard, given.reason
