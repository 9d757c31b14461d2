"""The projector: reads a topic, has it made into rows, and writes rows and offsets in one transaction.

The database says where to go on, never Kafka: an empty database starts at the beginning of the log. Two projectors
may hold a partition for a moment during a rebalance; the one whose offset has moved writes nothing and looks again.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from aiokafka import ConsumerRebalanceListener
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from app.clients.kafka import Consumer, Standing, time_of
from app.history.database import DATABASE_ERRORS
from app.history.ledger import LedgerProjection
from app.history.projection import Place, Projection, Record
from app.history.store import OffsetMoved

FETCH_MS = 200
GATHER_S, HURRIED_S = 0.1, 0.02
"""So long a batch gathers, unless somebody waits for it: then so long after the one before.

A transaction costs about as much for one event as for twenty, and the worker carries steps out in the same loop.
"""
FEW = 200
"""So many records, or a whole batch, are no few that gather, but a log that is caught up with."""
RETRY_S, MAX_RETRY_S = 0.2, 5.0
COMMIT_EVERY_S, COMMIT_TIMEOUT_S = 1.0, 2.0
NOT_OWNED = -1
logger = logging.getLogger(__name__)


class Projector(ConsumerRebalanceListener):  # type: ignore[misc]
    """Projects the partitions that its consumer group gives it."""

    def __init__(
        self,
        projection: Projection | LedgerProjection,
        topic: str,
        consumer_arguments: Mapping[str, Any],
        group_id: str,
        awaited: asyncio.Event | None = None,
    ) -> None:
        """Keep the parts; consumer_arguments say how to connect; awaited: set while somebody waits for a batch."""
        self._projection = projection
        self._topic = topic
        self._arguments = dict(consumer_arguments)
        self._group_id = group_id
        self._awaited = awaited or asyncio.Event()
        self._places: dict[int, Place] = {}
        self._unloaded: set[int] = set()
        self._standings: dict[TopicPartition, Standing] = {}
        self._consumer: Consumer | None = None
        self._retry_s = RETRY_S
        self._uncommitted: dict[int, int] = {}
        self._commit_at = 0.0
        self._gather_until = 0.0

    def position(self, partition: int) -> int:
        """The first offset that is not folded yet; NOT_OWNED for a partition that another worker projects."""
        place = self._places.get(partition)
        return NOT_OWNED if place is None else place.next_offset

    def standings(self) -> Mapping[TopicPartition, Standing]:
        """How far it is in each of its partitions, also while the database is away."""
        return self._standings

    async def run(self) -> None:
        """Project until cancelled; a broker or a database that is gone is waited for."""
        while True:
            try:
                await self._consume()
            except KafkaError as error:
                logger.warning("log_unreachable", extra={"error": repr(error)})
                await self._wait_before_retry()

    async def _consume(self) -> None:
        consumer = Consumer(**self._arguments, group_id=self._group_id)
        self._consumer = consumer
        consumer.subscribe([self._topic], listener=self)
        try:
            await consumer.start()
            while True:
                await self._load_assigned()
                batches = await self._read(consumer)
                await self._project({at.partition: [*map(Record.of, read)] for at, read in batches.items()})
                self._note_standings({at: records[-1] for at, records in batches.items()})
                await self._commit()
        finally:
            await consumer.stop()
            self._uncommitted.clear()
            self._places.clear()
            self._unloaded.clear()
            self._standings = {}

    async def _read(self, consumer: Consumer) -> dict[TopicPartition, list[ConsumerRecord]]:
        """What is there, with what comes soon after it where that is little."""
        at_most = self._projection.batch_records
        batches: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(
            timeout_ms=FETCH_MS, max_records=at_most
        )
        count = sum(map(len, batches.values()))
        if 0 < count < min(FEW, at_most):
            await self._gather()
            for at, more in (await consumer.getmany(max_records=at_most - count)).items():
                batches[at] = [*batches.get(at, ()), *more]
        return batches

    async def _gather(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GATHER_S):
                await self._awaited.wait()
                await asyncio.sleep(self._gather_until - time.monotonic())
        self._gather_until = time.monotonic() + HURRIED_S

    async def on_partitions_revoked(self, revoked: Iterable[TopicPartition]) -> None:
        """Forget them; a batch that is being written keeps its places, and they are nobody's any more."""
        for at in revoked:
            self._places.pop(at.partition, None)
            self._unloaded.discard(at.partition)
            self._uncommitted.pop(at.partition, None)
            self._standings.pop(at, None)

    async def on_partitions_assigned(self, assigned: Iterable[TopicPartition]) -> None:
        """Have them loaded by the loop: a rebalance must not wait for a database."""
        self._standings = {at: Standing(None, datetime.now(UTC)) for at in assigned} | self._standings
        self._unload(at.partition for at in assigned)

    def _unload(self, partitions: Iterable[int]) -> None:
        assert self._consumer is not None
        for partition in partitions:
            self._places.pop(partition, None)
            self._unloaded.add(partition)
            self._consumer.pause(TopicPartition(self._topic, partition))

    async def _load_assigned(self) -> None:
        """Go on where the database stands with every partition that is new, or whose batch went wrong."""
        try:
            for partition in sorted(self._unloaded):
                self._take(await self._projection.load(partition))
        except DATABASE_ERRORS as error:
            await self._database_failed(error)

    def _take(self, place: Place) -> None:
        assert self._consumer is not None
        if place.partition not in self._unloaded:
            return  # it was taken away meanwhile
        at = TopicPartition(self._topic, place.partition)
        self._consumer.seek(at, place.next_offset)
        self._consumer.resume(at)
        self._unloaded.discard(place.partition)
        self._places[place.partition] = place
        if at in self._standings:
            self._standings[at] = Standing(place.next_offset, self._standings[at].at)

    async def _project(self, batches: Mapping[int, list[Record]]) -> None:
        """Project what was read; when that goes wrong, have its partitions loaded again."""
        read = [(self._places[number], records) for number, records in batches.items() if number in self._places]
        try:
            ends = await self._projection.project(read)
        except OffsetMoved as moved:
            logger.info("projection_moved", extra={"why": str(moved)})
        except DATABASE_ERRORS as error:
            await self._database_failed(error)
        else:
            self._written(ends)
            return
        self._unload(place.partition for place, _ in read if self._places.get(place.partition) is place)

    def _note_standings(self, last: Mapping[TopicPartition, ConsumerRecord]) -> None:
        for at, record in last.items():
            next_offset = self.position(at.partition)
            if at in self._standings and next_offset > record.offset:
                self._standings[at] = Standing(next_offset, time_of(record) or self._standings[at].at)

    def _written(self, ends: Mapping[int, int]) -> None:
        if ends:
            self._retry_s = RETRY_S
            self._uncommitted |= ends

    async def _commit(self) -> None:
        """Tell Kafka too now and then, for those who watch the lag of the group; nothing of ours reads it."""
        assert self._consumer is not None
        if not self._uncommitted or time.monotonic() < self._commit_at:
            return
        ends = {TopicPartition(self._topic, number): end for number, end in self._uncommitted.items()}
        self._uncommitted.clear()
        self._commit_at = time.monotonic() + COMMIT_EVERY_S
        try:
            async with asyncio.timeout(COMMIT_TIMEOUT_S):
                await self._consumer.commit(ends)
        except (KafkaError, TimeoutError) as error:
            logger.debug("lag_not_committed", extra={"error": repr(error)})

    async def _database_failed(self, error: Exception) -> None:
        logger.warning("history_unreachable", extra={"error": repr(error)})
        await self._wait_before_retry()

    async def _wait_before_retry(self) -> None:
        await asyncio.sleep(self._retry_s)
        self._retry_s = min(MAX_RETRY_S, self._retry_s * 2)
