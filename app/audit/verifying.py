"""``audit verify``: every partition from the beginning to the end it had at the start, beside history and table."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from aiokafka.structs import TopicPartition
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.anchors import AnchorCheck, checks_of
from app.audit.checkpoint import Checkpoint, PartitionPoint, fingerprint, read_checkpoint
from app.audit.comparing import START, HistoryComparison, tell_projected, tell_strays
from app.audit.findings import Difference
from app.audit.folding import LogRecord, PartitionFold, Position
from app.audit.history_rows import PAGE, HistoryRows, not_begun
from app.audit.live_table import read_live_tables
from app.audit.reading import BATCH_RECORDS, POLL_MS, STALLED_S, NoSuchTopic, Progress, ends_of, log_consumer, places_of
from app.clients.kafka import Consumer
from app.core.errors import RunbooksError
from app.history.signed_anchors import SignedAnchors
from app.history.store import Store
from app.streams.connection import KafkaConnection
from app.streams.topics import partition_of

CHECKPOINT_S = 30.0
MAX_DIFFERENCES = 10_000  # told; more are only counted


@dataclass(slots=True)
class Result:
    """What an audit found.

    left_out: rows that moved on meanwhile, or were not written yet. notes: what was not checked.
    """

    records: int = 0
    seconds: float = 0.0
    differences: list[Difference] = field(default_factory=list)
    count: int = 0
    left_out: int = 0
    notes: list[str] = field(default_factory=list)

    def report(self, difference: Difference) -> None:
        """Take a difference."""
        self.count += 1
        if len(self.differences) < MAX_DIFFERENCES:
            self.differences.append(difference)

    def told(self) -> Iterator[str]:
        """Lines for a person: the differences, then what was not checked."""
        yield from (one.told() for one in self.differences)
        if self.count > len(self.differences):
            yield f"and {self.count - len(self.differences)} more differences"
        yield from (f"note: {note}" for note in self.notes)

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "difference_count": self.count,
            "differences": [one._asdict() for one in self.differences],
            "left_out": self.left_out,
            "notes": self.notes,
        }


class Sources(NamedTuple):
    """What is audited. engine: None leaves the history out. table: the changelog's topic; group: the workers' group.

    signed: anchors that were kept elsewhere; None where there are none.
    """

    connection: KafkaConnection
    topic: str
    engine: AsyncEngine | None = None
    table: str | None = None
    group: str | None = None
    signed: SignedAnchors | None = None


class _PartitionOf(dict[str, int]):
    """Where each tenant's records belong, worked out once."""

    def __init__(self, partitions: Sequence[int]) -> None:
        super().__init__()
        self._partitions = partitions

    def __missing__(self, tenant: str) -> int:
        place = self[tenant] = partition_of(tenant, self._partitions)
        return place


@dataclass(slots=True)
class _Part:
    """One partition in work."""

    fold: PartitionFold
    end: int
    history: HistoryComparison | None
    last: LogRecord | None = None
    last_record: str | None = None
    anchors: Sequence[AnchorCheck] = ()
    begins_at: int = 0
    log_end: int = 0


