"""The projector on a real Kafka: restarts, rebalances, a database that goes away."""

import asyncio
import contextlib
import uuid

import pytest
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from prometheus_client import CollectorRegistry
from waiting import until

from app.core.execution import Execution
from app.history.database import open_database
from app.history.news import News
from app.history.projection import Projection
from app.history.projector import FEW, NOT_OWNED, Projector
from app.history.store import Store

PARTITIONS = 4


class Topic:
    """A topic of its own, and the log of each of its partitions."""

    def __init__(self, servers, new_log) -> None:
        self.name = f"execution-events-{uuid.uuid4().hex[:8]}"
        self.group = f"{self.name}-history"
        self.logs = [new_log() for _ in range(PARTITIONS)]
        self._servers = servers
        self._sent = [0] * PARTITIONS
        self._numbers = iter(range(10_000))

    def live(self, executions=10) -> None:
        """Some more happens on every partition; every third execution stays unfinished."""
        for _ in range(executions):
            for number, log in enumerate(self.logs):
                name = f"p{number}-{next(self._numbers):05}"
                log.request(name, tenant=f"t{number}")
                log.start(name)
                if len(log.runs) % 3:
                    log.finish(name)

    async def send(self) -> None:
        """Send what is not on the broker yet."""
        async with AIOKafkaProducer(bootstrap_servers=self._servers) as producer:
            for number, log in enumerate(self.logs):
                for value in log.values[self._sent[number] :]:
                    await producer.send(self.name, value, key=b"tenant", partition=number)
                self._sent[number] = len(log.values)
            await producer.flush()

    def projector(self, engine, registry=None, tell=None, awaited=None) -> Projector:
        arguments = {"bootstrap_servers": self._servers, "session_timeout_ms": 6000, "heartbeat_interval_ms": 500}
        store = Store(engine, self.name)
        projection = Projection(store, registry or CollectorRegistry(), tell)
        return Projector(projection, self.name, arguments, self.group, awaited)

    async def projected(self, engine) -> None:
        """Wait until all that was sent is in the database."""
        store = Store(engine, self.name)
        for number, sent in enumerate(self._sent):
            await reached(store, number, sent)

    @property
    def runs(self):
        return {key: state for log in self.logs for key, state in log.runs.items()}

    @property
    def ends(self):
        return [(self.name, number, len(log.values)) for number, log in enumerate(self.logs)]


async def reached(store, partition, end):
    """Wait until the database stands at an offset."""

    async def there():
        return await store.next_offset(partition) >= end

    await until(there, 40)


@contextlib.asynccontextmanager
async def running(projector):
    """The projector at work; it must not have ended by itself."""
    projecting = asyncio.create_task(projector.run())
    try:
        yield projector
    finally:
        assert not projecting.done(), projecting
        projecting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await projecting


@pytest.fixture
async def topic(kafka, new_log):
    topic = Topic(kafka, new_log)
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()
    await admin.create_topics([NewTopic(topic.name, PARTITIONS, 1)])
    yield topic
    await admin.delete_topics([topic.name])
    await admin.close()


def states(rows):
    return {(row["execution_id"], row["run"]): Execution.model_validate_json(row["state"]) for row in rows}


async def assert_is_the_fold(read_rows, engine, topic):
    rows, offsets = await read_rows(engine)
    assert states(rows) == topic.runs
    assert offsets == topic.ends


async def test_a_database_that_was_deleted_is_rebuilt_the_same(topic, tmp_path, read_rows):
    topic.live()
    await topic.send()
    found = []
    for name in ("first.db", "second.db"):  # one group: what Kafka has committed for it must not matter
        engine = await open_database(f"sqlite:///{tmp_path / name}")
        async with running(topic.projector(engine)):
            await topic.projected(engine)
        await assert_is_the_fold(read_rows, engine, topic)
        rows, offsets = await read_rows(engine)
        found.append((sorted(map(repr, rows)), offsets))
        await engine.dispose()
    assert found[0] == found[1]


async def test_kafka_is_told_how_far_it_is_when_nothing_more_comes(topic, kafka, sqlite_engine):
    admin = AIOKafkaAdminClient(bootstrap_servers=kafka)
    await admin.start()

    async def told():
        committed = await admin.list_consumer_group_offsets(topic.group)
        return sorted((at.topic, at.partition, found.offset) for at, found in committed.items()) == topic.ends

    async with running(topic.projector(sqlite_engine)):
        for _ in range(3):  # each within a second of the one before
            topic.live(2)
            await topic.send()
            await topic.projected(sqlite_engine)
        await until(told, 20)
    await admin.close()


async def test_it_goes_on_where_it_was_stopped(topic, engine, read_rows):
    for _ in range(3):
        topic.live()
        await topic.send()
        registry = CollectorRegistry()
        before = sum(place[2] for place in (await read_rows(engine))[1])
        async with running(topic.projector(engine, registry)):
            await topic.projected(engine)
        await assert_is_the_fold(read_rows, engine, topic)
        new = sum(end for _, _, end in topic.ends) - before
        assert registry.get_sample_value("runbooks_projected_events_total") == new


async def test_stopped_at_any_moment_it_neither_repeats_nor_leaves_out(topic, sqlite_engine, read_rows):
    topic.live(200)
    await topic.send()
    for share in (0.2, 0.5, 0.8):
        wanted = int(len(topic.logs[0].values) * share)
        async with running(topic.projector(sqlite_engine)):
            await reached(Store(sqlite_engine, topic.name), 0, wanted + 1)
    async with running(topic.projector(sqlite_engine)):
        await topic.projected(sqlite_engine)
    await assert_is_the_fold(read_rows, sqlite_engine, topic)


