"""What a table does with a row that no record can hold, with one that is older than it came, and without room."""

import asyncio
from types import SimpleNamespace

import orjson
import pytest
from aiokafka.errors import KafkaError
from faust.types import TP

from app.core.errors import DataFolderError, RecordTooLarge
from app.streams.app import StreamSettings, build_app, declare_table
from app.streams.connection import KafkaConnection
from app.streams.index import is_newer_row
from app.streams.ledger import is_newer_claim
from app.streams.rows import Outline


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
    return declare_table(app, "executions", 1, is_newer_row, outline)


def outline(row):
    return Outline(row["partition"], None, indexed=True)


def read(table, *keys):
    rows = (table.rows.find(key) for key in keys)
    return [None if row is None else orjson.loads(row.value) for row in rows]


async def change(table, publisher, key, row):
    if row is None:
        table.drop(table.rows.find(key))
    else:
        table.put(key, orjson.dumps(row), Outline(0, None, indexed=True))
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
    await table.on_recovery_completed(set(), set())
    assert (table.unwritten, read(table, "a")) == ({}, [None])


def read_back(table, *rows):
    """The changelog as a recovery reads it."""
    written = ((key, row, None if row is None else orjson.dumps(row)) for key, row in rows)
    table.apply_changelog_batch(
        SimpleNamespace(key=key, value=row, message=SimpleNamespace(value=value)) for key, row, value in written
    )


def state(offset, kind="execution", run=1):
    return {"partition": 0, kind: {"run": run, "last_offset": offset}}


async def test_what_a_worker_wrote_after_it_had_lost_the_partition_does_not_stand(table):
    read_back(table, ("a", state(5)), ("b", state(5)), ("c", state(7)))
    read_back(
        table, ("a", state(9, "marker")), ("a", state(5)), ("b", state(4)), ("b", state(6)), ("c", state(3, run=2))
    )
    assert read(table, *"abc") == [state(9, "marker"), state(6), state(3, run=2)]
    publisher = FakePublisher()
    await table.on_recovery_completed({TP("executions", 0)}, set())
    assert len(await table.send_changes(publisher)) == len(publisher.sent) == 1


async def test_a_deleted_row_and_one_of_old_that_tells_no_place_are_taken_as_they_come(table):
    read_back(table, ("a", state(5)), ("a", None), ("a", state(2)), ("b", state(None, "marker")), ("b", state(2)))
    assert read(table, "a", "b") == [state(2), state(2)]


async def test_what_is_done_stays_so_in_the_ledger(table):
    table.is_newer = is_newer_claim
    claim, done = {"partition": 0, "incarnation": "late"}, {"partition": 0, "incarnation": "owner", "done": True}
    read_back(table, ("a", claim), ("a", done), ("a", claim))
    assert read(table, "a") == [done]


async def test_a_recovery_that_breaks_stops_the_worker(table):
    failures = []
    table.on_failure, table.on_owned = failures.append, lambda owned: owned.missing
    with pytest.raises(AttributeError):
        await table.on_recovery_completed({TP("executions", 0)}, set())
    assert [type(error) for error in failures] == [AttributeError]


async def test_a_folder_without_room_stops_the_worker(table):
    failures = []
    table.on_failure = failures.append
    table.rows._file.execute("PRAGMA max_page_count = 20")
    with pytest.raises(DataFolderError, match=r"executions\.rows: database or disk is full: make room there"):
        read_back(table, *((str(number), state(number) | {"x": "x" * 1000}) for number in range(100)))
    assert [type(error) for error in failures] == [DataFolderError]


@pytest.mark.parametrize(("owner", "topic"), [(None, "g-http-step_ledger-changelog"), ("g", "g-step_ledger-changelog")])
async def test_a_table_may_have_the_changelog_of_another_group(tmp_path, owner, topic):
    app = build_app(KafkaConnection(bootstrap_servers="nowhere:9"), StreamSettings("g-http", tmp_path, partitions=1))
    table = declare_table(app, "step_ledger", 1, is_newer_claim, outline, owner)
    assert (table.changelog_topic_name, app.tables.changelog_topics) == (topic, {topic})
