"""The executions of the owned partitions, in memory: derived from the table, rebuilt after every rebalance."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple

import orjson

from app.core.commands import Command
from app.core.execution import Execution, Marker, Status
from app.core.guards import Verdict
from app.core.lifecycle import decide
from app.core.model import JsonObject
from app.streams.lines import Line, State
from app.streams.rows import Outline


class ExecutionIndex:
    """The executions that have not ended, by id, and each tenant's line; of those that have, what the guards remember.

    paused: whether somebody keeps an execution from starting. ended: the marker of an id, from where they are kept.
    """

    def __init__(
        self,
        paused: Callable[[Execution], bool] = lambda _: False,
        ended: Callable[[str], Marker | None] = lambda _: None,
    ) -> None:
        """Start empty."""
        self._paused = paused
        self._ended = ended
        self._live: dict[str, Execution] = {}
        self._lines: dict[str, Line] = {}
        self._told: set[str] = set()

    def rebuild(self, states: Iterable[State]) -> None:
        """Forget everything and take these, in any order."""
        self.__init__(self._paused, self._ended)  # type: ignore[misc]
        recalled: list[tuple[int, int, Callable[[], None]]] = []
        for state in states:
            line = self._line(state.tenant)
            recalled.append((state.run, 0, partial(line.recall, state)))
            if isinstance(state, Execution) and state.taken_up_again:
                recalled.append((_first_end_of(state), 1, partial(line.recall_end, state)))
            recalled.append((_place(state), 2, partial(self.put, state)))
        for _, _, recall in sorted(recalled, key=lambda place: place[:2]):
            recall()

    def __len__(self) -> int:
        """How many have not ended."""
        return len(self._live)

    def get(self, execution_id: str) -> State | None:
        """What is known of an id."""
        return self._live.get(execution_id) or self._ended(execution_id)

    def put(self, state: State) -> None:
        """Take the newest state of an execution."""
        if isinstance(state, Marker):
            self._live.pop(state.execution_id, None)
        else:
            self._live[state.execution_id] = state
        self._told.discard(state.execution_id)
        line = self._line(state.tenant)
        line.put(state)
        if not line:
            del self._lines[state.tenant]

    def forget(self, marker: Marker) -> None:
        """Let go of what a marker left that nobody needs any more."""
        if (line := self._lines.get(marker.tenant)) is not None:
            line.forget(marker)
            if not line:
                del self._lines[marker.tenant]

    def verdict(self, execution: Execution) -> Verdict | None:
        """What the guards say of a request, for the log; None where they are not asked, or the log has it."""
        line = self._lines.get(execution.tenant)
        return None if line is None else line.verdicts.get(execution.execution_id)

    def due(self, execution: Execution) -> Iterator[Command]:
        """What is outstanding for an execution, and for those of its tenant that may start and were not named yet.

        One that may start stays so until its first event, and every event of its tenant asks: telling each time would
        cost the work of all free slots an event, which made a burst stand still.
        """
        if execution.status != Status.queued or execution.cancel_by is not None:
            yield from decide(execution)
        line = self._lines.get(execution.tenant)
        for execution_id in line.startable(self._is_paused) if line else ():
            if execution_id not in self._told:
                self._told.add(execution_id)
                yield from decide(self._live[execution_id])

    def _line(self, tenant: str) -> Line:
        return self._lines.setdefault(tenant, Line())

    def _is_paused(self, execution_id: str) -> bool:
        return self._paused(self._live[execution_id])

    def untold(self, execution_id: str) -> None:
        """What was named of it was not sent: name it again."""
        self._told.discard(execution_id)

    def live(self) -> Iterator[Execution]:
        """The executions that have not ended."""
        return iter(self._live.values())

    def waiting(self, tenant: str) -> int:
        """How many of a tenant wait."""
        line = self._lines.get(tenant)
        return 0 if line is None else len(line.waiting)

    def queued(self) -> dict[str, int]:
        """How many wait, by tenant."""
        return {tenant: len(line.waiting) for tenant, line in self._lines.items()}

    def oldest_queued(self) -> dict[str, datetime]:
        """When what has waited longest for its start was requested, by tenant: the first of its line."""
        firsts = {tenant: next(iter(line.waiting), None) for tenant, line in self._lines.items()}
        return {tenant: self._live[name].request.at for tenant, name in firsts.items() if name is not None}

    def survey(self) -> "Survey":
        """What there is, in one walk over all of it."""
        attention, asked = Counter[str](), dict[str, list[datetime]]()
        for execution in self.live():
            attention[execution.tenant] += execution.status == Status.attention
            if (approval := execution.waiting) is not None:
                asked.setdefault(execution.tenant, []).append(approval.requested_at)
        return Survey(len(self._live), +attention, asked)


class Survey(NamedTuple):
    """How many live executions there are.

    By tenant: attention, how many wait for a person's word about an unknown outcome; asked, since when approvals are
    waited for.
    """

    live: int
    attention: Counter[str]
    asked: dict[str, list[datetime]]


def _place(state: State) -> int:
    """Where in the log it came to be what it is now for its line: an end counts from its own place."""
    if isinstance(state, Marker):
        if state.trace is not None and state.trace.offset is not None:
            return state.trace.offset
        return state.run if state.last_offset is None else state.last_offset
    return state.place_in_line


def _first_end_of(state: Execution) -> int:
    """Where in the log one that is being taken back had ended."""
    trace = state.trace()
    return state.run if trace is None or trace.offset is None else trace.offset


def row_of(partition: int, state: State) -> bytes:
    """A table's row: the partition, and the state, as JSON."""
    kind = "marker" if isinstance(state, Marker) else "execution"
    return f'{{"partition":{partition},"{kind}":{state.model_dump_json()}}}'.encode()


def outline_of(partition: int, state: State) -> Outline:
    """What the table must know of a row: markers end, and only those that guards remember are needed in memory."""
    if isinstance(state, Marker):
        return Outline(partition, state.until, state.trace is not None)
    return Outline(partition, None, indexed=True)


def outline_of_row(row: JsonObject) -> Outline:
    """The same of a row that was read."""
    partition: Any = row["partition"]
    if "marker" in row:
        return outline_of(partition, Marker.model_validate(row["marker"]))
    return Outline(partition, None, indexed=True)


def is_newer_row(before: JsonObject, row: JsonObject) -> bool:
    """Whether a row is of a later place in the log than another one of the same execution."""
    known, given = _place_of(before), _place_of(row)
    return None in known or None in given or given >= known


def _place_of(row: JsonObject) -> tuple[Any, Any]:
    state: Any = row.get("marker") or row["execution"]
    return state["run"], state.get("last_offset")  # markers of old have none


def state_of(value: bytes) -> State:
    """The state in a table's row."""
    row = orjson.loads(value)
    if "marker" in row:
        return Marker.model_validate(row["marker"])
    return Execution.model_validate(row["execution"])
