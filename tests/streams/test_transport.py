"""What a Faust application over our transport commits on a real Kafka, and where it begins again."""

import asyncio
import gc
import threading
import uuid
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.cluster import ClusterMetadata
from aiokafka.conn import AIOKafkaConnection
from aiokafka.consumer.fetcher import OffsetResetStrategy
from aiokafka.structs import TopicPartition
from faust.types import TP, Message
from mode.threads import WorkerThread
from waiting import until

from app.core.errors import DataFolderError, RunbooksError
from app.streams.app import SHARE_RECORDS, Agents, StreamSettings, build_app, membership_of
from app.streams.connection import KafkaConnection
from app.streams.transport import LOOK_AGAIN_S, TURN_RECORDS


class Bench:
    """An application with one agent on one topic of two partitions, and what was handed to it."""

    def __init__(self, servers, connection, folder):
        self.servers, self.connection, self.folder = servers, connection, folder
        self.group, self.topic = f"g-{uuid.uuid4().hex[:8]}", f"t-{uuid.uuid4().hex[:8]}"
        self.events = {}

    async def create(self):
        self.admin = AIOKafkaAdminClient(bootstrap_servers=self.servers)
        await self.admin.start()
        await self.admin.create_topics([NewTopic(self.topic, 2, 1)])
        self.producer = AIOKafkaProducer(bootstrap_servers=self.servers)
        await self.producer.start()

    async def start(self):
        self.build()
        await self.agents.start()

    def build(self):
        self.app = build_app(
            self.connection, StreamSettings(self.group, self.folder / "not" / "there", session_timeout_s=6)
        )
        self.agents = agents = Agents(self.app)

        async def handle(records, receipts):
            async for event in records:
                self.events[event.message.partition, event.message.offset] = event

        agents.add("collect", self.topic, handle)

    async def stop(self):
        await self.agents.stop()

    async def members(self):
        (group,) = await self.admin.describe_consumer_groups([self.group])
        return group.groups[0][5]

    async def close(self):
        await self.producer.stop()
        await self.admin.close()

    async def publish(self, count, partition=0):
        for _ in range(count):
            await self.producer.send_and_wait(self.topic, b"x", partition=partition)

    async def handed_out(self, *offsets, partition=0):
        async def all_there():
            return all((partition, offset) in self.events for offset in offsets)

        await until(all_there, 60)

    def acknowledge(self, *offsets, partition=0):
        for offset in offsets:
            self.events[partition, offset].ack()

    async def committed(self, offset, partition=0):
        """Wait until this offset is committed; any other one that is passes it fails."""

        async def there():
            found = await self.admin.list_consumer_group_offsets(self.group)
            place = found.get(TopicPartition(self.topic, partition))
            return None if place is None or place.offset == -1 else place.offset == offset

        await until(there, 60)

    async def seek(self):
        """As Faust does when a recovery is over."""
        await self.app.consumer.perform_seek()
        self.let_flow()

    def let_flow(self):
        self.app.flow_control.resume()
        self.app.consumer.resume_flow()

    async def stand_at_one(self):
        """Three records are handed out, and the first one is committed."""
        await self.start()
        await self.publish(3)
        await self.handed_out(0, 1, 2)
        self.acknowledge(0)
        await self.committed(1)

    async def where(self, partition=0):
        found = await self.admin.list_consumer_group_offsets(self.group)
        return found[TopicPartition(self.topic, partition)].offset


def close_what_aiokafka_forgot(app):
    """A connection that is being made as its client stops is in no client any more; Faust's are all stopped here."""
    for one in gc.get_objects():
        if type(one) is AIOKafkaConnection and one._client_id == app.conf.broker_client_id:
            one.close()


@pytest.fixture
async def bench(broker, connection, tmp_path):
    one = Bench(broker, connection, tmp_path)
    await one.create()
    yield one
    await one.close()
    close_what_aiokafka_forgot(one.app)


