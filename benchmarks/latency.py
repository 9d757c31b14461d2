"""Anomaly published -> first step started, at steady rates, beside two bare Kafka hops in the same run.

The step has started when its record stands in the log and is read there: three hops of ours (anomaly, request,
command), the acknowledgement of its claim, and one hop more to the reader. The bare hops are an aiokafka echo: publish,
consume and publish again, consume. The sides take turns; the worker is idle while the bare hops are measured.
Run: .venv/bin/python benchmarks/latency.py [--rounds N] [--short]
"""

import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from bench import paced, percentile, put_runbook, run, shown, target, worker
from figures import Figure, PartArguments, part_arguments, report
from watching import Publisher, Watch, background, runbook_of

from app.broker.kafka import EmbeddedKafka

HOPS = ("hop-one", "hop-two")
RATES = (20, 100, 300)
SECONDS, WARM_S, SHORT_S = 15.0, 2.0, 0.5
TENANTS = tuple(f"t{number}" for number in range(8))
BESIDE = "two bare Kafka hops"
NOTE = "until the record is read in the log: three hops, an acknowledged claim and the reader's hop, beside two hops"


class Hops:
    """What any pipeline of two hops costs here."""

    def __init__(self, servers: str, producer: AIOKafkaProducer) -> None:
        self._servers = servers
        self._producer = producer
        self._taken: list[float] = []
        self._waiting: asyncio.Event = asyncio.Event()
        self._wanted = 0

    async def make(self) -> None:
        admin = AIOKafkaAdminClient(bootstrap_servers=self._servers)
        await admin.start()
        await admin.create_topics([NewTopic(name, 8, 1) for name in HOPS])
        await admin.close()

    async def run(self) -> None:
        """Echo, and take the times."""
        first, second = (
            AIOKafkaConsumer(name, bootstrap_servers=self._servers, auto_offset_reset="earliest") for name in HOPS
        )
        async with first, second, background(self._echo(first)):
            async for record in second:
                self._taken.append(time.time() - float(record.value))
                if len(self._taken) >= self._wanted:
                    self._waiting.set()

    async def _echo(self, consumer: AIOKafkaConsumer) -> None:
        async for record in consumer:
            await self._producer.send_and_wait(HOPS[1], record.value)

    async def measure(self, count: int, per_second: float) -> list[float]:
        self._taken.clear()
        self._waiting.clear()
        self._wanted = count
        async for _ in paced(count, per_second):
            await self._producer.send(HOPS[0], str(time.time()).encode())
        await self._waiting.wait()
        return list(self._taken)


async def engine(publisher: Publisher, watch: Watch, name: str, count: int, per_second: float) -> list[float]:
    """Each anomaly's time until its first step has started."""
    begun = watch.started(TENANTS)
    async for number in paced(count, per_second):
        await publisher.publish(TENANTS[number % len(TENANTS)], f"{name}-{number}")
    await watch.until(lambda: watch.started(TENANTS) - begun == count)
    return [one for tenant in TENANTS for one in watch.of(tenant).latencies(publisher.of(f"{name}-"))]


async def measured(arguments: PartArguments, hops: Hops, publisher: Publisher, watch: Watch) -> list[Figure]:
    warm_s, seconds = (0.2, SHORT_S) if arguments.short else (WARM_S, SECONDS)
    await hops.measure(int(100 * warm_s), 100)
    await engine(publisher, watch, "warm", int(100 * warm_s), 100)
    figures = []
    for rate in RATES:
        count = int(rate * seconds)
        ours, bare = [], []
        for turn in range(arguments.rounds):
            bare.append(await hops.measure(count, rate))
            shown(f"{BESIDE} at {rate}/s", bare[-1])
            ours.append(await engine(publisher, watch, f"{rate}-{turn}", count, rate))
            shown(f"anomaly -> first step started at {rate}/s", ours[-1])
        figures += figures_of(rate, ours, bare)
    return figures


def figures_of(rate: int, ours: list[list[float]], bare: list[list[float]]) -> list[Figure]:
    """The two rows of a rate; a round is one value of each side."""
    sides = {"ours": ours, BESIDE: bare}
    middle = {name: [1e3 * statistics.median(one) for one in found] for name, found in sides.items()}
    late = {name: [1e3 * percentile(one, 0.99) for one in found] for name, found in sides.items()}
    strict = rate == 100
    return [
        Figure(
            f"anomaly published → first step started, p50 at {rate}/s", "ms", middle,
            goal="≤ 3 times the bare hops", at_most=3.0, note=NOTE,
        ),
        Figure(
            f"anomaly published → first step started, p99 at {rate}/s", "ms", {"ours": late["ours"]},
            goal="≤ 50 ms" if strict else "", at_most=50.0 if strict else None,
            note=f"the two bare hops' p99: {statistics.median(late[BESIDE]):.1f} ms",
            more={BESIDE: statistics.median(late[BESIDE])},
        ),
    ]  # fmt: skip


async def main(arguments: PartArguments) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            EmbeddedKafka(data_dir=folder / "kafka") as kafka,
            target() as url,
            AIOKafkaProducer(
                bootstrap_servers=kafka.bootstrap_servers, acks="all", enable_idempotence=True
            ) as producer,
            worker(kafka.bootstrap_servers, folder, RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS="100") as session,
        ):
            for tenant in TENANTS:
                await put_runbook(session, runbook_of({"type": "http", "method": "POST", "url": url}), tenant)
            hops = Hops(kafka.bootstrap_servers, producer)
            await hops.make()
            watch = Watch(kafka.bootstrap_servers, by_arrival=True)
            async with background(watch.run()), background(hops.run()):
                figures = await measured(arguments, hops, Publisher(producer), watch)
        report(arguments, figures)


if __name__ == "__main__":
    run(main(part_arguments(__doc__)))
