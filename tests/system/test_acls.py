"""The ACLs of docs/security.md on a real broker that enforces them: enough for who needs them, and nothing else."""

import asyncio
import contextlib
import re
from pathlib import Path

import aiohttp
import pytest
import yaml
from aiokafka import AIOKafkaProducer
from aiokafka.errors import TopicAuthorizationFailedError
from aiokafka.structs import TopicPartition
from guarded_kafka import GuardedKafka, create_acls
from processes import Api
from pydantic import SecretStr
from sshd import inventory
from waiting import until

from app import operating
from app.clients.kafka import Consumer
from app.main import Worker
from app.settings import KafkaSettings, SshSettings, WorkerSettings
from app.step_worker import StepWorker
from app.streams.dead_letters import DeadLetters
from app.streams.topics import ensure_topics, read_topics

PAGE = Path("docs/security.md").read_text()
COMMANDS = [line.strip() for line in PAGE.splitlines() if line.startswith("    kafka-acls ")]
TOPICS = list(yaml.safe_load(Path("topics.yaml").read_text())["topics"])
USERS = ("publisher", "measurer", "worker", "shell-worker", "operator")


def documented() -> dict[str, tuple[set[str], set[str]]]:
    """By topic who may write and who may read it, as the table says."""
    section = PAGE.partition("## Who may write which topic")[2].partition("\n## ")[0]
    rows = [line.split("|")[1:4] for line in section.splitlines() if line.startswith("| `")]
    found = {}
    for topics, writers, readers in rows:
        for topic in re.findall("`(.+?)`", topics):
            found[topic] = (set(re.findall("`(.+?)`", writers)), set(re.findall("`(.+?)`", readers)))
    return found


@pytest.fixture
async def guarded(tmp_path):
    async with GuardedKafka(users=USERS, data_dir=tmp_path / "guarded") as broker:
        await create_acls(broker.bootstrap_servers, COMMANDS)
        yield broker


@pytest.fixture
def settings_of(guarded, settings, sshd, tmp_path):
    """The settings of a worker that connects as a user; hosts are on the local sshd."""

    def make(user: str, **worker):
        path = inventory(tmp_path, h=sshd.entry())
        kafka = KafkaSettings(
            bootstrap_servers=guarded.connection(user).bootstrap_servers,
            security_protocol="SASL_PLAINTEXT",
            sasl_username=user,
            sasl_password=SecretStr(user),
        )
        changes = {"kafka": kafka, "ssh": SshSettings(inventory=path), "worker": WorkerSettings(**worker)}
        return settings.model_copy(update=changes | {"data_dir": tmp_path / user})

    return make


async def seen(client) -> set[str]:
    """The topics that the broker tells a client of; others it can neither read nor write."""
    return set((await client.fetch_all_metadata()).topics())


async def may_write(producer: AIOKafkaProducer, topic: str) -> bool:
    try:
        await producer.send_and_wait(topic, b"x", key=b"k")
    except TopicAuthorizationFailedError:
        return False
    return True


async def may_read(consumer: Consumer, topic: str) -> bool:
    """Whether it gets the record that is there."""
    place = TopicPartition(topic, 0)
    consumer.assign([place])
    consumer.seek(place, 0)
    try:
        await consumer.getone(place)
    except TopicAuthorizationFailedError:
        return False
    return True


async def test_workers_have_the_rights_they_need_and_operators_theirs(settings_of, guarded):
    command = {"type": "shell", "host": "h", "command": "echo done"}
    async with contextlib.AsyncExitStack() as stack:
        whole = await stack.enter_async_context(Worker(settings_of("worker", elsewhere=["shell"])).running())
        near = await stack.enter_async_context(StepWorker(settings_of("shell-worker", actions=["shell"])).running())
        api = Api(f"http://127.0.0.1:{whole.port}", await stack.enter_async_context(aiohttp.ClientSession()))

        async def ready():
            return not whole.readiness() and not near.readiness()

        await until(ready, 60)
        await api.put_runbook({"name": "one", "trigger": {"service_id": "s"}, "steps": [command]})
        publisher = guarded.connection("publisher")
        await operating.publish_anomalies(publisher, '{"service_id": "s", "metric_name": "m"}')
        await operating.publish_anomalies(publisher, '{"service_id": 1}')
        (item,) = await api.ended(1)
        assert (item["status"], item["steps"][0]["output"]["stdout"]) == ("succeeded", "done\n")
        operator = settings_of("operator").kafka

        async def letters():
            async with DeadLetters.opened(guarded.connection("operator")) as letters:
                return await letters.newest(10)

        (letter,) = await until(letters)
        await operating.requeue(operator, letter.offset)
        await operating.pause_everybody(guarded.connection("operator"), "p", "why", {})

        async def paused():
            return (await api.get("/api/v1/pauses"))["items"]

        await until(paused)


async def test_a_worker_that_may_read_the_definitions_no_more_ends(settings_of, guarded):
    """It would hear of no pause."""
    async with Worker(settings_of("worker")).running() as running:
        denied = "kafka-acls --add --deny-principal User:worker --operation Read --topic runbook-definitions"
        await create_acls(guarded.bootstrap_servers, [denied])
        async with asyncio.timeout(60):
            error = await running.failure
        assert isinstance(error, TopicAuthorizationFailedError)
        assert any("an agent failed: TopicAuthorizationFailedError" in reason for reason in running.readiness())


async def test_each_may_write_and_read_what_the_table_says_and_nothing_else(guarded):
    specs = read_topics(Path("topics.yaml"), "infrasage-runbooks")
    await ensure_topics(guarded.connection("worker"), specs)
    async with AIOKafkaProducer(bootstrap_servers=guarded.bootstrap_servers) as producer:
        for topic in TOPICS:
            await producer.send_and_wait(topic, b"x", partition=0)
    expected = documented()
    assert expected.keys() == set(TOPICS)
    found = {topic: (set[str](), set[str]()) for topic in TOPICS}
    for user in USERS:
        arguments = guarded.connection(user).client_arguments()
        async with AIOKafkaProducer(**arguments) as producer, Consumer(**arguments) as consumer:
            for topic in sorted(await seen(producer.client) & found.keys()):
                writers, readers = found[topic]
                writers |= {user} if await may_write(producer, topic) else set()
                readers |= {user} if await may_read(consumer, topic) else set()
    assert found == expected
