"""Fetch sessions against the rules of KIP-227, then fetching from a real Kafka that forgets them."""

import asyncio
import uuid
from types import SimpleNamespace

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.fetch import FetchRequest, FetchRequest_v4, FetchRequest_v11
from aiokafka.structs import TopicPartition
from hypothesis import given
from hypothesis import strategies as st
from waiting import until

from app.streams.fetching import LAST_EPOCH, PART_WAIT_MS, WHOLE_WAIT_MS, FetchSession, tune_fetches

SIZE = 1000
FORGOTTEN, WRONG_EPOCH = 70, 71
PLACES = st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 3)), st.integers(0, 3))
STEPS = st.lists(st.tuples(st.sampled_from(["answered", "lost", "not sent", "evicted", "full"]), PLACES), max_size=12)


def whole(wanted):
    """The request for these offsets by topic and partition, as aiokafka makes it."""
    topics = [
        (name, [(number, offset, SIZE) for (topic, number), offset in wanted.items() if topic == name])
        for name in sorted({topic for topic, _ in wanted})
    ]
    return FetchRequest(20, 1, 10_000, 0, topics, rack_id="here")


def named(request):
    """The offsets that a built request names."""
    return {(topic, part[0]): part[2] for topic, parts in request.topics for part in parts}


class Broker:
    """What KIP-227 has a broker do with sessions."""

    def __init__(self):
        self.sessions = {}
        self.room = True
        self.names_itself = False
        self.made = 0

    def answer(self, request):
        session_id, error = self._answer(request)
        session_id = session_id or (request.session_id if error and self.names_itself else 0)
        return SimpleNamespace(API_VERSION=11, error_code=error, session_id=session_id)

    def _answer(self, request):
        if request.session_epoch == 0:
            self.sessions.pop(request.session_id, None)
            assert not request.forgotten_topics_data
            if not self.room:
                return 0, 0
            self.made += 1
            self.sessions[self.made] = [1, named(request)]
            return self.made, 0
        if request.session_id not in self.sessions:
            return 0, FORGOTTEN
        expected, places = self.sessions[request.session_id]
        if request.session_epoch != expected:
            return 0, WRONG_EPOCH
        for topic, numbers in request.forgotten_topics_data:
            for number in numbers:
                del places[topic, number]
        places |= named(request)
        self.sessions[request.session_id][0] = 1 if expected == LAST_EPOCH else expected + 1
        return request.session_id, 0


@given(STEPS, st.booleans())
def test_whatever_is_lost_the_broker_fetches_what_is_wanted_or_says_that_it_cannot(steps, names_itself):
    session, broker = FetchSession(), Broker()
    broker.names_itself = names_itself
    for what, wanted in steps:
        if what == "evicted":
            broker.sessions.clear()
        broker.room = what != "full"
        request = session.ask(whole(wanted)).build(FetchRequest_v11)
        if what == "not sent":
            session.end()
            continue
        answer = broker.answer(request)
        if what == "lost":
            session.end()
            continue
        session.hear(answer)
        if answer.error_code:
            assert session.ask(whole(wanted)).build(FetchRequest_v11).session_epoch == 0
            session.end()
        elif answer.session_id:
            assert broker.sessions[answer.session_id][1] == wanted
        else:
            assert named(request) == wanted
    request = session.ask(whole({("a", 0): 7})).build(FetchRequest_v11)
    session.hear(broker.answer(request))
    request = session.ask(whole({("a", 0): 8})).build(FetchRequest_v11)
    assert named(request) == {("a", 0): 8}


def test_after_the_first_a_request_names_what_has_changed_and_what_is_not_wanted_any_more():
    session, broker = FetchSession(), Broker()
    session.hear(broker.answer(session.ask(whole({("a", 0): 1, ("a", 1): 2, ("b", 0): 3})).build(FetchRequest_v11)))
    request = session.ask(whole({("a", 0): 1, ("a", 1): 4})).build(FetchRequest_v11)
    assert named(request) == {("a", 1): 4}
    assert request.forgotten_topics_data == [("b", [0])]
    assert (request.session_id, request.session_epoch) == (1, 1)
    assert (request.max_wait_time, request.max_bytes, request.rack_id) == (20, 10_000, "here")


def test_the_last_epoch_is_followed_by_the_first_one():
    session, broker = FetchSession(), Broker()
    session.hear(broker.answer(session.ask(whole({("a", 0): 1})).build(FetchRequest_v11)))
    session._epoch = broker.sessions[1][0] = LAST_EPOCH
    session.hear(broker.answer(session.ask(whole({("a", 0): 2})).build(FetchRequest_v11)))
    assert session.ask(whole({})).build(FetchRequest_v11).session_epoch == 1