async def test_partitions_that_have_much_are_handed_out_in_turns(bench):
    bench.build()
    for partition in (0, 1):
        await asyncio.gather(*[await bench.producer.send(bench.topic, b"x", partition=partition) for _ in range(2000)])
    await bench.agents.start()
    for partition in (0, 1):
        await bench.handed_out(1999, partition=partition)
    order = [partition for partition, _ in bench.events]
    assert max(order.index(partition) for partition in (0, 1)) < 1000
    await bench.stop()


async def test_an_agent_that_takes_nothing_keeps_no_other_from_its_records_and_misses_none_itself(bench):
    """However many of its partitions have much: they are fetched no more, and what it is given is bounded."""
    bench.build()
    may_take, taken = asyncio.Event(), []
    many, other, others = f"{bench.topic}-many", f"{bench.topic}-other", []
    await bench.admin.create_topics([NewTopic(many, 8, 1), NewTopic(other, 2, 1)])

    async def take_later(records, receipts):
        await may_take.wait()
        async for event in records:
            taken.append((event.message.partition, event.message.offset))
            event.ack()

    async def take(records, receipts):
        async for event in records:
            others.append(event.message.offset)
            event.ack()

    bench.agents = Agents(bench.app)
    bench.agents.add("collect", many, take_later)
    bench.agents.add("other", other, take)
    places = [TP(many, number) for number in range(8)]
    for place in places:
        await asyncio.gather(*[await bench.producer.send(many, b"x", partition=place.partition) for _ in range(1500)])
    await bench.agents.start()
    queue = next(iter(bench.app.topics._tp_index[places[0]])).queue

    async def all_have_much():
        return bench.app.consumer._buffered_partitions == {*places}

    await until(all_have_much, 60)
    for offset in range(5):
        await bench.producer.send_and_wait(other, b"x", partition=0)

        async def other_is_read(offset=offset):
            return others[-1:] == [offset]

        await until(other_is_read, 5)
    assert queue.maxsize < queue.qsize() <= queue.pressure_high_size + len(places) * SHARE_RECORDS
    may_take.set()

    async def all_taken():
        return len(taken) >= 8 * 1500

    await until(all_taken, 60)
    for number in range(8):
        assert [offset for place, offset in taken if place == number] == list(range(1500))
    assert bench.app.consumer._buffered_partitions == set()
    await bench.stop()


async def test_what_is_left_out_when_a_group_is_shared_out_anew_is_read_by_whoever_has_it_then(bench):
    """Queues are emptied then, by which nothing that was left out may stay so."""
    bench.build()
    may_take, taken = asyncio.Event(), set()
    many = f"{bench.topic}-many"
    await bench.admin.create_topics([NewTopic(many, 4, 1)])

    async def take_later(records, receipts):
        await may_take.wait()
        async for event in records:
            taken.add((event.message.partition, event.message.offset))
            event.ack()

    def worker():
        agents = Agents(bench.app)
        agents.add("collect", many, take_later)
        return agents

    first, membership = worker(), membership_of(bench.app)
    for partition in range(4):
        await asyncio.gather(*[await bench.producer.send(many, b"x", partition=partition) for _ in range(2000)])
    await first.start()
    consumer = bench.app.consumer

    async def all_have_much():
        return len(consumer._buffered_partitions) == 4

    await until(all_have_much, 60)
    bench.folder = bench.folder / "second"
    bench.build()
    second, turn = worker(), membership.turn
    await second.start()
    assert membership.turn > turn
    may_take.set()

    async def all_taken():
        return len(taken) == 4 * 2000

    await until(all_taken, 60)
    await second.stop()
    await first.stop()
    assert consumer._buffered_partitions == set()


