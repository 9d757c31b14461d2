"""The anchors beside the log: the first record that is not the one that was recorded, and what became of it."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Protocol

from app.audit.findings import Difference, Report
from app.core.chain import NO_RECORD, NOTHING, SHORT, Anchor, linked, record_digest
from app.history.store import Store

ANOTHER_HASH = "the running hash of the log up to here is not the one that was recorded"
READ_AHEAD = 16  # anchors, of 8 KB each where they are full


class AnchorSource(Protocol):
    """Where anchors are: the history database, or signed files."""

    async def last_anchor(self, partition: int) -> Anchor | None:
        """The last anchor of a partition; None where there is none."""

    async def anchor_at(self, partition: int, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one; None after the last."""

    async def head_before(self, partition: int, offset: int) -> bytes:
        """The running hash up to an offset at which an anchor begins."""


class AnchorsAhead:
    """The anchors of one partition in the history, several in one query: an audit asks for them in their order."""

    def __init__(self, store: Store) -> None:
        """Read from this store."""
        self._store = store
        self._read: list[Anchor] = []
        self._read_from = 0

    async def last_anchor(self, partition: int) -> Anchor | None:
        """The last anchor of the partition; None where there is none."""
        return await self._store.last_anchor(partition)

    async def anchor_at(self, partition: int, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one; None after the last."""
        found = self._among_read(offset)
        if found is None:
            self._read, self._read_from = await self._store.anchors_at(partition, offset, READ_AHEAD), offset
            found = self._among_read(offset)
        return found

    def _among_read(self, offset: int) -> Anchor | None:
        if offset < self._read_from:
            return None
        return next((anchor for anchor in self._read if anchor.next_offset > offset), None)

    async def head_before(self, partition: int, offset: int) -> bytes:
        """The running hash up to an offset at which an anchor begins."""
        return await self._store.head_before(partition, offset)


class AnchorPoint(NamedTuple):
    """Where a check stands, as a checkpoint keeps it; hashes are hex, None where they are not known.

    told: whether its difference was told. entered: whether an anchor was come to. head: the running hash of what was
    read, before: the same where no anchor was come to yet. expected: the next offset. over: there is no more to say.
    until: how far the anchors reached when it began. Records are followed so far; what was read beyond is not again.
    """

    told: bool
    over: bool
    entered: bool
    head: str | None
    before: str | None
    expected: int | None
    until: int


class AnchorCheck:
    """Follows the anchors of one partition; after the first difference there is no more to say."""

    def __init__(self, source: AnchorSource, partition: int, report: Report, name: str = "") -> None:
        """Check against this source's anchors; name stands before what is told, where there are several sources."""
        self._source = source
        self._partition = partition
        self._report = report
        self._name = name
        self._anchor: Anchor | None = None
        self._head: bytes | None = None  # until the first anchor that is seen from its beginning
        self._before: bytes | None = None  # of what stands before the first anchor, where one before it is missing
        self._expected: int | None = None
        self._followed_until: int | None = None  # of a check that was stopped: how far its anchors reached
        self.recorded_from = 0
        self.recorded_until = 0
        self._entered = self._told = self._over = False

    async def begin(self) -> None:
        """Note how far the anchors reach; to be called before the end of the log is asked for."""
        first, last = await self._source.anchor_at(self._partition, 0), await self._source.last_anchor(self._partition)
        self.recorded_from = 0 if first is None else first.first_offset
        self.recorded_until = 0 if last is None else last.next_offset
        self._over = last is None
        if first is not None and await self._source.head_before(self._partition, first.first_offset) != NOTHING:
            self._before = NOTHING

    def go_on(self, point: AnchorPoint) -> None:
        """Go on where a check stood; to be called once it has begun."""
        self._told, self._entered, self._expected = point.told, point.entered, point.expected
        self._over, self._followed_until = self._over or point.over, point.until
        self._head, self._before = _bytes_of(point.head), _bytes_of(point.before)

    def point(self) -> AnchorPoint:
        """Where it stands."""
        head, before = (None if one is None else one.hex() for one in (self._head, self._before))
        return AnchorPoint(self._told, self._over, self._entered, head, before, self._expected, self._until)

    @property
    def _until(self) -> int:
        """How far records are followed."""
        if self._followed_until is None:
            return self.recorded_until
        return min(self.recorded_until, self._followed_until)

    def notes(self) -> Iterator[str]:
        """What these anchors leave uncovered."""
        if self._over and not self._told:
            yield f"{self._name}partition {self._partition} has no anchors: that nothing was altered is not shown"
        elif self.recorded_from > 0:
            yield f"{self._name}partition {self._partition} has no anchors before {self.recorded_from}"

    def projected(self, until: int) -> None:
        """Rows and anchors are written together: anchors that end before the rows do were taken away."""
        if self.recorded_until < until and not self._over:
            self.tell(self.recorded_until, f"the anchors end here, and the history goes on to {until - 1}")

    def finish(self, end: int) -> None:
        """All was taken, and the log ends at an offset: what was recorded beyond it is gone."""
        if end < self.recorded_until:
            self.tell(end, f"records {end} to {self.recorded_until - 1} were recorded and are gone from the end")

    async def take(self, records: Sequence[Any], end: int) -> None:
        """Take the next records of the log, those before offset end."""
        until, place = min(end, self._until), 0
        if self._expected is None and records and records[0].offset > 0:
            self._before = None  # the beginning of the log is gone
        while not self._over and place < len(records) and (offset := records[place].offset) < until:
            anchor = await self._reach(offset)
            if anchor is not None and offset >= anchor.first_offset:
                place = self._follow(anchor, records, place, min(until, anchor.next_offset))
            else:
                self._pass_before(records[place])
                place += 1
                self._expected = offset + 1

    def _pass_before(self, record: Any) -> None:
        """A record that no anchor has the digest of, though the running hash of a later one may cover it."""
        if self._before is not None:
            digest = record_digest(self._partition, record.offset, record.key, record.value)
            self._before = linked(self._before, digest)

    async def _reach(self, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one, after a look at what was passed over on the way."""
        if self._expected is not None and offset > self._expected:
            await self._passed_over(self._expected, offset)
        if self._anchor is None or offset >= self._anchor.next_offset:
            await self._next(offset)
        if self._head is None and self._anchor is not None and offset == self._anchor.first_offset:
            self._head = await self._source.head_before(self._partition, offset)
            if self._before is not None and self._before != self._head:
                self.tell(offset - 1, ANOTHER_HASH)
        return self._anchor

    async def _passed_over(self, start: int, end: int) -> None:
        """The log has no records from start to end: nor may the anchors."""
        anchor = await self._source.anchor_at(self._partition, start)
        if anchor is None:
            return
        offsets = range(max(start, anchor.first_offset), min(end, anchor.next_offset))
        gone = next((offset for offset in offsets if anchor.short(offset) != NO_RECORD), None)
        if gone is not None:
            self.tell(gone, f"record {gone} removed: the log goes on at {end}")

    async def _next(self, offset: int) -> None:
        self._anchor = await self._source.anchor_at(self._partition, offset)
        if self._entered and (self._anchor is None or offset < self._anchor.first_offset):
            self.tell(offset, "no anchor tells of this record, though later and earlier ones are there")

    def _follow(self, anchor: Anchor, records: Sequence[Any], place: int, end: int) -> int:
        """Check the records from a place on that follow each other without a hole, up to offset end; how far it came.

        Ends at the first one that is not what was recorded.
        """
        self._entered, self._before = True, None
        partition, head, expected = self._partition, self._head, records[place].offset
        shorts, start = anchor.digests, SHORT * (expected - anchor.first_offset)
        for at in range(place, min(len(records), place + end - expected)):
            record = records[at]
            if record.offset != expected:
                break
            digest = record_digest(partition, expected, record.key, record.value)
            if digest[:SHORT] != shorts[start : start + SHORT]:
                self.tell(expected, self._what_happened(anchor, record, records[at + 1 :]))
                break
            if head is not None:
                head = linked(head, digest)
            start, expected, place = start + SHORT, expected + 1, at + 1
        self._head, self._expected = head, expected
        if head is not None and expected == anchor.next_offset and head != anchor.head:
            self.tell(expected - 1, ANOTHER_HASH)
        return place

    def _what_happened(self, anchor: Anchor, record: Any, following: Sequence[Any]) -> str:
        """Whether the recorded record stands further on, or the one that stands here was recorded further on."""
        offset = record.offset
        for later in range(offset + 1, anchor.next_offset):
            if self._is(anchor, later, record):
                gone = f"records {offset} to {later - 1}" if later > offset + 1 else f"record {offset}"
                return f"{gone} removed: what stands here was recorded at {later}"
        for later in following:
            if self._is(anchor, offset, later):
                return f"inserted: what was recorded at this offset stands at {later.offset}"
        return "the record is not the one that was recorded at this offset"

    def _is(self, anchor: Anchor, offset: int, record: Any) -> bool:
        """Whether a record is what was recorded at an offset."""
        return record_digest(self._partition, offset, record.key, record.value)[:SHORT] == anchor.short(offset)

    def tell(self, offset: int, detail: str) -> None:
        """Report the first difference, and no other."""
        if not self._over:
            self._over = self._told = True
            self._report(Difference(self._partition, offset, "chain", "", f"{self._name}{detail}"))


class Noted(Protocol):
    """What takes differences, and notes of what could not be checked."""

    notes: list[str]

    def report(self, difference: Difference) -> None:
        """Take a difference."""


async def checks_of(
    partition: int, store: Store | None, signed: AnchorSource | None, result: Noted, points: Sequence[AnchorPoint] = ()
) -> list[AnchorCheck]:
    """The checks of one partition against the history database, and against signed files, where there are any.

    points: where they stood, if they go on.
    """
    checks = []
    projected = 0 if store is None else await store.next_offset(partition)
    if store is not None:
        checks.append(AnchorCheck(AnchorsAhead(store), partition, result.report))
    if signed is not None:
        checks.append(AnchorCheck(signed, partition, result.report, "signed file: "))
    for check in checks:
        await check.begin()
    for check, point in zip(checks, points, strict=False):
        check.go_on(point)
    result.notes += [note for check in checks for note in check.notes()]
    if store is not None:
        checks[0].projected(projected)
    return checks


def _bytes_of(text: str | None) -> bytes | None:
    return None if text is None else bytes.fromhex(text)
