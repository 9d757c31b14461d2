"""A burst of matching anomalies of one tenant, next to a quiet tenant: how long, how fair, how much memory, none lost.

Prints the steady drain rate (a window of executions kept in flight), then the burst's drain rate and the time to its
first end, the quiet tenant's anomaly -> first step_started before and during it, the worker's CPU and peak memory, and
where every anomaly ended. Run: .venv/bin/python benchmarks/storm.py [ANOMALIES] [SLOTS]
"""

import asyncio
import contextlib
import itertools
import sqlite3
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.partitioner import murmur2
from bench import put_runbook, shown, target, worker

from app.broker.kafka import EmbeddedKafka

STEPS = 3
STEADY = 1000
QUIET_PER_S = 2.0
BEFORE_S = 20.0
PARTITIONS = 8


@dataclass
class Seen:
    """What the log has said of one tenant, by execution and by anomaly; times are the records' own."""

    requested: dict[str, str] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    twice: int = 0

    def take(self, event: dict, at: float) -> None:
        execution_id = event["execution_id"]
        match event["type"]:
            case "execution_requested":
                self.requested.setdefault(execution_id, event["anomaly"]["anomaly_id"])
            case "step_started" if event["step"] == 0:
                self.twice += execution_id in self.started
                self.started.setdefault(execution_id, at)
            case "step_finished" if event["step"] == STEPS - 1:
                self.ended[execution_id] = at

    def latencies(self, published: dict[str, float]) -> list[float]:
        """From publishing an anomaly to its first step."""
        begun = {self.requested[name]: at for name, at in self.started.items() if name in self.requested}
        return [begun[name] - at for name, at in published.items() if name in begun]


class Watch:
    """Follows the log."""

    def __init__(self, servers: str) -> None:
        self.tenants: dict[str, Seen] = {}
        self.changed = asyncio.Condition()
        self._servers = servers

    def of(self, tenant: str) -> Seen:
        return self.tenants.setdefault(tenant, Seen())

    async def until(self, tenant: str, ended: int) -> None:
        async with self.changed:
            await self.changed.wait_for(lambda: len(self.of(tenant).ended) >= ended)

    async def run(self) -> None:
        consumer = AIOKafkaConsumer(
            "execution-events", bootstrap_servers=self._servers, auto_offset_reset="earliest", fetch_max_wait_ms=20
        )
        await consumer.start()
        try:
            while True:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    for record in records:
                        self.of(record.key.decode()).take(orjson.loads(record.value), record.timestamp / 1000)
                async with self.changed:
                    self.changed.notify_all()
        finally:
            await consumer.stop()