class TestLateRecords:
    """What was fetched of a partition before it was lost, and is handed out after."""

    LOST, KEPT = TP("t", 0), TP("t", 1)

    @pytest.fixture
    async def consumer(self, tmp_path):
        app = build_app(KafkaConnection("127.0.0.1:9"), StreamSettings("g", tmp_path))
        app.topics.acks_enabled_for = lambda topic: True
        handed_out = []

        async def take(message):
            handed_out.append(message)

        async def ignore(*_):
            pass

        consumer = app.transport.create_consumer(take, on_partitions_revoked=ignore, on_partitions_assigned=ignore)
        await consumer.on_partitions_assigned({self.LOST, self.KEPT}, 1)
        return consumer

    async def deliver(self, consumer, tp, offset):
        """As Faust does: its own note of how far it has read comes after."""
        message = Message(*tp, offset, 0.0, 0, None, None, b"x", None)
        await consumer._deliver(message)
        consumer._read_offset[tp] = offset
        return message

    def counted(self, consumer):
        return set(consumer._filter_tps_with_pending_acks())

    async def test_they_are_nothing_to_commit(self, consumer):
        await self.deliver(consumer, self.LOST, 4)
        await self.deliver(consumer, self.KEPT, 4)
        await consumer.on_partitions_revoked({self.LOST})
        late = await self.deliver(consumer, self.LOST, 5)
        assert self.counted(consumer) == {self.KEPT}
        assert consumer.reached() == {self.KEPT: 4}
        consumer.ack(late)
        assert self.counted(consumer) == {self.KEPT}

    async def test_a_partition_that_comes_back_is_counted_again(self, consumer):
        await consumer.on_partitions_revoked({self.LOST, self.KEPT})
        await consumer.on_partitions_assigned({self.LOST}, 2)
        await self.deliver(consumer, self.LOST, 5)
        assert (self.counted(consumer), consumer.reached()) == ({self.LOST}, {self.LOST: 5})
        assert consumer._new_offset(self.LOST) == 5


async def at_once(*_):
    pass