async def test_two_projectors_share_the_partitions_and_take_over(topic, engine, read_rows):
    def owned(*projectors):
        return [sum(one.position(number) != NOT_OWNED for number in range(PARTITIONS)) for one in projectors]

    async def sharing():
        return owned(one, other) == [2, 2]

    async def alone():
        return owned(other) == [PARTITIONS]

    one, other = topic.projector(engine), topic.projector(engine)
    async with running(other):
        async with running(one):
            topic.live()
            await topic.send()
            await until(sharing)
            topic.live()
            await topic.send()
            await topic.projected(engine)
        assert owned(one) == [0]
        await until(alone)
        topic.live()
        await topic.send()
        await topic.projected(engine)
    await assert_is_the_fold(read_rows, engine, topic)


async def test_a_rival_outside_the_group_does_no_harm(topic, engine, read_rows):
    one, rival = topic.projector(engine), topic.projector(engine)
    rival._group_id = f"{topic.group}-rival"
    async with running(one), running(rival):
        for _ in range(10):
            topic.live(2)
            await topic.send()
            await topic.projected(engine)
    await assert_is_the_fold(read_rows, engine, topic)


async def test_an_unreadable_record_stops_nothing(topic, sqlite_engine, read_rows):
    topic.live(2)
    for log in topic.logs:
        log.junk(b"not an event")
        log.junk(None)
    topic.live(2)
    await topic.send()
    registry = CollectorRegistry()
    async with running(topic.projector(sqlite_engine, registry)):
        await topic.projected(sqlite_engine)
    await assert_is_the_fold(read_rows, sqlite_engine, topic)
    assert registry.get_sample_value("runbooks_projector_unreadable_total") == 2 * PARTITIONS


async def test_who_waits_in_the_process_is_told_of_what_is_written(topic, sqlite_engine):
    news = News(Store(sqlite_engine, topic.name))
    projector = topic.projector(sqlite_engine, tell=news.told)
    assert projector.position(0) == NOT_OWNED
    async with running(projector):
        waiting = asyncio.create_task(news.projected(0, 0, timeout_s=40))
        topic.live(1)
        await topic.send()
        assert await waiting
        assert await news.projected(0, len(topic.logs[0].values) - 1, timeout_s=40)
        assert projector.position(0) == len(topic.logs[0].values)
    assert projector.position(0) == NOT_OWNED


async def test_few_records_wait_for_more_until_somebody_waits_for_them(topic, sqlite_engine, monkeypatch):
    monkeypatch.setattr("app.history.projector.GATHER_S", 120)
    news = News(Store(sqlite_engine, topic.name))
    async with running(topic.projector(sqlite_engine, tell=news.told, awaited=news.awaited)):
        for _ in range(2):
            topic.live(1)
            await topic.send()
            assert await news.projected(0, len(topic.logs[0].values) - 1, timeout_s=40)


@pytest.mark.parametrize("batch_records", [20, 2000])
async def test_a_log_that_is_caught_up_with_is_not_held_up(topic, sqlite_engine, monkeypatch, batch_records):
    monkeypatch.setattr("app.history.projector.GATHER_S", 120)
    monkeypatch.setattr(Projection, "batch_records", batch_records)
    topic.live(FEW)
    await topic.send()
    async with running(topic.projector(sqlite_engine)):
        await reached(Store(sqlite_engine, topic.name), 0, 1)


async def test_a_database_that_goes_away_is_waited_for(topic, postgresql_of_its_own, read_rows, caplog):
    def told():
        return [entry for entry in caplog.records if entry.getMessage() == "history_unreachable"]

    async def noticed():
        return told()

    engine = await open_database(await postgresql_of_its_own.new_database())
    async with running(topic.projector(engine)) as projector:
        topic.live()
        await topic.send()
        await topic.projected(engine)
        await asyncio.to_thread(postgresql_of_its_own.stop)
        before = [standing.next_offset for _, standing in sorted(projector.standings().items())]
        assert before == [len(log.values) for log in topic.logs]
        topic.live()
        await topic.send()
        await until(noticed)
        assert [standing.next_offset for _, standing in sorted(projector.standings().items())] == before
        await asyncio.to_thread(postgresql_of_its_own.start)
        await topic.projected(engine)
    assert projector.standings() == {}
    await assert_is_the_fold(read_rows, engine, topic)
    await engine.dispose()


async def test_without_a_database_the_partitions_wait_for_it(topic, postgresql_of_its_own, read_rows, caplog):
    async def noticed():
        return [entry for entry in caplog.records if entry.getMessage() == "history_unreachable"]

    topic.live()
    await topic.send()
    engine = await open_database(await postgresql_of_its_own.new_database())
    await asyncio.to_thread(postgresql_of_its_own.stop)
    async with running(topic.projector(engine)):
        await until(noticed)
        await asyncio.to_thread(postgresql_of_its_own.start)
        await topic.projected(engine)
    await assert_is_the_fold(read_rows, engine, topic)
    await engine.dispose()


async def test_without_a_broker_it_keeps_trying(sqlite_engine, caplog):
    async def tried_twice():
        return len([entry for entry in caplog.records if entry.getMessage() == "log_unreachable"]) > 1

    arguments = {"bootstrap_servers": "127.0.0.1:1"}
    projector = Projector(Projection(Store(sqlite_engine, "t"), CollectorRegistry()), "t", arguments, "g")
    async with running(projector):
        await until(tried_twice)
