"""What a table does with a row that no record can hold."""

import asyncio
from types import SimpleNamespace

import pytest
from aiokafka.errors import KafkaError

from app.core.errors import RecordTooLarge
from app.streams.app import StreamSettings, build_app, declare_table
from app.streams.connection import KafkaConnection


class FakePublisher:
    """Takes rows of at most 100 bytes; ``sent`` are the deliveries, done when the test says so."""

    def __init__(self):
        self.sent = []

    async def send(self, topic, value, *, key, partition):
        if value is not None and len(value) > 100:
            raise RecordTooLarge(topic, len(value), 100)
        self.sent.append(asyncio.get_running_loop().create_future())
        return self.sent[-1]


@pytest.fixture
async def table(tmp_path):
    app = build_app(KafkaConnection(bootstrap_servers="nowhere:9"), StreamSettings("g", tmp_path, partitions=1))
    table = declare_table(app, "executions", 1)
    table._partition = lambda *_: 0
    table.partition_for_key = lambda _: 0
    return table


async def change(table, publisher, key, row):
    table._remember(key, row)
    return (await table.send_changes(publisher))[0]


async def test_its_cause_waits_for_the_next_row_of_the_key(table):
    publisher = FakePublisher()
    first = await change(table, publisher, "a", {"x": "x" * 200})
    again = await change(table, publisher, "a", {"x": "x" * 300})
    other = await change(table, publisher, "b", {"x": "x"})
    assert (publisher.sent, table.unwritten.keys()) == ([other], {"a"})
    written = await change(table, publisher, "a", {"x": "x"})
    assert table.unwritten == {}
    assert not first.done()
    written.set_result(SimpleNamespace(topic="t", partition=0, offset=7))
    await asyncio.sleep(0)
    assert (first.result().offset, again.result().offset) == (7, 7)


async def test_what_becomes_of_the_next_row_becomes_of_its_cause(table):
    publisher = FakePublisher()
    first = await change(table, publisher, "a", {"x": "x" * 200})
    written = await change(table, publisher, "a", None)
    written.set_exception(KafkaError("gone"))
    with pytest.raises(KafkaError):
        await first
    lost = await change(table, publisher, "b", {"x": "x" * 200})
    (await change(table, publisher, "b", None)).cancel()
    await asyncio.sleep(0)
    assert lost.cancelled()


async def test_a_rebalance_forgets_what_waits(table):
    await change(table, FakePublisher(), "a", {"x": "x" * 200})
    table._forget_all_but(set())
    assert table.unwritten == {}
