"""The executions of the owned partitions, in memory: derived from the table, rebuilt after every rebalance."""

import heapq
from collections.abc import Iterable, Iterator
from datetime import datetime

from app.core.commands import Command
from app.core.execution import Execution, Marker, Status
from app.core.lifecycle import decide
from app.core.model import JsonObject
from app.core.scheduling import schedule

State = Execution | Marker


class Line:
    """One tenant's executions: who waits, in log order, and who holds a slot."""

    def __init__(self) -> None:
        """Start empty."""
        self.waiting: dict[str, int] = {}
        self.holding: set[str] = set()

    def startable(self) -> tuple[str, ...]:
        """Who may start now."""
        return schedule(self.waiting.items(), len(self.holding))


class ExecutionIndex:
    """All states by id, each tenant's line, and the markers by the end of their dedup window."""

    def __init__(self) -> None:
        """Start empty."""
        self._states: dict[str, State] = {}
        self._partitions: dict[str, int] = {}
        self._lines: dict[str, Line] = {}
        self._told: set[str] = set()
        self._expiries: dict[int, list[tuple[datetime, str]]] = {}

    def rebuild(self, rows: Iterable[tuple[int, State]]) -> None:
        """Forget everything and take these (partition, state) rows, in any order."""
        self.__init__()  # type: ignore[misc]
        for partition, state in sorted(rows, key=lambda row: row[1].run):
            self.put(partition, state)

    def get(self, execution_id: str) -> State | None:
        """What is known of an id."""
        return self._states.get(execution_id)

    def put(self, partition: int, state: State) -> None:
        """Take the newest state of an execution."""
        self._states[state.execution_id] = state
        self._partitions[state.execution_id] = partition
        self._told.discard(state.execution_id)
        line = self._lines.setdefault(state.tenant, Line())
        line.holding.discard(state.execution_id)
        if isinstance(state, Marker):
            line.waiting.pop(state.execution_id, None)
            heapq.heappush(self._expiries.setdefault(partition, []), (state.dedup_until, state.execution_id))
        elif state.status == Status.queued:
            line.waiting.setdefault(state.execution_id, state.request.limits.max_concurrent_runbooks)
        else:
            line.waiting.pop(state.execution_id, None)
            if state.holds_slot:
                line.holding.add(state.execution_id)
        if not line.waiting and not line.holding:
            del self._lines[state.tenant]

    def remove(self, execution_id: str) -> None:
        """Forget a marker."""
        self._states.pop(execution_id, None)
        self._partitions.pop(execution_id, None)

    def expired(self, partition: int, now: datetime, limit: int = 100) -> Iterator[str]:
        """Markers of a partition whose window is over, at most ``limit`` a call; each is given once."""
        heap = self._expiries.get(partition, [])
        for _ in range(limit):
            if not heap or heap[0][0] >= now:
                return
            until, execution_id = heapq.heappop(heap)
            state = self._states.get(execution_id)
            if isinstance(state, Marker) and state.dedup_until == until:
                yield execution_id

    def due(self, execution: Execution) -> Iterator[Command]:
        """What is outstanding for an execution, and for those of its tenant that may start and were not named yet.

        One that may start stays so until its first event, and every event of its tenant asks: telling each time would
        cost the work of all free slots an event, which made a burst stand still.
        """
        if execution.status != Status.queued or execution.cancel_by is not None:
            yield from decide(execution)
        line = self._lines.get(execution.tenant)
        for execution_id in line.startable() if line else ():
            state = self._states[execution_id]
            if isinstance(state, Execution) and execution_id not in self._told:
                self._told.add(execution_id)
                yield from decide(state)

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


def row_of(partition: int, state: State) -> JsonObject:
    """A table's row: the partition, and the state as JSON."""
    kind = "marker" if isinstance(state, Marker) else "execution"
    return {"partition": partition, kind: state.model_dump(mode="json")}


def state_of(row: JsonObject) -> State:
    """The state in a table's row."""
    if "marker" in row:
        return Marker.model_validate(row["marker"])
    return Execution.model_validate(row["execution"])
