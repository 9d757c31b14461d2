"""The newest samples, kept in bounds, and read from the real topic."""

import asyncio
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from aiokafka import AIOKafkaProducer
from building import T0
from prometheus_client import CollectorRegistry
from waiting import until

from app.core.commands import MetricCommand
from app.core.metric_sample import MetricSample
from app.core.runbook import MetricCheck
from app.streams.connection import KafkaConnection
from app.streams.figures import Figures
from app.streams.metric_samples import Newest, SampleReader, Samples
from app.streams.topics import METRIC_SAMPLES, ensure_topics, read_topics

PARTITIONS = 8
MINUTE = timedelta(minutes=1)


def sample(service="s", metric="m", value=1.0, at=T0, tenant="default"):
    return MetricSample(tenant_id=tenant, service_id=service, metric_name=metric, value=value, timestamp=at)


class TestSamples:
    def test_the_newest_by_its_own_time_is_kept_apart_for_tenant_service_and_metric(self):
        kept = Samples(MINUTE)
        assert kept.add(sample(value=1), T0)
        assert kept.add(sample(value=2, at=T0 + MINUTE / 2), T0)
        assert not kept.add(sample(value=3, at=T0), T0)
        kept.add(sample(value=4, tenant="acme"), T0)
        kept.add(sample(value=5, metric="other"), T0)
        assert kept.find("default", "s", "m") == Newest(2, T0 + MINUTE / 2)
        assert kept.find("acme", "s", "m").value == 4
        assert kept.find("default", "s", "other").value == 5
        assert kept.find("default", "m", "s") is None
        assert kept.find("nobody", "s", "m") is None
        assert len(kept) == 3

    def test_of_the_same_time_the_later_one_counts(self):
        kept = Samples(MINUTE)
        kept.add(sample(value=1), T0)
        kept.add(sample(value=2), T0)
        assert kept.find("default", "s", "m").value == 2

    def test_what_is_too_old_is_not_kept(self):
        kept = Samples(MINUTE)
        assert not kept.add(sample(at=T0 - MINUTE * 1.01), T0)
        kept.add(sample("old"), T0)
        kept.add(sample("new", at=T0 + MINUTE * 2), T0 + MINUTE * 2)
        assert (len(kept), kept.find("default", "old", "m")) == (1, None)

    def test_one_tenant_with_too_many_loses_its_own(self):
        kept = Samples(MINUTE, kept_of_tenant=2)
        kept.add(sample(tenant="quiet"), T0)
        for service in ("a", "b", "a", "c"):
            kept.add(sample(service), T0)
        assert len(kept) == 3
        assert kept.find("default", "b", "m") is None
        assert kept.find("default", "a", "m") is not None
        assert kept.find("quiet", "s", "m") is not None

    def test_too_many_of_all_are_taken_from_who_has_the_most(self):
        kept = Samples(MINUTE, kept=3)
        kept.add(sample(tenant="quiet"), T0)
        for service in "abcdef":
            kept.add(sample(service), T0)
        kept.add(sample(tenant="another"), T0)
        assert len(kept) == 3
        assert kept.find("quiet", "s", "m") is not None
        assert kept.find("another", "s", "m") is not None
        assert kept.find("default", "f", "m") is not None


def command(service="s", not_before=None, tenant="default"):
    return MetricCommand(
        command_id="e/1/1/metric/1",
        tenant=tenant,
        execution_id="e",
        run=1,
        attempt=1,
        check=MetricCheck(metric_name="m", check_after_minutes=1, rollback_if_value_exceeds=90),
        service_id=service,
        not_before=not_before,
    )


def now():
    return datetime.now(UTC)


@pytest.fixture
async def topic(connection, tmp_path):
    """The topic, and how to publish to it."""
    await ensure_topics(connection, read_topics(Path("topics.yaml"), "any"))
    producer = AIOKafkaProducer(bootstrap_servers=connection.bootstrap_servers, acks="all")
    await producer.start()

    async def publish(*values, **record):
        for value in values:
            raw = value if isinstance(value, bytes) else json.dumps({"metric_name": "m", **value}).encode()
            key = None if isinstance(value, bytes) else value["service_id"].encode()
            await producer.send_and_wait(METRIC_SAMPLES, raw, key=key, **record)

    yield publish
    await producer.stop()