class Verification:
    """One run of the audit."""

    def __init__(self, sources: Sources, progress: Callable[[Progress], None], checkpoint: Path | None = None) -> None:
        """Audit these sources; tell the progress after every batch; keep a checkpoint in this file."""
        self._sources = sources
        self._progress = progress
        self._checkpoint = checkpoint
        self._result = Result()
        self._parts: dict[int, _Part] = {}
        self._log = ""

    async def run(self) -> Result:
        """Read it all and compare.

        Raises RunbooksError, KafkaError or DATABASE_ERRORS when the audit cannot be made.
        """
        began = time.monotonic()
        async with log_consumer(self._sources.connection) as consumer:
            await self._begin(consumer)
            await self._read(consumer, began)
        await self._compare_the_rest()
        await self._compare_table()
        if self._checkpoint is not None:
            self._checkpoint.unlink(missing_ok=True)
        self._result.seconds = time.monotonic() - began
        return self._result

    async def _begin(self, consumer: Consumer) -> None:
        topic = self._sources.topic
        places = await places_of(consumer, topic)
        consumer.assign(places)
        self._log = self._named(len(places))
        kept = self._kept()
        known = {} if kept is None else {point.position.partition: point for point in kept.points}
        anchors = await self._anchors(places, known)
        rows = None if self._sources.engine is None else HistoryRows(self._sources.engine, topic)
        projected = {} if rows is None else await rows.next_offsets()
        ends = await consumer.end_offsets(places)
        starts = await consumer.beginning_offsets(places)
        lengths = {at.partition: ends[at] - starts[at] for at in places}
        self._result.notes += await not_begun(self._sources.engine, topic, lengths)
        if kept is None:
            tell_projected(projected, {at.partition: ends[at] for at in places}, self._result.report)
        else:  # that was told when it began
            await self._go_on(consumer, kept)
        partition_of = _PartitionOf([at.partition for at in places])
        for at in places:
            point = known.get(at.partition)
            position = Position(at.partition, starts[at], starts[at]) if point is None else point.position
            if starts[at] > 0:
                self._result.notes.append(f"partition {at.partition} begins at {starts[at]}: what was before is gone")
            end = ends[at] if point is None else point.end
            part = self._parts[at.partition] = self._part(position, end, partition_of, point, rows)
            part.anchors, part.begins_at, part.log_end = anchors[at.partition], starts[at], ends[at]
            consumer.seek(at, position.next_offset)

    def _named(self, partitions: int) -> str:
        """All that is read, as a checkpoint names it."""
        connection, topic, engine, _, _, signed = self._sources
        history = "no history" if engine is None else engine.url.render_as_string(hide_password=True)
        anchors = "no signed anchors" if signed is None else f"signed anchors {signed.digest}"
        return f"{connection.bootstrap_servers}/{topic}/{partitions} with {history} and {anchors}"

    async def _anchors(
        self, places: Sequence[TopicPartition], known: Mapping[int, PartitionPoint]
    ) -> dict[int, list[AnchorCheck]]:
        """How far each partition was recorded, asked before the log's ends are: the projector goes on."""
        topic, engine, signed = self._sources.topic, self._sources.engine, self._sources.signed
        store, checks = None if engine is None else Store(engine, topic), {}
        for number in (at.partition for at in places):
            points = known[number].anchors if number in known else ()
            checks[number] = await checks_of(number, store, signed, self._result, points)
        return checks

    def _part(
        self,
        position: Position,
        end: int,
        partition_of: Mapping[str, int],
        point: PartitionPoint | None,
        rows: HistoryRows | None,
    ) -> _Part:
        report, history = self._result.report, None
        if rows is not None:
            history = HistoryComparison(rows, position.partition, end, report)
            history.place = (position.next_offset, "")
            if point is not None:
                history.place, history.ahead = point.history_place, point.history_ahead
                history.left_out = point.left_out
        fold = PartitionFold(position, partition_of, report, shown=history is not None)
        return _Part(fold, end, history, last_record=None if point is None else point.last_record)

    def _kept(self) -> Checkpoint | None:
        """What the checkpoint says; None when there is none, and what it told is taken over.

        Raises RunbooksError when it is of something else.
        """
        if self._checkpoint is None or not self._checkpoint.exists():
            return None
        found = read_checkpoint(self._checkpoint, self._log)
        for difference in found.differences:
            self._result.report(difference)
        self._result.count = found.count
        return found

    async def _go_on(self, consumer: Consumer, kept: Checkpoint) -> None:
        """Raise RunbooksError when the log is not the one that was read before."""
        for point in kept.points:
            if point.last_record is None:
                continue
            at = TopicPartition(self._sources.topic, point.position.partition)
            record = await _record_at(consumer, at, point.position.next_offset - 1)
            if record is None or fingerprint(record) != point.last_record:
                raise RunbooksError(f"the checkpoint {self._checkpoint} is of another log: remove it to begin anew")

    async def _read(self, consumer: Consumer, began: float) -> None:
        total = sum(max(0, part.end - part.fold.position.next_offset) for part in self._parts.values())
        moved = saved = time.monotonic()
        while await self._hold_back(consumer):
            batches = await consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
            for at, records in batches.items():
                await self._take(self._parts[at.partition], records)
            now = time.monotonic()
            moved = now if batches else moved
            if now - moved > STALLED_S:
                raise RunbooksError(f"the broker gives no more records of {self._sources.topic}")
            self._progress(Progress(self._result.records, total, now - began))
            if self._checkpoint is not None and now - saved > CHECKPOINT_S:
                await self.save()
                saved = now

    async def _hold_back(self, consumer: Consumer) -> bool:
        """Fetch no more of what is read to its end, where a marker of a transaction may stand; whether any is left."""
        places = {TopicPartition(self._sources.topic, number): part.end for number, part in self._parts.items()}
        done = [at for at, end in places.items() if await consumer.position(at) >= end]
        paused = consumer.paused()
        consumer.pause(*(at for at in done if at not in paused))
        return len(done) < len(places)

    async def _take(self, part: _Part, records: Sequence[Any]) -> None:
        for anchors in part.anchors:
            await anchors.take(records, part.end)
        feed, end, count = part.fold.feed, part.end, 0
        for record in records:
            if record.offset >= end:
                break
            feed(record)
            count += 1
        if count:
            part.last = records[count - 1]
            self._result.records += count
        if max(len(part.fold.requested), len(part.fold.closed)) >= PAGE:
            await self._compare(part)

    async def _compare(self, part: _Part) -> None:
        """Compare with the history what the fold has given since."""
        requested, part.fold.requested = part.fold.requested, []
        closed, part.fold.closed = part.fold.closed, []
        if part.history is not None:
            await part.history.requested(requested)
            await part.history.closed(closed)

    async def save(self) -> None:
        """Write the checkpoint, with all that was folded compared: it holds only what is known."""
        assert self._checkpoint is not None
        for part in self._parts.values():
            await self._compare(part)
        points = [
            PartitionPoint(
                position=part.fold.position,
                end=part.end,
                history_place=START if part.history is None else part.history.place,
                left_out=0 if part.history is None else part.history.left_out,
                history_ahead=[] if part.history is None else part.history.ahead,
                anchors=[anchors.point() for anchors in part.anchors],
                last_record=part.last_record if part.last is None else fingerprint(part.last),
            )
            for part in self._parts.values()
        ]
        found = self._result
        kept = Checkpoint(log=self._log, points=points, differences=found.differences, count=found.count)
        kept.write(self._checkpoint)

    async def _compare_the_rest(self) -> None:
        for part in self._parts.values():
            for anchors in part.anchors:
                anchors.finish(part.log_end)
            await self._compare(part)
            if part.history is not None:
                await part.history.closed(list(part.fold.remaining()))
                await part.history.finish()
                self._result.left_out += part.history.left_out
        if self._sources.engine is not None:
            rows = HistoryRows(self._sources.engine, self._sources.topic)
            await tell_strays(rows, list(self._parts), self._result.report)

    async def _compare_table(self) -> None:
        topic = self._sources.table
        if topic is None:
            return
        try:
            sources = self._sources
            tables = await read_live_tables(sources.connection, topic, sources.group, sources.topic)
        except NoSuchTopic:
            self._result.notes.append(f"there is no topic {topic}: the live table was not compared")
            return
        ends = {number: part.log_end for number, part in self._parts.items()}
        self._result.notes += tables.notes(sources.group, ends)
        log_ends = await ends_of(sources.connection, sources.topic)
        for number, part in self._parts.items():
            comparable = tables.comparable(number, ends[number], self._result.report)
            if comparable is not None:
                table, folded = comparable
                table.pass_over(part.begins_at, part.fold.position.known)
                log_end = log_ends.get(number, 0)
                self._result.left_out += table.compare(part.fold.position, folded, log_end, self._result.report)


async def _record_at(consumer: Consumer, at: TopicPartition, offset: int) -> LogRecord | None:
    consumer.seek(at, offset)
    found = (await consumer.getmany(at, timeout_ms=5000, max_records=1)).get(at, ())
    return next((LogRecord(one.offset, one.timestamp, one.key, one.value) for one in found), None)
