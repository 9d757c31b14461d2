"""The log from its beginning to the end that it has at the start, batch by batch."""

import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from aiokafka.structs import TopicPartition

from app.audit.verifying import BATCH_RECORDS, FETCH_BYTES, STALLED_S, Progress
from app.clients.kafka import Consumer
from app.core.errors import RunbooksError
from app.streams.connection import KafkaConnection
from app.streams.topics import partition_of

POLL_MS = 500
ESCAPE = b"\\"  # a record with it may write a name in other bytes than it has
Tell = Callable[[Progress], None]


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

    Raises RunbooksError when there is no such topic, KafkaError when the broker does not answer.
    """
    async with Consumer(
        **connection.client_arguments(),
        max_partition_fetch_bytes=FETCH_BYTES,
    ) as consumer:
        numbers = await consumer.partitions_of(topic)
        if not numbers:
            raise RunbooksError(f"the broker has no topic {topic}")
        wanted = numbers if tenant is None else [partition_of(tenant, numbers)]
        places = [TopicPartition(topic, number) for number in wanted]
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