@pytest.fixture
async def start(connection):
    """Start readers; all are closed at the end."""
    started = []

    async def run(at=connection, **fields):
        figures = Figures(CollectorRegistry())
        reader = SampleReader(at, PARTITIONS, **{"max_age_s": 60, "clock": now, "figures": figures, **fields})
        started.append(reader)
        await reader.start(pytest.fail)
        return reader

    yield run
    for reader in started:
        await reader.close()


async def test_every_worker_answers_for_every_service_before_and_after_its_start(topic, start):
    services = [f"s{number}" for number in range(20)]  # on all partitions
    await topic(*({"service_id": name, "value": number} for number, name in enumerate(services)))
    readers = [await start(), await start()]
    for reader in readers:
        for number, name in enumerate(services):
            assert await reader.read(command(name), now()) == (number, "", "value")
    await topic({"service_id": "s3", "value": 99.5})
    for reader in readers:

        async def is_new(reader=reader):
            return (await reader.read(command("s3"), now())).value == 99.5

        await until(is_new)
    assert await readers[0].read(command("s3", tenant="acme"), now()) == (None, "nothing was measured", "no_data")


async def test_what_was_measured_before_the_last_step_is_no_data(topic, start):
    ended = now() - timedelta(seconds=1)  # the broker keeps milliseconds only
    await topic({"service_id": "t", "value": 2}, {"service_id": "u", "value": 3, "timestamp": ended.timestamp() - 1})
    reader = await start()
    answers = [await reader.read(command(name, ended), now()) for name in ("t", "u")]
    assert [(one.value, one.result) for one in answers] == [(2, "value"), (None, "stale")]


async def test_only_the_recent_end_of_the_topic_is_read(topic, start):
    old = int((now().timestamp() - 600) * 1000)
    await topic(*[{"service_id": "s", "value": 1}] * 3, timestamp_ms=old)
    await topic({"service_id": "t", "value": 2})
    figures = Figures(CollectorRegistry())
    reader = await start(figures=figures)
    assert (await reader.read(command("s"), now())).result == "no_data"
    assert (await reader.read(command("t"), now())).value == 2
    assert sum(figures.metric_samples.labels(name)._value.get() for name in ("kept", "old", "refused")) == 1


async def test_bad_records_stop_nothing(topic, start):
    figures = Figures(CollectorRegistry())
    reader = await start(figures=figures)
    await topic(b"{", {"service_id": "s", "value": "many"}, {"service_id": "s", "value": 4})

    async def there():
        return (await reader.read(command(), now())).value == 4

    await until(there)
    assert figures.metric_samples.labels("refused")._value.get() == 2


async def test_a_record_whose_time_is_no_moment_is_no_sample_and_stops_nothing(topic, start):
    figures = Figures(CollectorRegistry())
    reader = await start(figures=figures)
    assert (await reader.read(command(), now())).result == "no_data"  # it has caught up: from here on all is read
    await topic({"service_id": "s", "value": 1}, timestamp_ms=-(10**15))
    await topic({"service_id": "s", "value": 2, "timestamp": now().timestamp()}, timestamp_ms=-(10**15))
    await topic({"service_id": "s", "value": 4})

    async def there():
        return (await reader.read(command(), now())).value == 4

    await until(there)
    assert figures.metric_samples.labels("refused")._value.get() == 2


async def test_a_broker_that_is_away_is_no_data_and_asked_again(start, caplog):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        reader = await start(KafkaConnection(f"127.0.0.1:{nobody.getsockname()[1]}"), catch_up_s=0.1, again_s=0.01)

        async def asked_again():
            return sum("metric_samples_unreadable" in record.message for record in caplog.records) > 1

        await until(asked_again)
        answer = await reader.read(command(), now())
    assert (answer.value, answer.result) == (None, "error")
    assert "the topic metric-samples cannot be read: KafkaConnectionError" in answer.detail


async def test_before_it_has_caught_up_there_is_no_answer():
    nowhere = KafkaConnection("127.0.0.1:1")
    reader = SampleReader(nowhere, PARTITIONS, 60, now, Figures(CollectorRegistry()), catch_up_s=0.01)
    answer = await reader.read(command(), now())
    assert "its samples are still being read" in answer.detail
    async with asyncio.timeout(1):
        await reader.close()
