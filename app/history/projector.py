"""The projector: reads ``execution-events``, folds it, and writes rows and offsets in one transaction.

The database says where to go on, never Kafka: an empty database starts at the beginning of the log. Two projectors
may hold a partition for a moment during a rebalance; the one whose offset has moved writes nothing and looks again.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.exc import SQLAlchemyError

from app.core.errors import RecordRefused
from app.core.events import read_event
from app.core.execution import Execution
from app.history.folding import Happened, fold, row_of
from app.history.store import OffsetMoved, Store

BATCH_RECORDS = 2000
FETCH_MS = 200
RETRY_S = 1.0
MAX_REMEMBERED = 50_000
logger = logging.getLogger(__name__)


class Record(NamedTuple):
    """One record as it was read."""

    offset: int
    value: bytes | None


class Projector(ConsumerRebalanceListener):  # type: ignore[misc]
    """Projects the partitions that its consumer group gives it."""

    def __init__(
        self,
        store: Store,
        topic: str,
        consumer_arguments: Mapping[str, Any],
        group_id: str,
        registry: CollectorRegistry,
    ) -> None:
        """Keep the parts; consumer_arguments say how to connect."""
        self._store = store
        self._topic = topic
        self._arguments = dict(consumer_arguments)
        self._group_id = group_id
        self._next: dict[int, int] = {}
        self._latest: dict[int, dict[str, Execution]] = {}
        self._consumer: AIOKafkaConsumer | None = None
        self.started = asyncio.Event()
        self._projected = Counter(
            "runbooks_projected_events", "Records of the log folded into the database.", registry=registry
        )
        self._unreadable = Counter(
            "runbooks_projector_unreadable", "Records of the log that could not be read.", registry=registry
        )

    async def run(self) -> None:
        """Project until cancelled."""
        consumer = AIOKafkaConsumer(
            **self._arguments, group_id=self._group_id, enable_auto_commit=False, auto_offset_reset="earliest"
        )
        self._consumer = consumer
        consumer.subscribe([self._topic], listener=self)
        await consumer.start()
        try:
            while True:
                batches = await consumer.getmany(timeout_ms=FETCH_MS, max_records=BATCH_RECORDS)
                records = {
                    place.partition: [Record(one.offset, one.value) for one in found]
                    for place, found in batches.items()
                }
                await self._project_safely({number: some for number, some in records.items() if number in self._next})
                self.started.set()
        finally:
            await consumer.stop()

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget them."""
        for place in revoked:
            self._next.pop(place.partition, None)
            self._latest.pop(place.partition, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Go on where the database stands."""
        for place in assigned:
            await self._load(place.partition)

    async def _load(self, partition: int) -> None:
        assert self._consumer is not None
        while True:
            try:
                start = await self._store.next_offset(partition)
                live = await self._store.live(partition)
            except (SQLAlchemyError, OSError) as error:
                logger.warning("history_unreachable", extra={"error": repr(error)})
                await asyncio.sleep(RETRY_S)
            else:
                break
        self._next[partition] = start
        self._latest[partition] = {execution.execution_id: execution for execution in live}
        self._consumer.seek(TopicPartition(self._topic, partition), start)

    async def _project_safely(self, batches: Mapping[int, list[Record]]) -> None:
        """Project a batch; what goes wrong is tried again from where the database stands."""
        if not any(batches.values()):
            return
        try:
            await self._project(batches)
        except OffsetMoved as moved:
            logger.info("projection_moved", extra={"why": str(moved)})
        except (SQLAlchemyError, OSError) as error:
            logger.warning("history_unreachable", extra={"error": repr(error)})
            await asyncio.sleep(RETRY_S)
        else:
            return
        for partition in batches:
            await self._load(partition)

    async def _project(self, batches: Mapping[int, list[Record]]) -> None:
        rows: list[dict[str, Any]] = []
        offsets: dict[int, tuple[int, int]] = {}
        folded: dict[int, dict[str, Execution]] = {}
        for partition, records in batches.items():
            fresh = [record for record in records if record.offset >= self._next[partition]]
            if not fresh:
                continue
            changed = await self._fold(partition, list(self._readable(fresh)))
            rows += [row_of(execution, partition) for execution in changed.values()]
            folded[partition] = {execution.execution_id: execution for execution in changed.values()}
            offsets[partition] = (self._next[partition], fresh[-1].offset + 1)
        if not offsets:
            return
        await self._store.write(rows, offsets)
        for partition, (_, end) in offsets.items():
            self._next[partition] = end
            self._remember(partition, folded[partition])
        self._projected.inc(sum(len(records) for records in batches.values()))
        await self._commit(offsets)

    async def _fold(self, partition: int, happened: list[Happened]) -> dict[tuple[str, int], Execution]:
        known = self._latest[partition]
        unknown = sorted({one.event.execution_id for one in happened} - known.keys())
        return fold(known | await self._store.latest(unknown) if unknown else known, happened)

    def _readable(self, records: Iterable[Record]) -> Iterable[Happened]:
        for record in records:
            try:
                yield Happened(record.offset, read_event(record.value))
            except RecordRefused as error:
                self._unreadable.inc()
                logger.warning("event_refused", extra={"offset": record.offset, "error": str(error)})

    def _remember(self, partition: int, changed: Mapping[str, Execution]) -> None:
        """Keep the live ones; ended ones are read again in the rare case that one is named again."""
        latest = self._latest[partition]
        for execution_id, execution in changed.items():
            if execution.terminal:
                latest.pop(execution_id, None)
            else:
                latest[execution_id] = execution
        if len(latest) > MAX_REMEMBERED:
            latest.clear()

    async def _commit(self, offsets: Mapping[int, tuple[int, int]]) -> None:
        """Tell Kafka too, for those who watch the lag of the group; nothing of ours reads it."""
        assert self._consumer is not None
        places = {TopicPartition(self._topic, partition): end for partition, (_, end) in offsets.items()}
        try:
            await self._consumer.commit(places)
        except KafkaError as error:
            logger.debug("lag_not_committed", extra={"error": repr(error)})
