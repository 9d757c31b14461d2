"""One tenant's executions, in memory: who waits for what, who may start, and what the guards say."""

from collections.abc import Callable

from app.core.execution import Execution, Marker, Status
from app.core.guards import RunbookRuns, Verdict
from app.core.locks import TargetLocks
from app.core.scheduling import schedule

State = Execution | Marker


class Line:
    """One tenant's executions."""

    def __init__(self) -> None:
        """Start empty."""
        self.waiting: dict[str, int] = {}
        self.holding: set[str] = set()
        self.locks = TargetLocks()
        self.verdicts: dict[str, Verdict] = {}
        self._runs: dict[str, RunbookRuns] = {}

    def put(self, state: State) -> None:
        """Take the newest state of an execution."""
        name = state.execution_id
        self.holding.discard(name)
        if isinstance(state, Marker):
            self._end(state)
        elif state.awaits_verdict:
            self._judge(state)
        elif state.status == Status.queued:
            self._begin(state)
            self.waiting.setdefault(name, state.request.limits.max_concurrent_runbooks)
            self.locks.wait(name, state.place_in_line, state.targets)
        else:
            self._begin(state)
            self.waiting.pop(name, None)
            self.locks.take(name, state.targets)
            if state.holds_slot:
                self.holding.add(name)

    def recall(self, state: State) -> None:
        """When the line is made anew, what came before: a run counts from its request on, whatever it is now."""
        trace = state.trace if isinstance(state, Marker) else None if state.awaits_verdict else state.trace()
        if trace is not None:
            self._runs_of(trace.runbook).begin(state.execution_id, trace)

    def recall_end(self, state: Execution) -> None:
        """One that is being taken back had ended before, and is not at work."""
        if (trace := state.trace()) is not None:
            self._runs_of(trace.runbook).end(state.execution_id, trace)

    def startable(self, paused: Callable[[str], bool]) -> tuple[str, ...]:
        """Who may start now; paused says of an execution whether somebody keeps it from starting."""
        ready = ((name, self.waiting[name]) for name in self.locks.ready() if not paused(name))
        return schedule(ready, len(self.holding))

    def forget(self, marker: Marker) -> None:
        """Let go of a marker."""
        if marker.trace is not None and (runs := self._runs.get(marker.trace.runbook)) is not None:
            runs.forget(marker.trace, marker.execution_id)
            if not runs:
                del self._runs[marker.trace.runbook]

    def __bool__(self) -> bool:
        """Whether anything is left to know."""
        return bool(self.waiting or self.holding or self.locks or self.verdicts or self._runs)

    def _judge(self, execution: Execution) -> None:
        """Once: what was said stands until the log has it."""
        trace = execution.trace()
        if trace is None or execution.execution_id in self.verdicts:
            return
        runs = self._runs_of(execution.runbook.name)
        verdict = runs.judge(execution.runbook, trace)
        self.verdicts[execution.execution_id] = verdict
        if verdict.effect != "skip":
            runs.begin(execution.execution_id, trace)

    def _begin(self, execution: Execution) -> None:
        self.verdicts.pop(execution.execution_id, None)
        trace = execution.trace()
        if trace is not None and not execution.taken_up_again:
            self._runs_of(trace.runbook).begin(execution.execution_id, trace)

    def _end(self, marker: Marker) -> None:
        said = self.verdicts.pop(marker.execution_id, None)
        if said is not None and marker.status == Status.skipped:
            for runs in self._runs.values():  # the log's verdict counts, whatever was said here
                runs.withdraw(marker.execution_id)
        self.waiting.pop(marker.execution_id, None)
        self.locks.leave(marker.execution_id)
        if marker.trace is not None:
            self._runs_of(marker.trace.runbook).end(marker.execution_id, marker.trace)

    def _runs_of(self, runbook: str) -> RunbookRuns:
        return self._runs.setdefault(runbook, RunbookRuns())
