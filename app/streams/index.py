"""The executions of the owned partitions, in memory: derived from the table, rebuilt after every rebalance."""

import heapq
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Any

from app.core.commands import Command
from app.core.execution import Execution, Marker, Status
from app.core.guards import Verdict
from app.core.lifecycle import decide
from app.core.model import JsonObject
from app.streams.lines import Line, State


class ExecutionIndex:
    """All states by id, each tenant's line, and the markers by the end of their dedup window."""

    def __init__(self, paused: Callable[[Execution], bool] = lambda _: False) -> None:
        """Start empty; paused says whether somebody keeps an execution from starting."""
        self._paused = paused
        self._states: dict[str, State] = {}
        self._partitions: dict[str, int] = {}
        self._lines: dict[str, Line] = {}
        self._told: set[str] = set()
        self._expiries: dict[int, list[tuple[datetime, str]]] = {}

    def rebuild(self, rows: Iterable[tuple[int, State]]) -> None:
        """Forget everything and take these (partition, state) rows, in any order."""
        self.__init__(self._paused)  # type: ignore[misc]
        known = list(rows)
        requested = [(state.run, False, partition, state) for partition, state in known]
        became = [(_place(state), True, partition, state) for partition, state in known]
        for _, is_now, partition, state in sorted([*requested, *became], key=lambda place: place[:2]):
            if is_now:
                self.put(partition, state)
            else:
                self._line(state.tenant).recall(state)

    def get(self, execution_id: str) -> State | None:
        """What is known of an id."""
        return self._states.get(execution_id)

    def put(self, partition: int, state: State) -> None:
        """Take the newest state of an execution."""
        self._states[state.execution_id] = state
        self._partitions[state.execution_id] = partition
        self._told.discard(state.execution_id)
        line = self._line(state.tenant)
        line.put(state)
        if isinstance(state, Marker):
            heapq.heappush(self._expiries.setdefault(partition, []), (state.until, state.execution_id))
        if not line:
            del self._lines[state.tenant]

    def remove(self, execution_id: str) -> None:
        """Forget a marker."""
        marker = self._states.pop(execution_id, None)
        if isinstance(marker, Marker) and (line := self._lines.get(marker.tenant)) is not None:
            line.forget(marker)
            if not line:
                del self._lines[marker.tenant]
        self._partitions.pop(execution_id, None)

    def verdict(self, execution: Execution) -> Verdict | None:
        """What the guards say of a request, for the log; None where they are not asked, or the log has it."""
        line = self._lines.get(execution.tenant)
        return None if line is None else line.verdicts.get(execution.execution_id)

    def expired(self, partition: int, now: datetime, limit: int = 100) -> Iterator[str]:
        """Markers of a partition whose window is over, at most ``limit`` a call; each is given once."""
        heap = self._expiries.get(partition, [])
        for _ in range(limit):
            if not heap or heap[0][0] >= now:
                return
            until, execution_id = heapq.heappop(heap)
            state = self._states.get(execution_id)
            if isinstance(state, Marker) and state.until == until:
                yield execution_id

    def due(self, execution: Execution) -> Iterator[Command]:
        """What is outstanding for an execution, and for those of its tenant that may start and were not named yet.

        One that may start stays so until its first event, and every event of its tenant asks: telling each time would
        cost the work of all free slots an event, which made a burst stand still.
        """
        if execution.status != Status.queued or execution.cancel_by is not None:
            yield from decide(execution)
        line = self._lines.get(execution.tenant)
        for execution_id in line.startable(self._is_paused) if line else ():
            state = self._states[execution_id]
            if isinstance(state, Execution) and execution_id not in self._told:
                self._told.add(execution_id)
                yield from decide(state)

    def _line(self, tenant: str) -> Line:
        return self._lines.setdefault(tenant, Line())

    def _is_paused(self, execution_id: str) -> bool:
        state = self._states[execution_id]
        return isinstance(state, Execution) and self._paused(state)

    def untold(self, execution_id: str) -> None:
        """What was named of it was not sent: name it again."""
        self._told.discard(execution_id)

    def live(self) -> Iterator[Execution]:
        """The executions that have not ended."""
        return (state for state in self._states.values() if isinstance(state, Execution))

    def queued(self) -> dict[str, int]:
        """How many wait, by tenant."""
        return {tenant: len(line.waiting) for tenant, line in self._lines.items()}

    def sizes(self) -> tuple[int, int]:
        """How many live executions and how many markers there are."""
        live = sum(1 for _ in self.live())
        return live, len(self._states) - live


def _place(state: State) -> int:
    """Where in the log it came to be what it is now for its line: an end counts from its own place."""
    if isinstance(state, Marker):
        return state.run if state.last_offset is None else state.last_offset
    return state.place_in_line


def row_of(partition: int, state: State) -> JsonObject:
    """A table's row: the partition, and the state as JSON."""
    kind = "marker" if isinstance(state, Marker) else "execution"
    return {"partition": partition, kind: state.model_dump(mode="json")}


def is_newer_row(before: JsonObject, row: JsonObject) -> bool:
    """Whether a row is of a later place in the log than another one of the same execution."""
    known, given = _place_of(before), _place_of(row)
    return None in known or None in given or given >= known


def _place_of(row: JsonObject) -> tuple[Any, Any]:
    state: Any = row.get("marker") or row["execution"]
    return state["run"], state.get("last_offset")  # markers of old have none


def state_of(row: JsonObject) -> State:
    """The state in a table's row."""
    if "marker" in row:
        return Marker.model_validate(row["marker"])
    return Execution.model_validate(row["execution"])