class TestHandingOut:
    """The records of one partition on their way into the queue of an agent."""

    PLACE, OTHER = TP("t", 0), TP("t", 1)

    @pytest.fixture
    async def consumer(self, tmp_path):
        app = build_app(KafkaConnection("127.0.0.1:9"), StreamSettings("g", tmp_path))
        consumer = app.transport.create_consumer(at_once, on_partitions_revoked=at_once, on_partitions_assigned=at_once)
        app.topics.acks_enabled_for = lambda topic: True
        app.flow_control.resume()
        consumer._assigned = {self.PLACE}
        return consumer

    def channel(self, consumer, room):
        return SimpleNamespace(queue=consumer.app.FlowControlQueue(maxsize=room, clear_on_resume=True))

    def records(self, first, end):
        names = ("timestamp", "timestamp_type", "headers", "key", "checksum", "serialized_key_size")
        rest = dict.fromkeys(names) | {"timestamp": 0, "value": b"x", "serialized_value_size": 1}
        return [SimpleNamespace(topic="t", partition=0, offset=offset, **rest) for offset in range(first, end)]

    def taken(self, channel):
        return [channel.queue.get_nowait().message.offset for _ in range(channel.queue.qsize())]

    def begin(self, consumer, channel, count):
        return asyncio.create_task(consumer._hand_out_all(self.PLACE, self.records(0, count), channel, 0))

    async def hand_out(self, consumer, channel, count):
        async with asyncio.timeout(10):
            await self.begin(consumer, channel, count)

    async def test_what_is_sought_meanwhile_is_dropped_to_be_read_again(self, consumer):
        channel = self.channel(consumer, 10_000)
        handing_out = self.begin(consumer, channel, 1000)
        await asyncio.sleep(0)
        consumer.perform_seek().close()
        await handing_out
        assert self.taken(channel) == list(range(TURN_RECORDS))

    async def test_nothing_is_handed_out_once_the_flow_has_stopped(self, consumer):
        channel = self.channel(consumer, 10_000)
        handing_out = self.begin(consumer, channel, 1000)
        await asyncio.sleep(0)
        consumer.stop_flow()
        await handing_out
        assert self.taken(channel) == list(range(TURN_RECORDS))

    async def test_a_full_queue_is_given_what_was_fetched_and_that_is_all_until_most_of_it_is_taken(self, consumer):
        channel = self.channel(consumer, 10)
        consumer._active_partitions = {self.PLACE, self.OTHER}
        await self.hand_out(consumer, channel, 50)
        assert (consumer._active_partitions, channel.queue.qsize()) == ({self.OTHER}, 50)
        await consumer._hand_out_all(self.OTHER, self.records(0, 5), channel, 0)
        assert (consumer._active_partitions, channel.queue.qsize()) == (set(), 55)
        found = []
        while channel.queue.qsize() > channel.queue.pressure_drop_size:
            assert consumer._active_partitions == set()
            found.append((await channel.queue.get()).message.offset)
        found.append((await channel.queue.get()).message.offset)
        assert consumer._active_partitions == {self.PLACE, self.OTHER}
        assert (consumer._buffered_partitions, consumer._pressed) == (set(), {})
        assert [*found, *self.taken(channel)] == [*range(50), *range(5)]

    async def test_a_rebalance_ends_the_handing_out_and_what_is_left_out_is_forgotten(self, consumer):
        channel = self.channel(consumer, 10)
        consumer._active_partitions = {self.PLACE}
        await self.hand_out(consumer, channel, 50)
        handing_out = asyncio.create_task(consumer._hand_out_all(self.PLACE, self.records(50, 1000), channel, 0))
        await asyncio.sleep(0)
        consumer.stop_flow()
        consumer.app.flow_control.suspend()
        await consumer.on_partitions_revoked({self.PLACE})
        consumer.app.flow_control.clear()
        await handing_out
        assert self.taken(channel) == []
        assert (consumer._buffered_partitions, consumer._pressed) == (set(), {})

    async def test_who_is_stopped_while_handing_out_stops(self, consumer):
        channel = self.channel(consumer, 10)
        handing_out = self.begin(consumer, channel, 1000)
        await asyncio.sleep(0)
        handing_out.cancel()
        async with asyncio.timeout(10):
            with pytest.raises(asyncio.CancelledError):
                await handing_out
        assert self.taken(channel) == list(range(TURN_RECORDS))

    async def test_after_a_rebalance_a_queue_that_fills_again_says_so_again(self, consumer):
        channel, said, dropped = self.channel(consumer, 100), [], []
        consumer.on_buffer_full, consumer.on_buffer_drop = said.append, dropped.append
        for turn in (1, 2):
            await consumer.on_partitions_assigned({self.PLACE}, turn)
            consumer._read_offset.clear()
            await consumer._hand_out_all(self.PLACE, self.records(0, 90), channel, 0)
            assert said == [self.PLACE] * turn
            if turn == 1:
                channel.queue.clear()
        assert self.taken(channel) == list(range(90))
        assert dropped == [self.PLACE]  # what the queue was to call before the rebalance means nothing any more

    async def test_partitions_that_are_left_out_are_fetched_again_soon_after_there_is_room(self, consumer):
        """Not when a fetch of others ends, or after the second that Faust sleeps where there are no others."""
        channel, waits = self.channel(consumer, 10), []
        consumer._active_partitions = {self.PLACE, self.OTHER}

        async def fetch(active_partitions, timeout):  # noqa: ASYNC109 - Faust's signature
            waits.append((set(active_partitions), timeout))
            return {}

        consumer._getmany = fetch
        await consumer._wait_next_records(1.0)
        await self.hand_out(consumer, channel, 50)
        await consumer._wait_next_records(1.0)
        await consumer._hand_out_all(self.OTHER, self.records(0, 5), channel, 0)
        async with asyncio.timeout(0.9):
            assert await consumer._wait_next_records(1.0) == (None, None)
        self.taken(channel)
        await consumer._wait_next_records(1.0)
        both = {self.PLACE, self.OTHER}
        assert waits == [(both, 1.0), ({self.OTHER}, LOOK_AGAIN_S), (both, 1.0)]

    async def test_what_was_read_already_is_not_handed_out_again(self, consumer):
        channel = self.channel(consumer, 100)
        consumer._read_offset[self.PLACE] = 5
        await consumer._hand_out_all(self.PLACE, self.records(3, 8), channel, 0)
        assert self.taken(channel) == [5, 6, 7]
        assert consumer._read_offset[self.PLACE] == 7


