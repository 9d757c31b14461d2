"""The records of one execution, read back from the log: the run says where they begin, the last fold where they end."""

import asyncio
import time
from typing import NamedTuple

import orjson
from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer
from app.core.errors import TemporaryError
from app.core.model import JsonObject
from app.streams.connection import KafkaConnection
from app.streams.topics import EXECUTION_EVENTS, partition_of

MAX_EVENTS = 2000
MAX_READ_S = 10.0
MAX_AT_ONCE = 4
POLL_MS = 500


class TrailEntry(NamedTuple):
    """One record of the log: its offset in the tenant's partition, and the event as it stands there."""

    offset: int
    event: JsonObject


class Trail:
    """Reads the log beside the agents, with a consumer of its own for each question, a few at once."""

    def __init__(self, connection: KafkaConnection, partitions: int) -> None:
        """Nothing connects yet; partitions is how many the log has."""
        self._connection = connection
        self._partitions = list(range(partitions))
        self._room = asyncio.Semaphore(MAX_AT_ONCE)

    async def read(self, tenant: str, execution_id: str, first: int, last: int) -> tuple[list[TrailEntry], bool]:
        """The execution's records from offset first to last, both included, and whether these are all of them.

        At most 2,000, and what can be read in 10 s. Raises TemporaryError when Kafka does not answer.
        """
        try:
            async with (
                self._room,
                Consumer(**self._connection.client_arguments()) as consumer,
            ):
                place = TopicPartition(EXECUTION_EVENTS, partition_of(tenant, self._partitions))
                return await _read(consumer, place, (tenant, execution_id), first, last)
        except KafkaError as error:
            raise TemporaryError(f"the log cannot be read: {error!r}") from error


async def _read(
    consumer: Consumer, place: TopicPartition, whose: tuple[str, str], first: int, last: int
) -> tuple[list[TrailEntry], bool]:
    consumer.assign([place])
    consumer.seek(place, first)
    deadline = time.monotonic() + MAX_READ_S
    found: list[TrailEntry] = []
    position = first
    while position <= last:
        if len(found) >= MAX_EVENTS or time.monotonic() > deadline:
            return found[:MAX_EVENTS], False
        for record in (await consumer.getmany(place, timeout_ms=POLL_MS)).get(place, ()):
            position = record.offset + 1
            if record.offset <= last and (entry := _entry(record.offset, record.value, whose)):
                found.append(entry)
    return found, True


def _entry(offset: int, value: bytes | None, whose: tuple[str, str]) -> TrailEntry | None:
    """The record as an entry if it is of this (tenant, execution id); None otherwise, as for what is no event."""
    if value is None or whose[1].encode() not in value:
        return None
    try:
        event = orjson.loads(value)
    except orjson.JSONDecodeError:
        return None
    mine = isinstance(event, dict) and (event.get("tenant"), event.get("execution_id")) == whose
    return TrailEntry(offset, event) if mine else None
