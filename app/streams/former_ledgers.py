"""Ledgers from before all groups of a family had one: what stands in them is copied into the one there is now.

How far a group has copied one is kept as its committed offset in that topic: no start reads the same twice.
"""

import asyncio
from collections.abc import Iterable, Mapping
from datetime import datetime

import orjson
from aiokafka.structs import ConsumerRecord, TopicPartition

from app.clients.kafka import Consumer
from app.streams.ledger import COMMANDS_KEPT, TABLE
from app.streams.publisher import Publisher
from app.streams.topics import changelog_name

WAIT_MS = 1000


def former_ledgers(groups: Iterable[str], family: str) -> list[str]:
    """The names that ledgers of these groups' own had."""
    return [changelog_name(group, TABLE) for group in groups if group != family]


def is_needed(value: bytes | None, now: datetime) -> bool:
    """Whether a row tells of a command that may come again."""
    return value is not None and datetime.fromisoformat(orjson.loads(value)["at"]) + COMMANDS_KEPT > now


async def copy_former_ledgers(
    consumer: Consumer,
    publisher: Publisher,
    begins: Mapping[TopicPartition, int],
    ends: Mapping[TopicPartition, int],
    family: str,
    now: datetime,
) -> set[TopicPartition]:
    """Copy what stands in these partitions from where to where; which of them had anything that is needed.

    Copied once more is no matter, for what is done stays so.

    Raises KafkaError.
    """
    ledger, left, needed = changelog_name(family, TABLE), set(ends), set()
    consumer.assign(list(left))
    for place in left:
        consumer.seek(place, begins[place])
    while left:
        fetched: dict[TopicPartition, list[ConsumerRecord]] = await consumer.getmany(*left, timeout_ms=WAIT_MS)
        rows = [record for records in fetched.values() for record in records if is_needed(record.value, now)]
        needed |= {TopicPartition(row.topic, row.partition) for row in rows}
        sent = [await publisher.send(ledger, row.value, key=row.key, partition=row.partition) for row in rows]
        await asyncio.gather(*sent)
        left = {place for place in left if await consumer.position(place) < ends[place]}
    return needed
