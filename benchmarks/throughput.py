"""Executions a second of one worker, beside a Faust pipeline of as many hops; then of two workers.

Three steps that do nothing in two ways: with a `when` that is false, which is the least that a step can be, and as an
http POST to a server in this process, which is acted on and recorded in full.

Hops, counted where one record must be read before the next is written: anomaly -> request -> (command -> answer) three
times, so eight. Not counted, as nothing waits for them to be read: a step's start, its claim, what the tables, the
ledger and the history keep. The pipeline has none of that, and no logic: eight agents that pass a record on.

A window of executions is in flight, of 16 tenants; the sides take turns on the same broker. Processor time is the
processes' own (user and system); on two cores, with the broker and this process beside them, two workers cannot show
what they can do on the wall clock, so what they would do with a core each is computed from it.
Run: .venv/bin/python benchmarks/throughput.py [--rounds N] [--short]
"""

import asyncio
import contextlib
import shutil
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from bench import cpu_s, put_runbook, run, said, target, worker
from figures import Figure, PartArguments, part_arguments, report
from watching import STEPS, Publisher, Watch, background, drain, runbook_of

from app.broker.kafka import EmbeddedKafka

HOPS = 2 + 2 * STEPS
WINDOW = 256
SLOTS = 100
KINDS = ("idle", "http")
TENANTS = {kind: tuple(f"{kind}-{number}" for number in range(16)) for kind in KINDS}
NAMES = {"idle": "three steps whose `when` is false", "http": "three http steps"}
PIPELINE = "a Faust pipeline of 8 hops"
PEER = Path(__file__).parent / "peers" / "faust_pipeline.py"


@dataclass
class Found:
    """What was measured, by what it is of: a value a round."""

    rates: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    worker_us: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    broker_us: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))


