"""Reading the topics raw: bytes and the broker's time of appending, nothing of the product's."""

import json
from typing import Any, NamedTuple

from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition


class Logged(NamedTuple):
    """One record: where it stands, when the broker appended it (epoch seconds), its key, and its value as JSON."""

    partition: int
    offset: int
    at: float
    key: str | None
    value: Any


async def read_topics(servers: str, *topics: str) -> dict[str, list[Logged]]:
    """All records of these topics, each topic's in the order of its partitions and offsets."""
    consumer = AIOKafkaConsumer(*topics, bootstrap_servers=servers, enable_auto_commit=False)
    await consumer.start()
    try:
        numbers = {topic: sorted(consumer.partitions_for_topic(topic) or ()) for topic in topics}
        consumer.unsubscribe()
        return {
            topic: await _read(consumer, [TopicPartition(topic, one) for one in numbers[topic]]) for topic in topics
        }
    finally:
        await consumer.stop()


async def _read(consumer: AIOKafkaConsumer, places: list[TopicPartition]) -> list[Logged]:
    consumer.assign(places)
    await consumer.seek_to_beginning(*places)
    ends = await consumer.end_offsets(places)
    found: list[Logged] = []
    left = {place for place in places if ends[place] > 0}
    while left:
        for place, records in (await consumer.getmany(*left, timeout_ms=500, max_records=5000)).items():
            found += [_logged(record) for record in records if record.offset < ends[place]]
        left = {place for place in left if await consumer.position(place) < ends[place]}
    return sorted(found, key=lambda one: (one.partition, one.offset))


def _logged(record: Any) -> Logged:
    key = None if record.key is None else record.key.decode()
    value = None if record.value is None else json.loads(record.value)
    return Logged(record.partition, record.offset, record.timestamp / 1000, key, value)
