"""The log from its beginning to the end that it has at the start, batch by batch."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer
from app.core.errors import RunbooksError
from app.streams.connection import KafkaConnection
from app.streams.topics import partition_of

BATCH_RECORDS = 4000
FETCH_BYTES = 512 * 1024  # of a partition in one fetch: what is fetched ahead is held in memory
STALLED_S = 30.0
POLL_MS = 500
ESCAPE = b"\\"  # a record with it may write a name in other bytes than it has


class Progress(NamedTuple):
    """How far an audit is: records read of how many, and in how many seconds."""

    done: int
    total: int
    seconds: float

    def told(self) -> str:
        """One line with rate and time left."""
        rate = self.done / self.seconds if self.seconds else 0.0
        left = f"{(self.total - self.done) / rate:,.0f} s left" if rate else ""
        share = 100 * self.done / self.total if self.total else 100.0
        return f"{share:5.1f} %  {self.done:,} of {self.total:,} records  {rate:,.0f}/s  {left}"


Tell = Callable[[Progress], None]


class NoSuchTopic(RunbooksError):
    """The broker does not know a topic."""


@dataclass(frozen=True, slots=True)
class OpenLog:
    """A log that is being read: starts and ends say which offsets of each partition there are, the end excluded."""

    consumer: Consumer
    topic: str
    starts: dict[int, int]
    ends: dict[int, int]
    progress: Tell

    async def batches(self) -> AsyncIterator[tuple[int, Sequence[Any]]]:
        """A partition and its next records, until all are read.

        Raises RunbooksError when the broker gives no more of them.
        """
        begun = moved = time.monotonic()
        total, read = sum(self.ends.values()) - sum(self.starts.values()), 0
        while not await self._is_read():
            batches = await self.consumer.getmany(timeout_ms=POLL_MS, max_records=BATCH_RECORDS)
            for at, records in batches.items():
                wanted = [record for record in records if record.offset < self.ends[at.partition]]
                read += len(wanted)
                if wanted:
                    yield at.partition, wanted
            now = time.monotonic()
            moved = now if batches else moved
            if now - moved > STALLED_S:
                raise RunbooksError(f"the broker gives no more records of {self.topic}")
            self.progress(Progress(read, total, now - begun))

    async def _is_read(self) -> bool:
        """Whether all was read; a compacted topic has no record at many offsets."""
        places = ((TopicPartition(self.topic, number), end) for number, end in self.ends.items())
        return all([await self.consumer.position(at) >= end for at, end in places])


@contextlib.asynccontextmanager
async def open_log(
    connection: KafkaConnection, topic: str, progress: Tell, tenant: str | None = None
) -> AsyncIterator[OpenLog]:
    """Open a topic: the partition of one tenant, or all of them.

    Raises NoSuchTopic, and KafkaError when the broker does not answer.
    """
    async with log_consumer(connection) as consumer:
        places = await places_of(consumer, topic, tenant)
        consumer.assign(places)
        ends, starts = await consumer.end_offsets(places), await consumer.beginning_offsets(places)
        await consumer.seek_to_beginning(*places)
        yield OpenLog(
            consumer,
            topic,
            {at.partition: starts[at] for at in places},
            {at.partition: ends[at] for at in places},
            progress,
        )


def log_consumer(connection: KafkaConnection) -> Consumer:
    """A consumer that fetches much at once."""
    arguments = connection.client_arguments()
    return Consumer(**arguments, max_partition_fetch_bytes=FETCH_BYTES, fetch_max_bytes=4 * FETCH_BYTES)


async def ends_of(connection: KafkaConnection, topic: str) -> dict[int, int]:
    """The end of each partition of a topic as it is now. Raises NoSuchTopic."""
    async with log_consumer(connection) as consumer:
        ends = await consumer.end_offsets(await places_of(consumer, topic))
    return {at.partition: end for at, end in ends.items()}


async def places_of(consumer: Consumer, topic: str, tenant: str | None = None) -> list[TopicPartition]:
    """The partition of one tenant, or all of a topic's. Raises NoSuchTopic."""
    numbers = await consumer.partitions_of(topic)
    if not numbers:
        raise NoSuchTopic(f"the broker has no topic {topic}")
    wanted = numbers if tenant is None else [partition_of(tenant, numbers)]
    return [TopicPartition(topic, number) for number in wanted]
