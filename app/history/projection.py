"""Batches of the log into the database: what the projector does with the records it has read.

What is not at hand is looked up in the database, so forgetting costs a query and never an answer.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

from prometheus_client import CollectorRegistry, Counter

from app.core.chain import ANCHOR_EVERY, Anchor, extended, record_digest
from app.core.errors import RecordRefused
from app.core.events import read_event
from app.core.execution import Execution
from app.history.folding import Happened, Runs, fold, latest_of, row_of
from app.history.signed_anchors import AnchorSigner
from app.history.store import Store

SLICE = 100  # records folded before anything else on the event loop gets its turn
MAX_AT_HAND = 50_000
Item = TypeVar("Item")
Tell = Callable[[Mapping[int, int], Iterable[Execution]], None]
"""Is told of each batch: where its partitions stand, and what it changed."""
logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """One record as it was read."""

    offset: int
    value: bytes | None
    key: bytes | None = None

    @classmethod
    def of(cls, read: Any) -> "Record":
        """One as a consumer hands it out."""
        return cls(read.offset, read.value, read.key)


@dataclass(eq=False)
class Place:
    """Where one partition stands: the next offset to fold, the latest runs of its live executions, the open anchor."""

    partition: int
    next_offset: int
    at_hand: dict[str, Execution]
    anchor: Anchor = field(default_factory=partial(Anchor.beginning, 0))

    def of(self, execution_ids: Iterable[str]) -> dict[str, Execution]:
        """Those of these executions that are at hand."""
        return {name: self.at_hand[name] for name in execution_ids if name in self.at_hand}

    def move_on(self, next_offset: int, changed: Mapping[str, Execution]) -> None:
        """Keep the live ones of what was written; an ended one is read again in the rare case that it is named."""
        self.next_offset = next_offset
        for execution_id, execution in changed.items():
            if execution.terminal:
                self.at_hand.pop(execution_id, None)
            else:
                self.at_hand[execution_id] = execution
        if len(self.at_hand) > MAX_AT_HAND:
            self.at_hand.clear()


class Read(NamedTuple):
    """The records of one partition that are new to it, what they say, and of which executions."""

    place: Place
    fresh: list[Record]
    happened: list[Happened]
    executions: set[str]


class Folded(NamedTuple):
    """What the records of one partition come to, not written yet."""

    place: Place
    next_offset: int
    runs: Runs
    rows: list[dict[str, Any]]
    anchors: list[Anchor]


class Projection:
    """Folds records and writes what they changed."""

    batch_records = 2000
    """Records that are projected at once."""

    def __init__(
        self,
        store: Store,
        registry: CollectorRegistry,
        tell: Tell | None = None,
        signer: AnchorSigner | None = None,
        anchor_every: int = ANCHOR_EVERY,
    ) -> None:
        """Write to this store; count in this registry; tell of what is written; have anchors signed."""
        self._store = store
        self._tell = tell
        self._signer = signer
        self._anchor_every = anchor_every
        self._projected = Counter(
            "runbooks_projected_events", "Records of the log folded into the database.", registry=registry
        )
        self._unreadable = Counter(
            "runbooks_projector_unreadable", "Records of the log that could not be read.", registry=registry
        )

    async def load(self, partition: int) -> Place:
        """Where the database stands; raises DATABASE_ERRORS."""
        next_offset = await self._store.next_offset(partition)
        live = await self._store.live(partition, MAX_AT_HAND)
        if self._signer is not None:
            await self._signer.sign(partition)
        anchor = await self._store.last_anchor(partition) or Anchor.beginning(next_offset)
        return Place(partition, next_offset, {execution.execution_id: execution for execution in live}, anchor)

    async def project(self, batches: Iterable[tuple[Place, Sequence[Record]]]) -> dict[int, int]:
        """Write what the records of some partitions change, all or nothing: the next offset of each that moved.

        Records that are folded already, and records that cannot be read, are passed over.
        Raises OffsetMoved or DATABASE_ERRORS; no place has moved then.
        """
        found = [await self._read(place, records) for place, records in batches]
        read = [new for new in found if new is not None]
        if not read:
            return {}
        latest = await self._latest(read)
        folded = [await self._fold(new, latest.get(new.place.partition, {})) for new in read]
        offsets = {one.place.partition: (one.place.next_offset, one.next_offset) for one in folded}
        anchors = {one.place.partition: one.anchors for one in folded}
        await self._store.write([row for one in folded for row in one.rows], offsets, anchors)
        for one in folded:
            one.place.anchor = one.anchors[-1]
            self._projected.inc(one.next_offset - one.place.next_offset)
            one.place.move_on(one.next_offset, latest_of(one.runs))
        ends = {one.place.partition: one.next_offset for one in folded}
        for one in folded:
            if self._signer is not None and len(one.anchors) > 1:
                await self._signer.sign(one.place.partition)
        if self._tell is not None:
            self._tell(ends, [state for one in folded for state in one.runs.values()])
        return ends

    async def _read(self, place: Place, records: Sequence[Record]) -> Read | None:
        """What is new to the partition; None when nothing is."""
        fresh = [record for record in records if record.offset >= place.next_offset]
        if not fresh:
            return None
        happened = [one async for part in _slices(fresh) for one in self._readable(place.partition, part)]
        return Read(place, fresh, happened, {one.event.execution_id for one in happened})

    async def _latest(self, read: Iterable[Read]) -> Mapping[int, dict[str, Execution]]:
        """By partition, the latest runs of the executions that are not at hand."""
        missing = {new.place.partition: new.executions - new.place.at_hand.keys() for new in read}
        wanted = {partition: names for partition, names in missing.items() if names}
        return await self._store.latest(wanted) if wanted else {}

    async def _fold(self, read: Read, latest: dict[str, Execution]) -> Folded:
        """latest: the runs before the batch of what is not at hand."""
        place = read.place
        known = place.of(read.executions) | latest
        runs: Runs = {}
        async for events in _slices(read.happened):
            changed = fold(known, events)
            known |= latest_of(changed)
            runs |= changed
        rows = [row_of(state, place.partition) async for part in _slices(list(runs.values())) for state in part]
        return Folded(place, read.fresh[-1].offset + 1, runs, rows, list(self._anchors(place, read.fresh)))

    def _anchors(self, place: Place, records: Iterable[Record]) -> Iterator[Anchor]:
        """What these records add; some are anchored already where a rival was faster, or offsets were set back."""
        new = (one for one in records if one.offset >= place.anchor.next_offset)
        digests = ((one.offset, record_digest(place.partition, one.offset, one.key, one.value)) for one in new)
        return extended(place.anchor, digests, self._anchor_every)

    def _readable(self, partition: int, records: Iterable[Record]) -> Iterator[Happened]:
        for record in records:
            try:
                yield Happened(record.offset, read_event(record.value))
            except RecordRefused as error:
                self._unreadable.inc()
                named = {"partition": partition, "offset": record.offset}
                logger.warning("event_refused", extra={**named, "error": str(error)})


async def _slices(items: Sequence[Item]) -> AsyncIterator[Sequence[Item]]:
    """The items in slices, with a turn for everything else on the event loop after each."""
    for start in range(0, len(items), SLICE):
        yield items[start : start + SLICE]
        await asyncio.sleep(0)
