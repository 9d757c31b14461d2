"""A worker in the test's own process, or as a process of its own, towards the stand-ins."""

import asyncio
import importlib.util
import json
import signal
import sys
from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition
from processes import SECRET, Api, WorkerProcess
from waiting import until


@pytest.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@pytest.fixture
async def stand_ins():
    specification = importlib.util.spec_from_file_location("stand_ins", "examples/demo/stand_ins.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["stand_ins"] = module
    specification.loader.exec_module(module)
    running = await module.start_stand_ins()
    yield running
    await running.stop()


@pytest.fixture
def environment(settings, stand_ins, tmp_path, unused_tcp_port) -> dict[str, str]:
    """The environment of a worker process towards the stand-ins."""
    return {
        "RUNBOOKS_DATA_DIR": str(settings.data_dir),
        "RUNBOOKS_RUNBOOKS_DIR": str(tmp_path / "none"),
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": settings.kafka.bootstrap_servers,
        "RUNBOOKS_KAFKA__GROUP_ID": settings.kafka.group_id,
        "RUNBOOKS_API__PORT": str(unused_tcp_port),
        "RUNBOOKS_API__JWT_SECRET": SECRET,
        "RUNBOOKS_NETWORK__ALLOW_LOOPBACK": "true",
        "RUNBOOKS_SLACK__BOT_TOKEN": "xoxb-stand-in",
        "RUNBOOKS_SLACK__BASE_URL": stand_ins.slack_url,
        "RUNBOOKS_KUBERNETES__KUBECONFIG": str(stand_ins.kubeconfig(tmp_path / "kubeconfig")),
        "RUNBOOKS_SECRETS__FOLDER": str(stand_ins.secrets(tmp_path / "secrets")),
        "RUNBOOKS_WORKER__SESSION_TIMEOUT_S": "6",
    }


@pytest.fixture
def api(environment, session) -> Api:
    return Api(f"http://127.0.0.1:{environment['RUNBOOKS_API__PORT']}", session)


@pytest.fixture
async def worker(environment, api, tmp_path) -> AsyncIterator[WorkerProcess]:
    """A ready worker process."""
    process = WorkerProcess(environment, tmp_path / "worker.log")
    await process.start()
    try:
        await process.ready(api)
        yield process
    finally:
        await process.end(signal.SIGKILL)


@pytest.fixture
async def publish(broker):
    """Publish records to a topic, acknowledged."""
    producer = AIOKafkaProducer(bootstrap_servers=broker, acks="all")
    await producer.start()

    async def send(topic: str, *values: dict | bytes, **record) -> None:
        raw = [value if isinstance(value, bytes) else json.dumps(value).encode() for value in values]
        sent = [await producer.send(topic, value, **record) for value in raw]
        await asyncio.gather(*sent)

    yield send
    await producer.stop()


@pytest.fixture
def read_topic(broker):
    """All records of a topic, in partition order."""

    async def read(topic: str):
        consumer = AIOKafkaConsumer(bootstrap_servers=broker, enable_auto_commit=False)
        await consumer.start()
        try:
            places = [TopicPartition(topic, number) for number in consumer.partitions_for_topic(topic) or ()]
            if not places:
                places = [TopicPartition(topic, number) for number in await _partitions(consumer, topic)]
            consumer.assign(places)
            await consumer.seek_to_beginning(*places)
            ends = await consumer.end_offsets(places)
            found = []
            for place in places:
                while await consumer.position(place) < ends[place]:
                    found.append(await consumer.getone(place))
            return found
        finally:
            await consumer.stop()

    return read


async def _partitions(consumer: AIOKafkaConsumer, topic: str):
    async def known():
        await consumer._client.force_metadata_update()
        consumer._client.add_topic(topic)
        return consumer.partitions_for_topic(topic)

    return await until(known)
