"""A Kafka consumer that leaves nothing behind, whenever its start is given up or it is stopped."""

import asyncio
from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from app.core.model import moment_at

GIVEN_UP_S = 5.0
METADATA_AGE_MS = 10_000
"""How long a broker's word of which topics there are is taken, where aiokafka takes it for five minutes.

One that has just started may leave some out, and a group that shares them out then leaves these unread for so long.
"""


class Standing(NamedTuple):
    """How far a reader is in one partition.

    next_offset: the first one it has not done with; None while that is not known. at: when it was surely that far: the
    time of the last record it has done with, or when it was given the partition.
    """

    next_offset: int | None
    at: datetime


def time_of(record: ConsumerRecord) -> datetime | None:
    """When a record was written, as its producer or its broker says; None where that can be no moment.

    Brokers take any number for a time: microseconds, or one long before there were calendars.
    """
    return moment_at(record.timestamp / 1000)


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's consumer, started and stopped to the end.

    aiokafka 0.14 forgets its first connection when ``start`` is cancelled while that one is asked for metadata, and an
    ``async with`` never stops what found no broker. And ``stop`` awaits each fetch that it has just cancelled: one that
    ends as cancelled ends ``stop`` there, the connections stay open, the other fetches go on, and who called is told
    that it was cancelled when nobody did.

    It commits what it is told to, and begins at the beginning where nothing was committed.
    """

    def __init__(self, *topics: str, **arguments: Any) -> None:
        """As aiokafka's, with these defaults."""
        ours = {
            "enable_auto_commit": False,
            "auto_offset_reset": "earliest",
            "metadata_max_age_ms": METADATA_AGE_MS,
        }
        super().__init__(*topics, **{**ours, **arguments})

    async def start(self) -> None:
        """Connect; one that is cancelled first lets the connection come about, for a moment, and closes it."""
        starting = asyncio.ensure_future(super().start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            _, late = await asyncio.wait({starting}, timeout=GIVEN_UP_S)
            for one in late:
                one.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await self.stop()
            raise
        except KafkaError:
            await self.stop()
            raise

    async def partitions_of(self, topic: str) -> list[int]:
        """The partitions that a topic has, in order; none when the broker does not know it."""
        cluster = await self._client.fetch_all_metadata()
        return sorted(cluster.partitions_for_topic(topic) or ())

    async def places_of(self, topics: Collection[str]) -> list[TopicPartition]:
        """All partitions of these topics, whose brokers are known then; of unknown topics none.

        aiokafka asks half a second later where partitions are that it is asked about and has not heard of.
        """
        places = [TopicPartition(topic, number) for topic in topics for number in await self.partitions_of(topic)]
        if places:
            await self._client.set_topics({place.topic for place in places})
        return places

    async def stop(self) -> None:
        """Stop fetching, leave the group and close every connection; stopping a stopped one does nothing."""
        task = asyncio.current_task()
        assert task is not None
        asked = task.cancelling()
        try:
            await super().stop()
        except asyncio.CancelledError:
            if task.cancelling() > asked:
                raise
        finally:
            await self._end_fetches()
            await self._client.close()

    async def _end_fetches(self) -> None:
        fetches = [] if self._fetcher is None else [*self._fetcher._pending_tasks]  # noqa: SLF001 - see above
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
