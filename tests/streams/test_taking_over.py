"""Where a group begins in topics that others of its family have read."""

from datetime import UTC, datetime, timedelta

import orjson
import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer
from app.core.errors import ConfigurationError
from app.streams.backlog import Span
from app.streams.former_ledgers import former_ledgers, is_needed
from app.streams.ledger import COMMANDS_KEPT, LEDGER_KEPT
from app.streams.publisher import Publisher
from app.streams.taking_over import beginnings, take_over

NOW = datetime(2026, 10, 2, 12, tzinfo=UTC)
P = TopicPartition("step-commands.http", 0)
SPANS = {P: Span(10, 100)}


@pytest.mark.parametrize(
    ("own", "others", "begin"),
    [
        ({}, [{P: 60}, {P: 70}, {}], 70),  # given to a group that has never read it
        ({P: 40}, [{P: 70}], 70),  # given back
        ({P: 70}, [{P: 40}], None),  # it has had it all the time
        ({P: 70}, [{P: 70}], None),
        ({P: 70}, [], None),
        ({}, [{P: 100}], 100),
        ({}, [{P: 101}, {P: 60}], 60),  # of a topic that was there before
        ({P: 101}, [], None),  # the same: Kafka has it begin anew
        ({P: 0}, [{P: 5}], 5),
        ({}, [{P: 10}], None),  # there it begins anyway
        ({P: 5}, [{P: 5}], None),
    ],
)
def test_a_group_begins_where_the_furthest_of_its_family_has_ended(own, others, begin):
    assert beginnings(own, others, SPANS, oldest={}) == ({} if begin is None else {P: begin})


@pytest.mark.parametrize(
    ("own", "oldest", "begin"), [({}, 30, 30), ({}, 10, None), ({}, 100, 100), ({P: 10}, 30, None), ({P: 50}, 30, None)]
)
def test_where_nobody_has_committed_it_begins_with_what_the_ledger_knows(own, oldest, begin):
    assert beginnings(own, [{}], SPANS, {P: oldest}) == ({} if begin is None else {P: begin})


def test_partitions_are_judged_one_by_one():
    other = TopicPartition("step-commands.http", 1)
    spans = SPANS | {other: Span(0, 9)}
    assert beginnings({P: 80}, [{P: 20, other: 7}], spans, {}) == {other: 7}


def test_the_ledger_knows_more_than_is_begun():
    assert COMMANDS_KEPT + timedelta(days=1) <= LEDGER_KEPT


def test_ledgers_of_single_groups_are_from_before():
    assert former_ledgers(["g-http", "g"], "g") == ["g-http-step_ledger-changelog"]


def test_only_rows_of_commands_that_may_come_again_are_copied():
    assert is_needed(row(NOW - COMMANDS_KEPT + timedelta(seconds=1)), NOW)
    assert not is_needed(row(NOW - COMMANDS_KEPT), NOW)
    assert not is_needed(None, NOW)


def row(at, **more) -> bytes:
    return orjson.dumps({"partition": 0, "incarnation": "i", "at": at.isoformat(), **more})


@pytest.fixture
async def filled(connection, group, admin):
    """A command topic of two partitions with some records, old and new, and ledgers."""
    names = ["step-commands.http", f"{group}-step_ledger-changelog", f"{group}-http-step_ledger-changelog"]
    await admin.create_topics([NewTopic(name, 2, 1) for name in names])
    at = datetime.now(UTC)
    ages = [COMMANDS_KEPT + timedelta(hours=1), COMMANDS_KEPT - timedelta(hours=1), timedelta(0)]
    async with AIOKafkaProducer(**connection.client_arguments(), acks="all") as producer:
        for age in ages:
            written_ms = int((at - age).timestamp() * 1000)
            await producer.send_and_wait(names[0], b"{}", partition=0, timestamp_ms=written_ms)
        for key, value in ((b"done", row(at, done=True)), (b"old", row(at - LEDGER_KEPT)), (b"gone", None)):
            await producer.send_and_wait(names[2], value, key=key, partition=1)
    return at


@pytest.fixture
def group(settings) -> str:
    return settings.kafka.group_id


@pytest.fixture
async def admin(connection):
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    await admin.start()
    yield admin
    await admin.close()


@pytest.fixture
async def publisher(connection):
    publisher = Publisher(connection, "test")
    await publisher.start()
    yield publisher
    await publisher.stop()


async def commit(connection, group, offsets):
    async with Consumer(**connection.client_arguments(), group_id=group) as consumer:
        consumer.assign(list(offsets))
        await consumer.commit(offsets)


async def committed(admin, group):
    return {place: one.offset for place, one in (await admin.list_consumer_group_offsets(group)).items()}


async def test_nobody_has_read_it(connection, admin, publisher, filled, group):
    await take_over(connection, publisher, [P.topic], group, group, filled)
    assert await committed(admin, group) == {P: 1}  # the first one is too old for anybody to know


async def test_it_goes_from_group_to_group_with_the_ledger_that_one_had(connection, admin, publisher, filled, group):
    near, copied = f"{group}-http", TopicPartition(f"{group}-http-step_ledger-changelog", 1)
    await commit(connection, near, {P: 2})
    await take_over(connection, publisher, [P.topic, "unknown"], group, group, filled)
    assert await committed(admin, group) == {P: 2, copied: 3}
    await take_over(connection, publisher, [P.topic], group, group, filled)
    ledger = TopicPartition(f"{group}-step_ledger-changelog", 1)
    async with Consumer(**connection.client_arguments()) as consumer:
        assert await consumer.end_offsets([ledger]) == {ledger: 1}  # the one that is needed, and once
        consumer.assign([ledger])
        assert (await consumer.getone()).key == b"done"


async def test_a_group_that_reads_is_not_moved(connection, publisher, filled, group):
    await commit(connection, f"{group}-http", {P: 3})
    async with Consumer(P.topic, **connection.client_arguments(), group_id=group) as member:
        await member.getone()
        with pytest.raises(ConfigurationError, match=rf"the consumer group {group} has members and does not go on"):
            await take_over(connection, publisher, [P.topic], group, group, filled)
        await member.commit({P: 3, TopicPartition(P.topic, 1): 0})
        with pytest.raises(ConfigurationError, match=rf"others ended in {group}-http-step_ledger-changelog: stop all"):
            await take_over(connection, publisher, [P.topic], group, group, filled)


async def test_an_empty_topic_asks_for_nothing(connection, admin, publisher, group):
    await admin.create_topics([NewTopic(P.topic, 1, 1)])
    await take_over(connection, publisher, [P.topic], group, group, NOW)
    assert group not in {name for name, _ in await admin.list_consumer_groups()}
