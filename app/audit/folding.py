"""One partition of the log, folded by the product's ``evolve`` and checked by rules that are not its own.

What has ended shrinks to a marker and two hashes, and goes once nothing can refer to it, by event time: memory
follows what is live and what ended within the dedup window, not the length of the log.
"""

import hashlib
import heapq
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from operator import itemgetter
from typing import Any, NamedTuple

import sqlalchemy as sa
from pydantic import TypeAdapter, ValidationError

from app.audit.decoding import decoded
from app.audit.findings import Difference, Report, Rule
from app.audit.rules import Facts, wrong_ids
from app.core.errors import RecordRefused
from app.core.events import (
    ApprovalDecided,
    CommandEvent,
    Event,
    ExecutionRequested,
    RollbackRequested,
    StepStarted,
)
from app.core.execution import TERMINAL, Execution, Marker
from app.core.lifecycle import evolve
from app.history.folding import row_of
from app.history.schema import EXECUTIONS

BEGINNINGS = frozenset({ExecutionRequested, RollbackRequested})  # events that a run, or its way back, begins with
MARKER_GRACE = timedelta(hours=1)  # as the workers keep them
MOMENT_STEP_S = 1.0  # what nobody needs any more may stay that much longer


class LogRecord(NamedTuple):
    """One record; timestamp in milliseconds since the epoch."""

    offset: int
    timestamp: int
    key: bytes | None
    value: bytes | None


@dataclass(slots=True)
class Known:
    """A run: its state and what its events said.

    Once it has ended it has no request any more, but the hash of its row, and the moment until which it is kept.
    """

    tenant: str
    state: Execution | Marker
    request: ExecutionRequested | None
    facts: Facts
    row_hash: str | None = None
    until_s: float = 0.0


class Requested(NamedTuple):
    """A run that began; run is the offset."""

    run: int
    execution_id: str


class Closed(NamedTuple):
    """A run as its row must be."""

    run: int
    execution_id: str
    status: str
    last_offset: int
    row_hash: str


@dataclass(slots=True)
class Position:
    """Where a fold stands, as a checkpoint keeps it: all of it but the differences.

    first_offset: where the log began.
    """

    partition: int
    next_offset: int
    first_offset: int = 0
    known: dict[str, Known] = field(default_factory=dict)
    moment_s: float = 0.0


POSITIONS: TypeAdapter[list[Position]] = TypeAdapter(list[Position])