class Publisher:
    """Publishes anomalies with no key, as a metrics pipeline would."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self.published: dict[str, float] = {}

    async def publish(self, tenant: str, name: str) -> None:
        event = {"anomaly_id": name, "tenant_id": tenant, "service_id": "s", "metric_name": "m", "anomaly_score": 0.9}
        self.published[name] = time.time()
        await self._producer.send("anomaly-events", orjson.dumps(event))


def same_partition(tenant: str) -> str:
    """Another tenant whose log is the same partition."""
    place = (murmur2(tenant.encode()) & 0x7FFFFFFF) % PARTITIONS
    names = (f"quiet-{number}" for number in itertools.count())
    return next(name for name in names if (murmur2(name.encode()) & 0x7FFFFFFF) % PARTITIONS == place)


async def trickle(publisher: Publisher, tenant: str, prefix: str) -> None:
    for number in itertools.count():
        await publisher.publish(tenant, f"{prefix}-{number}")
        await asyncio.sleep(1 / QUIET_PER_S)


@contextlib.asynccontextmanager
async def background(work) -> AsyncIterator[None]:
    running = asyncio.create_task(work)
    yield
    running.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await running


async def steady(publisher: Publisher, watch: Watch, count: int, window: int) -> float:
    """Executions a second with a window of them in flight: the worker is never idle and nothing piles up."""
    for number in range(count + window):
        await watch.until("steady", number - window + 1)
        await publisher.publish("steady", f"steady-{number}")
    await watch.until("steady", count + window)
    ends = sorted(watch.of("steady").ended.values())
    return (count - 1) / (ends[window + count - 1] - ends[window])


async def peak(process: psutil.Process, found: list[float]) -> None:
    while True:
        found.append(process.memory_info().rss / 1e6)
        await asyncio.sleep(0.1)


def say(name: str, value: str) -> None:
    print(f"{name:48} {value}", flush=True)


async def storm(publisher: Publisher, watch: Watch, count: int, rate: float) -> None:
    """The burst itself."""
    process = next(child for child in psutil.Process().children() if "app.cli" in " ".join(child.cmdline()))
    quiet = same_partition("storm")
    async with background(trickle(publisher, quiet, "before")):
        await asyncio.sleep(BEFORE_S)
    memory: list[float] = []
    cpu = process.cpu_times()
    begun = time.time()
    async with background(trickle(publisher, quiet, "during")), background(peak(process, memory)):
        for number in range(count):
            await publisher.publish("storm", f"storm-{number}")
        say("burst published in", f"{time.time() - begun:.2f} s")
        await watch.until("storm", count)
    used = process.cpu_times()
    seen = watch.of("storm")
    ends = sorted(at - begun for at in seen.ended.values())
    total = ends[-1]
    say("first end after", f"{ends[0]:.2f} s")
    say("ends by tenths of the time", str([sum(at <= total * n / 10 for at in ends) for n in range(1, 11)]))
    say("all ended after", f"{total:.2f} s = {count / total:.0f}/s; x{total / (count / rate):.2f} of the steady drain")
    say("CPU of the worker per execution", f"{(used.user + used.system - cpu.user - cpu.system) / count * 1e3:.2f} ms")
    say("memory", f"{memory[0]:.0f} MB before, {max(memory):.0f} MB at its peak")
    for when in ("before", "during"):
        mine = {name: at for name, at in publisher.published.items() if name.startswith(when)}
        shown(f"quiet tenant, {when} the storm", watch.of(quiet).latencies(mine))
    say("anomalies -> requested, begun, ended", f"{count} -> {len(seen.requested)}, {len(seen.started)}, {len(ends)}")
    say("first steps started twice", str(seen.twice))


async def accounted(folder: Path, count: int) -> None:
    """What the history says of the storm, once the projector has it all."""
    url = f"file:{folder / 'worker' / 'history.db'}?mode=ro"
    with contextlib.closing(sqlite3.connect(url, uri=True)) as database:
        question = "select status, count(*) from executions where tenant = 'storm' group by status"
        while dict(rows := database.execute(question).fetchall()).get("succeeded", 0) < count:
            print(rows)
            await asyncio.sleep(0.5)
    say("history", str(dict(rows)))


async def main(count: int, slots: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            EmbeddedKafka(data_dir=folder / "kafka") as kafka,
            target() as url,
            worker(kafka.bootstrap_servers, folder, RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS=str(slots)) as session,
            AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all") as producer,
        ):
            step = {"type": "http", "method": "POST", "url": url}
            runbook = {
                "name": "bench",
                "trigger": {"service_id": "s", "condition": "anomaly_score > 0.7"},
                "steps": [step] * STEPS,
            }
            for tenant in ("steady", "storm", same_partition("storm")):
                await put_runbook(session, runbook, tenant)
            watch, publisher = Watch(kafka.bootstrap_servers), Publisher(producer)
            async with background(watch.run()):
                rate = await steady(publisher, watch, STEADY, slots)
                say(f"steady drain with {slots} in flight", f"{rate:.0f}/s")
                await storm(publisher, watch, count, rate)
                await accounted(folder, count)


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["5000"])[0]), int((sys.argv[2:] or ["100"])[0])))
