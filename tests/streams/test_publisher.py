"""The producer on a real Kafka: a record that is missing is the end of it, and the worker is told."""

import asyncio

import pytest
from aiokafka.errors import OutOfOrderSequenceNumber, ProducerClosed
from aiokafka.structs import TopicPartition

from app.core.errors import TemporaryError
from app.streams.publisher import Publisher
from app.streams.topics import EXECUTION_EVENTS as TOPIC
from app.streams.topics import ensure_topics, read_topics


@pytest.fixture
async def publisher(connection, settings):
    """One that has written a record, and whose numbers go on with a gap, as after one that was dropped on its way."""
    await ensure_topics(connection, read_topics(settings.kafka.topics_file, "g"))
    publisher = Publisher(connection, "test")
    publisher.failed = asyncio.get_running_loop().create_future()
    publisher.on_failure = lambda error: publisher.failed.done() or publisher.failed.set_result(error)
    await publisher.start()
    place = await publisher.publish(TOPIC, b"{}", key=b"k")
    at = TopicPartition(TOPIC, place.partition)
    publisher._producer._txn_manager.increment_sequence_number(at, 5)
    yield publisher
    await publisher.stop()


async def test_what_it_lost_is_told_to_whoever_waits_for_it_and_to_the_worker(publisher):
    with pytest.raises(TemporaryError, match="did not acknowledge"):
        await publisher.publish(TOPIC, b"{}", key=b"k")
    assert isinstance(publisher.failed.result(), OutOfOrderSequenceNumber)


async def test_what_it_lost_is_told_to_the_worker_though_nobody_waits(publisher):
    await publisher.send(TOPIC, b"{}", key=b"k")
    async with asyncio.timeout(30):
        assert isinstance(await publisher.failed, OutOfOrderSequenceNumber)


async def test_one_that_has_ended_tells_the_worker(publisher):
    await publisher.stop()
    with pytest.raises(TemporaryError, match="did not take"):
        await publisher.send(TOPIC, b"{}", key=b"k")
    assert isinstance(publisher.failed.result(), ProducerClosed)
