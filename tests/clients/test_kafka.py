"""Stopping a consumer, on a real Kafka."""

import asyncio
import weakref

import pytest
from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import KafkaConnectionError

from app.clients.kafka import Consumer


@pytest.fixture
async def consumer(kafka):
    consumer = Consumer(bootstrap_servers=kafka, enable_auto_commit=False)
    await consumer.start()
    await consumer.topics()
    return consumer


def connections(consumer):
    return [one for one in consumer._client._conns.values() if one.connected()]


async def test_a_fetch_that_ends_as_cancelled_neither_keeps_connections_nor_cancels_who_stops(consumer):
    fetches = [asyncio.create_task(asyncio.sleep(600)) for _ in range(2)]
    consumer._fetcher._pending_tasks.update(fetches)
    assert connections(consumer)
    await consumer.stop()
    assert connections(consumer) == []
    assert all(fetch.cancelled() for fetch in fetches)
    await consumer.stop()


async def test_who_stops_can_still_be_cancelled(consumer):
    async def stubborn():
        try:
            await asyncio.sleep(600)
        except asyncio.CancelledError:
            began.set()
            await release.wait()
            raise

    began, release = asyncio.Event(), asyncio.Event()
    consumer._fetcher._pending_tasks.add(asyncio.create_task(stubborn()))
    await asyncio.sleep(0)
    stopping = asyncio.create_task(consumer.stop())
    await began.wait()
    stopping.cancel()
    release.set()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert connections(consumer) == []


@pytest.fixture
def opened(monkeypatch):
    """The connections that are open, collected garbage left out."""
    known = weakref.WeakSet()
    connect = AIOKafkaConnection.connect

    async def watched(connection):
        known.add(connection)
        return await connect(connection)

    monkeypatch.setattr(AIOKafkaConnection, "connect", watched)
    return lambda: [one for one in known if one.connected()]


@pytest.mark.parametrize(
    "reached",
    [lambda opened: True, lambda opened: opened, lambda opened: any(one._versions for one in opened)],
    ids=["at once", "connected", "asked for metadata"],
)
async def test_a_start_that_is_cancelled_at_whatever_moment_leaves_no_connection(kafka, opened, reached):
    consumer = Consumer(bootstrap_servers=kafka, enable_auto_commit=False)
    starting = asyncio.create_task(consumer.start())
    while not reached(opened()):  # noqa: ASYNC110 - the moment is one between two steps of the loop
        await asyncio.sleep(0)
    assert not starting.done()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert opened() == []
    await consumer.stop()


async def test_one_that_finds_no_broker_is_stopped(unused_tcp_port):
    consumer = Consumer(bootstrap_servers=f"127.0.0.1:{unused_tcp_port}")
    with pytest.raises(KafkaConnectionError):
        await consumer.start()
    assert consumer._closed