async def test_a_record_in_work_is_never_passed_and_comes_again(bench):
    await bench.start()
    await bench.publish(5)
    await bench.handed_out(0, 1, 2, 3, 4)
    bench.acknowledge(1, 0)
    await bench.committed(2)
    bench.acknowledge(3, 4)
    await bench.publish(1, partition=1)
    await bench.handed_out(0, partition=1)
    bench.acknowledge(0, partition=1)
    await bench.committed(1, partition=1)  # a round of commits has passed
    assert await bench.where() == 2
    await bench.stop()
    assert await bench.where() == 2
    bench.events.clear()
    await bench.start()
    await bench.handed_out(2, 3, 4)
    assert (0, 1) not in bench.events
    bench.acknowledge(2, 3, 4)
    await bench.committed(5)
    await bench.stop()


async def test_without_any_commit_all_is_read_again(bench):
    await bench.publish(30)
    for _ in range(3):
        bench.events.clear()
        await bench.start()
        await bench.publish(1)
        await bench.handed_out(*range(30))
        await bench.stop()
        found = await bench.admin.list_consumer_group_offsets(bench.group)
        assert all(place.offset in (-1, 0) for place in found.values())


async def test_a_seek_makes_what_was_fetched_before_it_come_again(bench):
    await bench.stand_at_one()
    for _ in range(5):
        bench.events.clear()
        await asyncio.gather(bench.seek(), bench.publish(3))
        await bench.handed_out(1, 2)
    assert await bench.where() == 1
    await bench.stop()


async def test_a_seek_that_fails_keeps_nothing_back(bench):
    await bench.start()
    reader = bench.app.consumer._thread
    seek = reader._seek_to_committed

    async def fail():
        raise RuntimeError("no seek")

    reader._seek_to_committed = fail
    with pytest.raises(RuntimeError, match="no seek"):
        await bench.app.consumer.perform_seek()
    reader._seek_to_committed = seek
    await bench.publish(1)
    await bench.handed_out(0)
    await bench.stop()


async def test_a_worker_that_was_given_nothing_has_nothing_to_seek(connection, tmp_path):
    app = build_app(connection, StreamSettings("g", tmp_path))
    never = dict.fromkeys(("callback", "on_partitions_revoked", "on_partitions_assigned"), pytest.fail)
    reader = app.transport.create_consumer(**never)._thread
    reader._consumer = SimpleNamespace(assignment=frozenset)
    assert await reader.seek_to_committed() == {}


async def test_what_ends_faust_is_told_and_the_group_is_left(bench):
    await bench.start()
    await bench.publish(1)
    await bench.handed_out(0)
    assert len(await bench.members()) == 1
    await bench.app.consumer.crash(RuntimeError("no more"))
    async with asyncio.timeout(30):
        assert repr(await bench.agents.failure) == "RuntimeError('no more')"
        await bench.stop()
    assert await bench.members() == []


async def for_ever():
    await asyncio.Event().wait()


@pytest.fixture
async def impatient(bench):
    """The bench, whose requests of the broker may take hardly longer than a session lasts."""
    bench.build()
    bench.app.conf.broker_request_timeout = bench.app.conf.broker_session_timeout + 0.1
    return bench


async def test_a_recovery_that_waits_too_long_for_the_broker_is_told(impatient):
    await impatient.agents.start()
    impatient.app.consumer.perform_seek = for_ever
    impatient.app.tables.recovery.signal_recovery_start.set()  # as a rebalance does
    async with asyncio.timeout(60):
        assert "let a recovery wait for more than" in str(await impatient.agents.failure)
        await impatient.stop()
    assert await impatient.members() == []


async def test_at_a_start_it_is_the_end_of_it(impatient):
    @impatient.app.on_rebalance_complete.connect
    async def about_to_seek(*_, **__):
        impatient.app.consumer.perform_seek = for_ever

    async with asyncio.timeout(60):
        with pytest.raises(RunbooksError, match="let a recovery wait for more than"):
            await impatient.agents.start()
        await impatient.stop()


async def started_slowly(bench):
    """The bench while it starts, which takes until its tables are recovered: here for ever."""
    recovering = asyncio.Event()

    async def recovered():
        recovering.set()
        await asyncio.Event().wait()

    bench.build()
    bench.app.on_started = recovered
    starting = asyncio.create_task(bench.agents.start())
    await recovering.wait()
    return starting


def of_faust():
    return [task for task in asyncio.all_tasks() if "faust" in repr(task.get_coro()) or "mode" in repr(task.get_coro())]


