"""Whether a runbook may start by itself now: cooldown, runs an hour, circuit breaker.

A verdict is given once, when an execution is requested, from what the tenant's log held until then, and stands in the
log before the first command is sent; so it is the same for every reader, and a restart cannot change it.
"""

from collections import deque
from datetime import datetime, timedelta
from typing import Literal, NamedTuple

from app.core.model import Frozen, Instant
from app.core.runbook import CircuitBreaker, Runbook

HOUR = timedelta(hours=1)
FAILURES_KEPT = timedelta(hours=24)
"""A failure counts so long, or as long as its breaker stays open: then it is forgotten, whoever still remembers it."""
MAX_FAILURES = 1000  # a breaker counts at most 100
Effect = Literal["start", "skip", "approve"]
Guard = Literal["cooldown", "max_runs_per_hour", "circuit_breaker", "pause"]
End = Literal["good", "bad", "neither"]


class Verdict(NamedTuple):
    """What becomes of a request: it starts, is skipped, or starts after somebody approved; guard and reason say why."""

    effect: Effect
    guard: Guard | None = None
    reason: str = ""


class Trace(Frozen):
    """What guards remember of one run.

    keys: what it is about; its targets, else its service. at: when it was requested. ended_at: None while it is live.
    offset: of the event that ended it, where it was taken back later, by other events.
    """

    runbook: str
    keys: tuple[str, ...]
    at: Instant
    ended_at: Instant | None = None
    end: End = "neither"
    offset: int | None = None

    def ended(self, at: datetime, end: End, offset: int | None = None) -> "Trace":
        """The trace of the run when it has ended."""
        return self.model_copy(update={"ended_at": at, "end": end, "offset": offset})


def kept_for(runbook: Runbook) -> timedelta:
    """How long after its end a run of the runbook still counts."""
    needed = [timedelta(seconds=runbook.cooldown_seconds)]
    if runbook.max_runs_per_hour is not None:
        needed.append(HOUR)
    if runbook.circuit_breaker is not None:
        needed.append(_failures_kept(runbook.circuit_breaker))
    return max(needed)


def _failures_kept(breaker: CircuitBreaker) -> timedelta:
    return max(FAILURES_KEPT, timedelta(minutes=breaker.open_minutes))


class RunbookRuns:
    """The runs of one runbook of one tenant that still count."""

    def __init__(self) -> None:
        """Start with none."""
        self._live: dict[str, Trace] = {}
        self._at_work: dict[str, dict[str, None]] = {}
        self._last: dict[str, tuple[datetime, str]] = {}
        self._begun: deque[datetime] = deque()
        self._failed: deque[datetime] = deque(maxlen=MAX_FAILURES)

    def judge(self, runbook: Runbook, trace: Trace) -> Verdict:
        """Whether a run may start."""
        for refusal in (self._cooling(runbook, trace), self._broken(runbook, trace)):
            if refusal is not None:
                return refusal
        return self._too_many(runbook, trace) or Verdict("start")

    def begin(self, execution_id: str, trace: Trace) -> None:
        """A run that was not skipped counts from now on; once, however often it is told."""
        if execution_id in self._live:
            return
        self._live[execution_id] = trace
        for key in trace.keys:
            self._at_work.setdefault(key, {})[execution_id] = None
        while self._begun and self._begun[0] <= trace.at - HOUR:
            self._begun.popleft()
        self._begun.append(trace.at)

    def end(self, execution_id: str, trace: Trace) -> None:
        """A run has ended; one that did not count is passed over."""
        if not self.withdraw(execution_id) or trace.ended_at is None:
            return
        for key in trace.keys:
            self._last[key] = (trace.ended_at, execution_id)
        if trace.end == "bad":
            self._failed.append(trace.ended_at)
        elif trace.end == "good":
            self._failed.clear()

    def withdraw(self, execution_id: str) -> bool:
        """A run does not count as live any more; whether it did."""
        trace = self._live.pop(execution_id, None)
        for key in trace.keys if trace else ():
            at_work = self._at_work[key]
            del at_work[execution_id]
            if not at_work:
                del self._at_work[key]
        return trace is not None

    def forget(self, trace: Trace, execution_id: str) -> None:
        """Let go of what an old run left, unless a newer one left something since."""
        for key in trace.keys:
            if self._last.get(key, (None, ""))[1] == execution_id:
                del self._last[key]

    def __bool__(self) -> bool:
        """Whether anything still counts."""
        return bool(self._live or self._last)

    def _cooling(self, runbook: Runbook, trace: Trace) -> Verdict | None:
        if not runbook.cooldown_seconds:
            return None
        for key in trace.keys:
            if at_work := self._at_work.get(key):
                return _skip("cooldown", f"execution {next(iter(at_work))} of this runbook is at work on {key}")
            ended_at, execution_id = self._last.get(key, (None, ""))
            if ended_at is not None and trace.at < (until := ended_at + timedelta(seconds=runbook.cooldown_seconds)):
                said = f"execution {execution_id} of this runbook acted on {key} until {_told(ended_at)}"
                return _skip("cooldown", f"{said}; it may again at {_told(until)}")
        return None

    def _broken(self, runbook: Runbook, trace: Trace) -> Verdict | None:
        breaker = runbook.circuit_breaker
        if breaker is None:
            return None
        oldest = trace.at - _failures_kept(breaker)
        failed = [at for at in self._failed if at > oldest]
        if len(failed) < breaker.failures:
            return None
        said = f"{len(failed)} runs in a row failed, the last at {_told(failed[-1])}"
        until = failed[-1] + timedelta(minutes=breaker.open_minutes)
        if trace.at < until:
            return _skip("circuit_breaker", f"{said}; one may try again at {_told(until)}")
        trial = next(iter(self._live), None)
        return None if trial is None else _skip("circuit_breaker", f"{said}; execution {trial} is the trial")

    def _too_many(self, runbook: Runbook, trace: Trace) -> Verdict | None:
        most = runbook.max_runs_per_hour
        if most is None:
            return None
        recent = sum(1 for at in self._begun if at > trace.at - HOUR)
        if recent < most:
            return None
        effect: Effect = "approve" if runbook.when_exceeded == "approve" else "skip"
        return Verdict(effect, "max_runs_per_hour", f"{recent} runs in the last hour, and {most} may be")


def _skip(guard: Guard, reason: str) -> Verdict:
    return Verdict("skip", guard, reason)


def _told(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