def test_a_broker_that_knows_no_sessions_is_asked_for_everything_each_time():
    session = FetchSession()
    for _ in range(2):
        request = session.ask(whole({("a", 0): 1, ("b", 0): 3})).build(FetchRequest_v4)
        assert request.topics == [("a", [(0, 1, SIZE)]), ("b", [(0, 3, SIZE)])]
        session.hear(SimpleNamespace(API_VERSION=4))


class Fetches:
    """A tuned consumer's requests, as they go to the broker."""

    def __init__(self, client):
        self.named = []
        self.waits = set()
        self.breaks = False
        self._send, client.send = client.send, self.send

    async def send(self, node, request, **more):
        if isinstance(request, FetchRequest):
            built = request.build(FetchRequest_v11)
            self.named.append(len(named(built)))
            self.waits.add(built.max_wait_time)
            if self.breaks:
                self.breaks = False
                await self._send(node, request, **more)  # the broker has it, the answer is lost
                raise KafkaConnectionError("cut")
        return await self._send(node, request, **more)


@pytest.fixture
async def bench(kafka):
    topics = [f"fetched-{uuid.uuid4().hex[:8]}" for _ in range(3)]
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic, 8, 1) for topic in topics])
    await admin.close()
    places = [TopicPartition(topic, number) for topic in topics for number in range(8)]
    consumer = AIOKafkaConsumer(bootstrap_servers=kafka, auto_offset_reset="earliest", enable_auto_commit=False)
    async with AIOKafkaProducer(bootstrap_servers=kafka) as producer, consumer:
        fetches = Fetches(consumer._client)
        sessions = tune_fetches(consumer)
        consumer.assign(places)
        yield SimpleNamespace(
            places=places, consumer=consumer, producer=producer, fetches=fetches, sessions=sessions, sent=0, read=[]
        )


async def exchange(bench, rounds=1):
    """Send a record to each partition and read them all, one at a time."""
    for _ in range(rounds):
        for place in bench.places:
            value = b"%d" % bench.sent
            bench.sent += 1
            await bench.producer.send_and_wait(place.topic, value, partition=place.partition)
            async with asyncio.timeout(30):
                bench.read.append((await bench.consumer.getone()).value)
    assert bench.read == [b"%d" % number for number in range(bench.sent)]


async def test_each_record_comes_once_and_in_order_and_requests_name_little(bench):
    await exchange(bench, rounds=3)
    assert max(bench.fetches.named) == len(bench.places)
    assert sum(bench.fetches.named[1:]) < 4 * bench.sent
    assert bench.fetches.waits >= {WHOLE_WAIT_MS}


@pytest.mark.parametrize("what", ["id", "epoch", "answer"])
async def test_a_session_that_the_broker_does_not_know_or_an_answer_that_is_lost_costs_a_whole_fetch(bench, what):
    await exchange(bench)
    (session,) = bench.sessions.values()
    before = session._id
    if what == "id":
        session._id = 1
    elif what == "epoch":
        session._epoch += 5
    else:
        bench.fetches.breaks = True
    await exchange(bench, rounds=2)
    assert session._id not in {before, 1}


async def test_records_that_nobody_takes_make_no_fetch_short_for_long(bench, monkeypatch):
    """As those of a table's changelog, which a worker reads only while it recovers."""
    monkeypatch.setattr("app.streams.fetching.SOON_S", 0.1)
    left, *read = bench.places

    async def waits_to_be_taken():
        return left in bench.consumer._fetcher._records

    async def may_wait_long():
        return WHOLE_WAIT_MS in bench.fetches.waits

    await bench.producer.send_and_wait(left.topic, b"x", partition=left.partition)
    await until(waits_to_be_taken)
    bench.fetches.waits.clear()
    await bench.producer.send_and_wait(read[0].topic, b"y", partition=read[0].partition)
    assert (await bench.consumer.getone(*read)).value == b"y"
    await until(may_wait_long)


async def test_what_is_sought_paused_and_resumed_is_fetched_from_where_it_stands(bench):
    await exchange(bench, rounds=2)
    first, *others = bench.places
    bench.consumer.pause(*others)
    await bench.consumer.seek_to_beginning(*bench.places)
    assert [(await bench.consumer.getone(first)).offset for _ in range(2)] == [0, 1]
    bench.consumer.resume(*others)
    assert PART_WAIT_MS in bench.fetches.waits
    found = [await bench.consumer.getone(*others) for _ in range(2 * len(others))]
    assert sorted((one.topic, one.partition, one.offset) for one in found) == sorted(
        (place.topic, place.partition, offset) for place in others for offset in range(2)
    )