async def test_what_fails_during_the_start_ends_it(bench):
    starting = await started_slowly(bench)
    bench.agents.fail(DataFolderError("no room"))
    with pytest.raises(RunbooksError, match="no room"):
        await starting
    async with asyncio.timeout(30):
        await bench.stop()


async def test_a_start_that_is_given_up_leaves_nothing_running(bench):
    starting = await started_slowly(bench)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    async with asyncio.timeout(30):
        await bench.stop()
        for task in of_faust():  # as the end of the event loop does
            task.cancel()
        await asyncio.gather(*of_faust(), return_exceptions=True)


async def test_faust_may_look_after_a_partition_that_is_being_sought(bench):
    await bench.start()
    consumer = bench.app.consumer
    client = consumer._thread._consumer
    client._fetcher.request_offset_reset(client.assignment(), OffsetResetStrategy.EARLIEST)
    assert not any(
        client._subscription.subscription.assignment.state_value(tp).has_valid_position for tp in client.assignment()
    )
    await consumer.verify_all_partitions_active()
    assert not consumer.should_stop
    await bench.stop()


async def test_nothing_is_handed_out_from_a_seek_on_until_the_flow_goes_on(bench):
    await bench.stand_at_one()
    bench.events.clear()
    reader = bench.app.consumer._thread
    seek, reached, may_go = reader._seek_to_committed, asyncio.Event(), asyncio.Event()

    async def slow_seek():
        reached.set()
        await may_go.wait()
        return await seek()

    reader._seek_to_committed = slow_seek
    called = bench.app.consumer.perform_seek()
    await bench.publish(1, partition=1)
    await asyncio.sleep(2)  # time enough for what must not come: Faust has the seek begin a little later
    assert bench.events == {}
    seeking = asyncio.create_task(called)
    await reached.wait()
    reader._seek_to_committed = seek
    await bench.publish(3)
    await bench.publish(1, partition=1)
    await asyncio.sleep(2)  # time enough for what must not come
    assert bench.events == {}
    may_go.set()
    await seeking
    await asyncio.sleep(2)  # the same: Faust empties the queues when the flow goes on
    assert bench.events == {}
    bench.let_flow()
    await bench.handed_out(1, 2, 3, 4, 5)
    await bench.handed_out(0, partition=1)
    await bench.stop()


async def test_records_are_fetched_in_the_loop_of_the_worker(bench):
    before = set(threading.enumerate())
    await bench.start()
    await bench.publish(1)
    await bench.handed_out(0)
    assert not [one for one in set(threading.enumerate()) - before if isinstance(one, WorkerThread)]
    await bench.stop()
    assert bench.app.consumer._thread._consumer._closed


async def test_a_worker_is_certain_of_its_partitions_until_they_are_shared_out_anew(bench):
    await bench.start()
    first, membership = bench.app, membership_of(bench.app)
    await bench.publish(1)
    await bench.handed_out(0)
    turn = membership.turn
    assert await membership.is_certain(turn)
    certain_until = membership._certain_until

    async def heard():
        return membership._certain_until > certain_until

    await until(heard)
    await bench.start()

    async def shared_out():
        return membership.turn > turn

    await until(shared_out)
    assert not await membership.is_certain(turn)
    assert await membership.is_certain(membership.turn)
    await bench.stop()
    await first.stop()


async def test_a_topic_that_a_broker_did_not_know_yet_is_read_as_soon_as_it_does(bench, monkeypatch, caplog):
    """As one does not that has just started; the group is told at its next look and not in five minutes."""
    known, hidden = ClusterMetadata.partitions_for_topic, {bench.topic}
    monkeypatch.setattr(
        ClusterMetadata,
        "partitions_for_topic",
        lambda cluster, topic: None if topic in hidden else known(cluster, topic),
    )

    async def shared_out_without_it():
        return f"No partition metadata for topic {bench.topic}" in caplog.text

    await bench.start()
    try:
        await until(shared_out_without_it)
        hidden.clear()
        await bench.publish(1)
        await bench.handed_out(0)
    finally:
        await bench.stop()