class Pipeline:
    """The peer, its process and our two ends of it."""

    def __init__(self, servers: str, producer: AIOKafkaProducer, process: psutil.Process) -> None:
        self._servers = servers
        self._producer = producer
        self._arrived = 0
        self._more = asyncio.Condition()
        self.process = process

    async def run(self) -> None:
        async with AIOKafkaConsumer(
            f"hop-{HOPS}", bootstrap_servers=self._servers, auto_offset_reset="earliest", fetch_max_wait_ms=20
        ) as consumer:
            while True:
                found = await consumer.getmany(timeout_ms=100)
                async with self._more:
                    self._arrived += sum(map(len, found.values()))
                    self._more.notify_all()

    async def drain(self, count: int, window: int) -> float:
        """Records a second that come through, with a window of them in it."""
        base, times = self._arrived, {}
        for number in range(count + window):
            await self._until(base + number - window + 1)
            times.setdefault(self._arrived - base, time.monotonic())
            await self._producer.send("hop-0", b'{"execution_id":"%032d"}' % number, key=b"%d" % number)
        await self._until(base + count + window)
        begun, at = next((begun, at) for begun, at in times.items() if begun >= window // 2)
        return (count + window - begun) / (time.monotonic() - at)

    async def _until(self, arrived: int) -> None:
        async with self._more:
            await self._more.wait_for(lambda: self._arrived >= arrived)


@contextlib.asynccontextmanager
async def faust_pipeline(servers: str, producer: AIOKafkaProducer, folder: Path) -> AsyncIterator[Pipeline]:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(f"hop-{number}", 8, 1) for number in range(HOPS + 1)])
    await admin.close()
    tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
    process = await asyncio.create_subprocess_exec(
        *tied, sys.executable, str(PEER), servers, str(HOPS), str(folder / "peer"),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert await process.stdout.readline() == b"ready\n"
        pipeline = Pipeline(servers, producer, psutil.Process(process.pid))
        async with background(pipeline.run()):
            yield pipeline
    finally:
        process.kill()
        await process.wait()


class Load:
    """One broker, and what is measured on it."""

    def __init__(self, kafka: EmbeddedKafka, publisher: Publisher, watch: Watch, found: Found) -> None:
        self._broker = psutil.Process(kafka.pid)
        self._publisher = publisher
        self._watch = watch
        self._found = found
        self._turns = 0

    async def executions(self, name: str, kind: str, count: int, *, counted: bool = True) -> None:
        """Drain so many executions; name: what they are kept under."""
        self._turns += 1
        before, broker, all_of_them = cpu_s(), cpu_s(self._broker), count + WINDOW
        rate = await drain(self._publisher, self._watch, TENANTS[kind], f"{name}-{self._turns}", count, WINDOW)
        self._keep(name, rate, cpu_s() - before, cpu_s(self._broker) - broker, all_of_them, counted=counted)

    async def records(self, pipeline: Pipeline, count: int, *, counted: bool = True) -> None:
        before, broker = cpu_s(pipeline.process), cpu_s(self._broker)
        rate = await pipeline.drain(count, WINDOW)
        used = cpu_s(pipeline.process) - before
        self._keep(PIPELINE, rate, used, cpu_s(self._broker) - broker, count + WINDOW, counted=counted)

    async def anomalies(self, session: aiohttp.ClientSession, count: int) -> None:
        """Anomalies that are matched against a definition and do not meet its condition."""
        before, known = cpu_s(), await unmatched(session)
        begun = time.monotonic()
        for number in range(count):
            await self._publisher.publish(TENANTS["idle"][0], f"low-{self._turns}-{number}", 0.1)
        while await unmatched(session) < known + count:
            await asyncio.sleep(0.05)
        self._keep("anomalies", count / (time.monotonic() - begun), cpu_s() - before, 0, count, counted=True)

    def _keep(self, name: str, rate: float, used: float, broker: float, count: int, *, counted: bool) -> None:
        us = 1e6 * used / count, 1e6 * broker / count
        said(name, f"{rate:.0f}/s, {us[0]:.0f} µs of the processor each, the broker {us[1]:.0f} µs")
        if counted:
            self._found.rates[name].append(rate)
            self._found.worker_us[name].append(us[0])
            self._found.broker_us[name].append(us[1])


async def unmatched(session: aiohttp.ClientSession) -> float:
    """How many anomalies the worker has found not to match."""
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    line = next((one for one in lines if one.startswith('runbooks_anomalies_total{result="unmatched"}')), "0")
    return float(line.split()[-1])


async def beside_the_pipeline(load: Load, arguments: PartArguments, pipeline: Pipeline) -> None:
    """One worker and the peer in turn; the first turn warms up the broker and is not counted."""
    counts = {"idle": 200, "http": 100} if arguments.short else {"idle": 2000, "http": 1000}
    for turn in range(-1, arguments.rounds):
        await load.records(pipeline, 500 if arguments.short else 5000, counted=turn >= 0)
        for kind, count in counts.items():
            await load.executions(kind, kind, count, counted=turn >= 0)


async def with_a_second(
    load: Load, rounds: int, session: aiohttp.ClientSession, servers: str, folder: Path, settings: dict[str, str]
) -> None:
    """One worker and two in turn."""
    for _ in range(rounds):
        await load.executions("one worker", "idle", 1500)
        async with worker(servers, folder, **settings):
            await settled(session)
            await load.executions("two workers", "idle", 200, counted=False)  # what was shared out is read back first
            await load.executions("two workers", "idle", 1500)
        await settled(session)


async def settled(session: aiohttp.ClientSession) -> None:
    """Until the first worker is ready again: the partitions were shared out anew."""
    while True:
        async with session.get("/readyz") as answer:
            if answer.status == 200:
                return
        await asyncio.sleep(0.1)


def figures_of(found: Found) -> list[Figure]:
    figures = []
    for kind in KINDS:
        sides = {name: found.rates[name] for name in (kind, PIPELINE)}
        figures.append(
            Figure(
                f"executions of {NAMES[kind]}, one worker", "1/s", {"ours": sides[kind], PIPELINE: sides[PIPELINE]},
                goal="≥ 60 %", at_least=0.6,
                note="the pipeline has our eight hops and neither logic, state, claims nor history",
            )
        )  # fmt: skip
        for side, us in (("worker", found.worker_us), ("broker", found.broker_us)):
            figures.append(
                Figure(
                    f"processor time of the {side} an execution of {NAMES[kind]}", "µs",
                    {"ours": us[kind], PIPELINE: us[PIPELINE]}, note="all cores; a record of the pipeline beside it",
                )
            )  # fmt: skip
    figures.append(
        Figure(
            "processor time of the worker an anomaly that does not match", "µs", {"ours": found.worker_us["anomalies"]},
            note="one candidate, whose condition it does not meet; with the record of why",
        )
    )  # fmt: skip
    return figures + (figures_of_two(found) if found.rates["two workers"] else [])


def figures_of_two(found: Found) -> list[Figure]:
    one, two = found.worker_us["one worker"], found.worker_us["two workers"]
    return [
        Figure(
            "executions a second, two workers beside one", "1/s",
            {"ours": found.rates["two workers"], "one worker": found.rates["one worker"]},
            note="on the wall clock, where the workers, the broker and the load share the cores",
        ),
        Figure(
            "executions a second of workers with a core each, computed: two beside one", "1/s",
            {"ours": [2e6 / us for us in two], "one worker": [1e6 / us for us in one]},
            goal="≥ 1.7 times", at_least=1.7,
            note="computed from the processor time an execution takes of all workers; the broker has its own core",
        )
    ]  # fmt: skip


async def main(arguments: PartArguments) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), Found()
        async with EmbeddedKafka(data_dir=folder / "kafka") as kafka:
            servers = kafka.bootstrap_servers
            settings = {
                "RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS": str(SLOTS),
                "RUNBOOKS_HISTORY__URL": f"sqlite:///{folder / 'history.db'}",  # of both workers
            }
            async with (
                target() as url,
                AIOKafkaProducer(bootstrap_servers=servers, acks="all") as producer,
                worker(servers, folder / "first", **settings) as session,
                faust_pipeline(servers, producer, folder) as pipeline,
            ):
                http = {"type": "http", "method": "POST", "url": url}
                for kind, step in (("idle", {**http, "when": "false"}), ("http", http)):
                    for tenant in TENANTS[kind]:
                        await put_runbook(session, runbook_of(step), tenant)
                watch = Watch(servers)
                async with background(watch.run()):
                    load = Load(kafka, Publisher(producer), watch, found)
                    await beside_the_pipeline(load, arguments, pipeline)
                    for _ in range(arguments.rounds):
                        await load.anomalies(session, 1000 if arguments.short else 20_000)
                    if not arguments.short:
                        await with_a_second(load, arguments.rounds, session, servers, folder / "second", settings)
        report(arguments, figures_of(found))


if __name__ == "__main__":
    run(main(part_arguments(__doc__)))
