"""How far readers are behind, and which dead letters wait: from what a broker says, and from a real one."""

import asyncio
import contextlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

from aiokafka import AIOKafkaProducer
from aiokafka.structs import TopicPartition
from building import T0
from waiting import until

from app.clients.kafka import Standing
from app.streams.backlog import Backlog, DeadLetterCount, Lag, Span
from app.streams.connection import KafkaConnection
from app.streams.dead_letters import note_headers
from app.streams.topics import DEAD_LETTERS, ensure_topics, read_topics

A0, A1 = TopicPartition("a", 0), TopicPartition("a", 1)
EMPTY = Span(0, 0)


def record(offset: int, at=T0, requeued: int | None = None):
    headers = [] if requeued is None else note_headers(requeued, "ann", "anomaly-events/0/9")
    return SimpleNamespace(offset=offset, timestamp=int(at.timestamp() * 1000), headers=headers)


def taken(*records, span=EMPTY, kept=100) -> DeadLetterCount:
    letters = DeadLetterCount(span, kept)
    for one in records:
        letters.take(one)
    return letters


class TestDeadLetters:
    def test_those_that_were_requeued_do_not_wait(self):
        letters = taken(record(0), record(1), record(2, requeued=0), record(3, requeued=0))
        assert (letters.waiting(), letters.next_offset) == (1, 4)

    def test_a_note_of_no_offset_that_there_can_be_is_a_letter(self):
        odd = record(1)
        odd.headers = [("requeued", b"9" * 5000)]
        assert taken(record(0), odd).waiting() == 2

    def test_of_more_than_are_kept_the_older_ones_are_only_counted(self):
        letters = taken(*(record(offset) for offset in range(5)), kept=2)
        assert letters.waiting() == 5
        letters.take(record(5, requeued=1))
        letters.take(record(6, requeued=4))
        assert letters.waiting() == 3

    def test_only_the_newest_are_read_and_older_ones_are_taken_to_wait(self):
        letters = taken(span=Span(10, 100), kept=20)
        assert (letters.next_offset, letters.waiting()) == (80, 70)

    def test_what_the_broker_has_deleted_does_not_wait(self):
        letters = taken(*(record(offset) for offset in range(10)), kept=5)
        letters.drop_before(7)
        assert letters.waiting() == 3

    def test_one_of_which_nobody_can_say_when_it_arrived_waits_and_did_not_lately(self):
        odd = record(0)
        odd.timestamp = 2**62
        letters = taken(odd, record(1, T0))
        assert (letters.waiting(), letters.since(T0)) == (2, 1)

    def test_lately_is_by_when_they_arrived(self):
        letters = taken(record(0, T0), record(1, T0 + timedelta(hours=2)))
        assert (letters.since(T0 + timedelta(hours=1)), letters.since(T0)) == (1, 2)


class Behind:
    """A backlog that was told where topics end, one reader, and the clock."""

    def __init__(self, standings, spans) -> None:
        self.standings, self.now = standings, T0
        self.backlog = Backlog(KafkaConnection("127.0.0.1:1"), [self.reader], lambda: self.now, 0.01)
        self.ask(spans)

    def reader(self):
        return self.standings

    def ask(self, spans) -> None:
        self.backlog._spans = spans
        self.backlog._note_level()

    def lags(self):
        return self.backlog.lags(self.reader)


class TestLag:
    def test_it_is_over_all_partitions_of_a_topic(self):
        behind = Behind({A0: Standing(3, T0), A1: Standing(10, T0)}, {A0: Span(0, 5), A1: Span(0, 14)})
        assert behind.lags()["a"].events == 6

    def test_what_is_deleted_is_not_left_to_be_read(self):
        assert Behind({A0: Standing(0, T0)}, {A0: Span(5, 5)}).lags()["a"] == Lag(0, 0.0)

    def test_a_reader_that_was_level_is_behind_only_since_then(self):
        behind = Behind({A0: Standing(5, T0)}, {A0: Span(0, 5)})
        behind.now += timedelta(hours=1)
        behind.ask({A0: Span(0, 5)})
        behind.now += timedelta(seconds=3)
        behind.ask({A0: Span(0, 6)})
        assert behind.lags()["a"] == Lag(1, 3.0)

    def test_a_busy_reader_is_behind_since_its_last_record(self):
        behind = Behind({A0: Standing(4, T0 + timedelta(seconds=8))}, {A0: Span(0, 5)})
        behind.now += timedelta(seconds=10)
        assert behind.lags()["a"] == Lag(1, 2.0)

    def test_one_that_never_began_is_behind_since_it_was_given_the_partition(self):
        behind = Behind({A0: Standing(None, T0), A1: Standing(None, T0)}, {A0: Span(0, 5), A1: Span(7, 7)})
        behind.now += timedelta(seconds=60)
        assert behind.lags()["a"] == Lag(0, 60.0)

    def test_a_topic_whose_end_nobody_knows_is_left_out(self):
        assert Behind({A0: Standing(1, T0)}, {}).lags() == {}


@contextlib.asynccontextmanager
async def asking(backlog):
    running = asyncio.create_task(backlog.run())
    try:
        yield
    finally:
        assert not running.done(), running
        running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running


async def test_on_a_real_broker_ends_and_letters_are_followed(connection):
    await ensure_topics(connection, read_topics(Path("topics.yaml"), "backlog"))
    place = TopicPartition("anomaly-events", 0)
    backlog = Backlog(connection, [lambda: {place: Standing(1, T0)}], lambda: datetime.now(UTC), 0.05)
    async with AIOKafkaProducer(bootstrap_servers=connection.bootstrap_servers) as producer, asking(backlog):
        for number in range(3):
            await producer.send_and_wait("anomaly-events", b"{}", partition=0)
            await producer.send_and_wait(DEAD_LETTERS, str(number).encode())

        async def waiting(count):
            return backlog.waiting_letters() == count

        await until(lambda: waiting(3))
        assert backlog.warnings()[0].startswith("3 records were put on dead-letters within the last hour")
        assert backlog.lags(lambda: {place: Standing(1, T0)})["anomaly-events"].events == 2
        for number in range(3):
            await producer.send_and_wait(DEAD_LETTERS, b"", headers=note_headers(number, "ann", "x/0/0"))
        await until(lambda: waiting(0))
        assert backlog.warnings() == []


async def test_without_a_broker_nothing_is_known_and_it_keeps_asking(caplog):
    async def asked_twice():
        return len([entry for entry in caplog.records if entry.getMessage() == "backlog_unknown"]) > 1

    backlog = Backlog(KafkaConnection("127.0.0.1:1"), [lambda: {A0: Standing(0, T0)}], lambda: T0, 0.01)
    async with asking(backlog):
        await until(asked_twice)
    assert (backlog.waiting_letters(), backlog.warnings()) == (None, [])