class PartitionFold:
    """Folds the records of a partition in their order, reports differences, and gives what a history must hold."""

    def __init__(
        self, position: Position, partition_of: Mapping[str, int], report: Report, *, shown: bool = True
    ) -> None:
        """Go on at a position; partition_of says where each tenant's records belong.

        shown: whether rows are hashed with the items that pages show, which only a history has.
        """
        self.position = position
        self.requested: list[Requested] = []
        self.closed: list[Closed] = []
        self._partition_of = partition_of
        self._report = report
        self._shown = shown
        self._expiries: list[tuple[float, str, int]] = []
        for known in position.known.values():
            self._await_end(known)

    def feed(self, record: LogRecord) -> None:
        """Take the next record."""
        offset, position = record.offset, self.position
        if offset > position.next_offset:
            self._tell(offset, "offsets", f"records {position.next_offset} to {offset - 1} are missing")
        position.next_offset = offset + 1
        try:
            event, digest_holds = decoded(record.value)
        except RecordRefused as error:
            self._tell(offset, "unreadable", str(error))
            return
        tenant = event.tenant
        self._check(record, event, tenant)
        if not digest_holds:
            self._tell(offset, "digest", f"what the {event.type} carries is not what its digest says", event)
        known = position.known.get(event.execution_id)
        if known is not None and known.tenant != tenant:
            self._tell(offset, "tenant", f"{tenant} speaks of an execution of {known.tenant}", event)
            return
        self._fold(known, event, offset)
        written_s = record.timestamp / 1000
        if written_s > position.moment_s + MOMENT_STEP_S:
            position.moment_s = max(position.moment_s, min(event.at.timestamp(), written_s))
            self._expire()

    def _check(self, record: LogRecord, event: Event, tenant: str) -> None:
        offset = record.offset
        if record.key != tenant.encode():
            self._tell(offset, "key", f"the key is {record.key!r} and the tenant {tenant}", event)
        elif (partition := self._partition_of[tenant]) != self.position.partition:
            self._tell(offset, "key", f"{tenant} belongs to partition {partition}", event)
        for rule, detail in wrong_ids(event):
            self._tell(offset, rule, detail, event)

    def _fold(self, known: Known | None, event: Event, offset: int) -> None:
        before = None if known is None else known.state
        after, refusal = evolve(before, event, offset)
        if refusal is not None or not isinstance(after, Execution):
            self._judge_refused(known, event, offset)
            return
        if known is None or type(event) in BEGINNINGS:
            known = self._begun(known, event, after, offset)
        known.state = after
        if known.request is not None:
            for rule, detail in known.facts.take(known.request, event, accepted=True):
                self._tell(offset, rule, detail, event)
        if after.status in TERMINAL:
            known.row_hash = self._row_hash(after)
            known.state, known.request = after.marker(), None
            self._await_end(known)

    def _judge_refused(self, known: Known | None, event: Event, offset: int) -> None:
        """What changes nothing in the state may still have been a start, or be what a later start goes by."""
        if type(event) is StepStarted and not self._can_have_begun(event.run, known):
            self._tell(offset, "not_requested", f"{event.command_id} was started, and nobody requested this run", event)
        if known is None or known.request is None or _is_of_another_run(event, known.state.run):
            return
        for rule, detail in known.facts.take(known.request, event, accepted=False):
            self._tell(offset, rule, detail, event)

    def _can_have_begun(self, run: int, known: Known | None) -> bool:
        """Whether there can have been a run; known: what there is of its execution. Earlier ones are forgotten."""
        return 0 <= run < self.position.first_offset if known is None else 0 <= run <= known.state.run

    def _begun(self, known: Known | None, event: Event, after: Execution, offset: int) -> Known:
        """The run, or its way back, that an event began which was taken; known: what there was before."""
        if isinstance(event, ExecutionRequested):
            self._close(known)
            known = Known(event.tenant, after, event, Facts())
            self.requested.append(Requested(offset, event.execution_id))
        elif isinstance(event, RollbackRequested):
            known = self._taken_up_again(known, event, after, offset)
        assert known is not None
        self.position.known[event.execution_id] = known
        return known

    def _taken_up_again(self, known: Known | None, event: RollbackRequested, after: Execution, offset: int) -> Known:
        facts = Facts() if known is None else known.facts
        facts.requests = {index: _last_request(after, index) for index in range(len(after.steps))}
        ended = None if known is None else known.row_hash
        if ended is not None and ended != self._row_hash_of_pinned(event):
            self._tell(offset, "pinned", "the state that was pinned is not the one it ended in", event)
        return Known(event.tenant, after, after.request, facts)

    def _await_end(self, known: Known) -> None:
        state = known.state
        if isinstance(state, Marker):
            known.until_s = (state.until + MARKER_GRACE).timestamp()
            heapq.heappush(self._expiries, (known.until_s, state.execution_id, state.run))

    def _expire(self) -> None:
        while self._expiries and self._expiries[0][0] < self.position.moment_s:
            until, execution_id, run = heapq.heappop(self._expiries)
            known = self.position.known.get(execution_id)
            if known is None or not isinstance(known.state, Marker) or known.state.run != run:
                continue
            if known.until_s == until:
                self._close(known)
                del self.position.known[execution_id]

    def _close(self, known: Known | None) -> None:
        if known is not None:
            self.closed.append(self._closed(known))

    def _closed(self, known: Known) -> Closed:
        state = known.state
        if isinstance(state, Marker):
            assert known.row_hash is not None
            return Closed(state.run, state.execution_id, state.status, state.last_offset or 0, known.row_hash)
        return Closed(state.run, state.execution_id, state.status, state.last_offset, self._row_hash(state))

    def _row_hash(self, state: Execution) -> str:
        return row_hash(row_of(state, self.position.partition, shown=self._shown))

    def _row_hash_of_pinned(self, event: RollbackRequested) -> str | None:
        try:
            return self._row_hash(Execution.model_validate(event.finished))
        except ValidationError:
            return None

    def remaining(self) -> Iterator[Closed]:
        """All that is known still, as it stands."""
        return (self._closed(known) for known in self.position.known.values())

    def _tell(self, offset: int, rule: Rule, detail: str, event: Event | None = None) -> None:
        named = "" if event is None else event.execution_id
        self._report(Difference(self.position.partition, offset, rule, named, detail))


def _last_request(state: Execution, index: int) -> int:
    """The number of the last request for approval of a step; 0 where there was none."""
    return max((one.number for one in state.requests(index)), default=0)


def _is_of_another_run(event: Event, run: int) -> bool:
    return isinstance(event, (CommandEvent, ApprovalDecided)) and event.run not in {None, run}


ROW_COLUMNS = tuple(sorted(column.name for column in EXECUTIONS.c))
TRUTHS = tuple(name for name in ROW_COLUMNS if isinstance(EXECUTIONS.c[name].type, sa.Boolean))
_ROW_TEXT = "\x1f".join(f"{name}={'%d' if name in TRUTHS else '%s'}" for name in ROW_COLUMNS)
_in_order = itemgetter(*ROW_COLUMNS)


def row_hash(row: Mapping[str, Any]) -> str:
    """A hash of a row of the history, whichever database it stands in."""
    return values_hash(_in_order(row))


def values_hash(values: tuple[Any, ...]) -> str:
    """The same of a row's values in the order of ROW_COLUMNS; those of TRUTHS may be numbers."""
    return hashlib.sha256((_ROW_TEXT % values).encode()).hexdigest()
