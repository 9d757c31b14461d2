"""Anomalies through a real worker, at full speed, with nothing else at work: for the parts that measure matching.

A worker stands still (SIGSTOP) while its backlog is published and while peers read it, so that neither the publisher
nor an idle worker is measured. What it decided on the last record of every partition tells that it has done them all.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import orjson
import psutil
import yaml
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from bench import worker

TOPIC, DECISIONS, LOG, PARTITIONS = "anomaly-events", "match-decisions", "execution-events", 8
GROUP = "infrasage-runbooks"
METRIC = "cpu_usage"
Ranges = dict[int, tuple[int, int]]
"""By partition, the first offset and the one after the last."""


@dataclass(frozen=True)
class Flow:
    """One side's round: how long it took from its first record to its last, and what it used of the processor."""

    count: int
    seconds: float
    cpu_s: float

    @property
    def per_second(self) -> float:
        return self.count / self.seconds

    @property
    def cpu_us(self) -> float:
        """Processor microseconds a record."""
        return self.cpu_s / self.count * 1e6


def definition(number: int, url: str) -> dict:
    """The shape `svc` of the peers: one service, one metric, a score; hits after the first are in its cooldown."""
    return {
        "name": f"svc-{number}",
        "trigger": {"service_id": f"svc-{number}", "metric_name": METRIC, "condition": "anomaly_score > 0.7"},
        "steps": [{"type": "http", "method": "POST", "url": url}],
        "cooldown_seconds": 3600,
    }


def folder_of(definitions: Iterable[dict], folder: Path) -> Path:
    """The definitions as files that a worker begins with."""
    folder.mkdir(parents=True)
    for one in definitions:
        (folder / f"{one['name']}.yaml").write_text(yaml.safe_dump(one))
    return folder


async def publish(servers: str, count: int, event_of: Callable[[int], dict]) -> Ranges:
    """Publish so many events in equal parts; where they stand."""
    async with AIOKafkaConsumer(bootstrap_servers=servers) as places:
        partitions = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        first = await places.end_offsets(partitions)
        async with AIOKafkaProducer(
            bootstrap_servers=servers, acks="all", linger_ms=20, max_batch_size=256 * 1024
        ) as producer:
            for number in range(count):
                await producer.send(TOPIC, orjson.dumps(event_of(number)), partition=number % PARTITIONS)
        last = await places.end_offsets(partitions)
    return {one.partition: (first[one], last[one]) for one in partitions}


async def begin_at(servers: str, group: str, offsets: dict[int, int]) -> None:
    """Have a group that is not running begin there."""
    async with AIOKafkaConsumer(bootstrap_servers=servers, group_id=group, enable_auto_commit=False) as consumer:
        places = {TopicPartition(TOPIC, partition): OffsetAndMetadata(at, "") for partition, at in offsets.items()}
        consumer.assign(list(places))
        await consumer.commit(places)


class StillWorker:
    """A worker that stands still but for its turns."""

    def __init__(self, servers: str, process: psutil.Process) -> None:
        self._servers = servers
        self._process = process

    async def handles(self, count: int, event_of: Callable[[int], dict], decided: int) -> tuple[Flow, Ranges]:
        """Publish, let it go, and wait until it has told `decided` decisions and committed everything.

        The first and the last event of every partition must be among those that are decided.
        """
        async with AIOKafkaConsumer(bootstrap_servers=self._servers) as watcher:
            watcher.assign([TopicPartition(DECISIONS, number) for number in range(PARTITIONS)])
            await watcher.seek_to_end()
            ranges = await publish(self._servers, count, event_of)
            times: list[int] = []
            before = self._process.cpu_times()
            with self.moving():
                while len(times) < decided:
                    for records in (await watcher.getmany(timeout_ms=200)).values():
                        times += [at for one in records for at in [one.timestamp] * answered_in(one.value)]
                after = self._process.cpu_times()
                await committed(self._servers, {partition: end for partition, (_, end) in ranges.items()})
        used = after.user + after.system - before.user - before.system
        return Flow(count, (max(times) - min(times)) / 1000, used), ranges

    async def carries_out(self, count: int) -> None:
        """Let it go until so many steps have ended: what waits for a slot slows its tenant's requests down."""
        async with AIOKafkaConsumer(bootstrap_servers=self._servers) as watcher:
            watcher.assign([TopicPartition(LOG, number) for number in range(PARTITIONS)])
            await watcher.seek_to_beginning()
            with self.moving():
                while count > 0:
                    record = await watcher.getone()
                    count -= orjson.loads(record.value)["type"] == "step_finished"

    @contextlib.contextmanager
    def moving(self) -> Iterator[None]:
        """Let it go for a while."""
        self._process.resume()
        try:
            yield
        finally:
            self._process.suspend()

    async def breathe(self) -> None:
        """Let it tell the broker that it is still there."""
        with self.moving():
            await asyncio.sleep(0.5)


def answered_in(record: bytes) -> int:
    """How many anomalies a record of the ledger is about; other versions' workers write one record for each."""
    return len(orjson.loads(record).get("anomalies", [None]))


@contextlib.asynccontextmanager
async def still_worker(servers: str, folder: Path, **settings: str) -> AsyncIterator[StillWorker]:
    """A worker that was ready before it stood still, and that the broker waits for."""
    async with worker(servers, folder, RUNBOOKS_WORKER__SESSION_TIMEOUT_S="60", **settings):
        process = next(one for one in psutil.Process().children() if "app.cli" in one.cmdline())
        process.suspend()
        try:
            yield StillWorker(servers, process)
        finally:
            process.resume()


async def committed(servers: str, wanted: dict[int, int]) -> None:
    """Wait until the worker's group has committed these offsets: nothing was left out."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        while True:
            found = await admin.list_consumer_group_offsets(GROUP)
            offsets = {place.partition: one.offset for place, one in found.items() if place.topic == TOPIC}
            if wanted.items() <= offsets.items():
                return
            await asyncio.sleep(0.1)
    finally:
        await admin.close()


async def peer(count: int, *command: str) -> Flow:
    """Run a peer's script, which prints its seconds and processor seconds."""
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    said, _ = await process.communicate()
    assert process.returncode == 0, command
    found = json.loads(said.splitlines()[-1])
    return Flow(count, found["seconds"], found["cpu_s"])
