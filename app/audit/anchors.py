"""The anchors beside the log: the first record that is not the one that was recorded, and what became of it."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from app.audit.findings import Difference, Report
from app.core.chain import NO_RECORD, SHORT, Anchor, linked, record_digest
from app.history.store import Store


class AnchorSource(Protocol):
    """Where anchors are: the history database, or signed files."""

    async def last_anchor(self, partition: int) -> Anchor | None:
        """The last anchor of a partition; None where there is none."""

    async def anchor_at(self, partition: int, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one; None after the last."""

    async def head_before(self, partition: int, offset: int) -> bytes:
        """The running hash up to an offset at which an anchor begins."""


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
        self._expected: int | None = None
        self.recorded_from = 0
        self.recorded_until = 0
        self._over = False

    async def begin(self) -> None:
        """Note how far the anchors reach; to be called before the end of the log is asked for."""
        first, last = await self._source.anchor_at(self._partition, 0), await self._source.last_anchor(self._partition)
        self.recorded_from = 0 if first is None else first.first_offset
        self.recorded_until = 0 if last is None else last.next_offset
        self._over = last is None

    def notes(self) -> Iterator[str]:
        """What these anchors leave uncovered."""
        if self._over:
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
        until = min(end, self.recorded_until)
        for place, record in enumerate(records):
            offset = record.offset
            if self._over or offset >= until:
                return
            anchor = self._anchor
            if anchor is None or self._head is None or offset >= anchor.next_offset or offset != self._expected:
                anchor = await self._reach(offset)
            if anchor is not None and offset >= anchor.first_offset:
                self._check(anchor, records, place)
            self._expected = offset + 1

    async def _reach(self, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one, after a look at what was passed over on the way."""
        if self._expected is not None and offset > self._expected:
            await self._passed_over(self._expected, offset)
        if self._anchor is None or offset >= self._anchor.next_offset:
            await self._next(offset)
        if self._head is None and self._anchor is not None and offset == self._anchor.first_offset:
            self._head = await self._source.head_before(self._partition, offset)
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
        before = self._anchor
        self._anchor = await self._source.anchor_at(self._partition, offset)
        if before is not None and (self._anchor is None or offset < self._anchor.first_offset):
            self.tell(offset, "no anchor tells of this record, though later and earlier ones are there")

    def _check(self, anchor: Anchor, records: Sequence[Any], place: int) -> None:
        record = records[place]
        offset = record.offset
        digest = record_digest(self._partition, offset, record.key, record.value)
        if digest[:SHORT] != anchor.short(offset):
            self.tell(offset, self._what_happened(anchor, record, records[place + 1 :]))
        elif self._head is not None:
            self._head = linked(self._head, digest)
            if offset == anchor.next_offset - 1 and self._head != anchor.head:
                self.tell(offset, "the running hash of the log up to here is not the one that was recorded")

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
            self._over = True
            self._report(Difference(self._partition, offset, "chain", "", f"{self._name}{detail}"))


class Noted(Protocol):
    """What takes differences, and notes of what could not be checked."""

    notes: list[str]

    def report(self, difference: Difference) -> None:
        """Take a difference."""


async def checks_of(
    partition: int, store: Store | None, signed: AnchorSource | None, result: Noted
) -> list[AnchorCheck]:
    """The checks of one partition against the history database, and against signed files, where there are any."""
    checks = []
    if store is not None:
        projected = await store.next_offset(partition)
        checks.append(AnchorCheck(store, partition, result.report))
        await checks[0].begin()
        checks[0].projected(projected)
    if signed is not None:
        checks.append(AnchorCheck(signed, partition, result.report, "signed file: "))
        await checks[-1].begin()
    result.notes += [note for check in checks for note in check.notes()]
    return checks
