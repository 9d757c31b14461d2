"""A burst of matching anomalies of one tenant, next to a quiet tenant: how long, how fair, how much memory, none lost.

First the steady drain (a window of executions kept in flight), then the burst: it should take little longer than as
many executions take steadily. The quiet tenant's log is the same partition; its anomaly -> first step started is taken
during the steady drain, which keeps the worker as busy, then alone, and during the burst. Every anomaly must be
accounted for, in the log and in the history. With so many executions at once the worker is busy whether there is a
burst or not; so the quiet tenant is looked at once more beside a burst of a tenant that has the product's own limit.
Run: .venv/bin/python benchmarks/storm.py [--rounds N] [--short]
"""

import asyncio
import contextlib
import itertools
import sqlite3
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.partitioner import murmur2
from bench import cpu_s, percentile, put_runbook, run, said, shown, target, worker, workers
from figures import Figure, PartArguments, part_arguments, report
from watching import Publisher, Watch, background, drain, runbook_of

from app.broker.kafka import EmbeddedKafka
from app.core.events import Limits

PARTITIONS = 8
QUIET_PER_S = 5.0
WHEN = {"steady": "beside a steady drain", "before": "alone", "during": "beside the burst"}


@dataclass(frozen=True)
class Size:
    """Anomalies of the burst and of the steady drain, executions at once, and how long the quiet tenant is alone.

    beside_s: how long it is beside the burst of a tenant that has the product's own limit.
    """

    burst: int = 20_000
    steady: int = 2000
    slots: int = 100
    before_s: float = 20.0
    beside_s: float = 60.0


SHORT = Size(burst=200, steady=100, slots=50, before_s=1.0, beside_s=1.0)
LIMIT = Limits().max_concurrent_runbooks


@dataclass
class Found:
    """A value a round, by what it is of."""

    values: defaultdict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    def keep(self, name: str, value: float) -> None:
        self.values[name].append(value)


def place_of(tenant: str) -> int:
    """The partition of a tenant's log."""
    return (murmur2(tenant.encode()) & 0x7FFFFFFF) % PARTITIONS


def same_partition(tenant: str, prefix: str) -> str:
    """Another tenant whose log is the same partition; prefix: of its name."""
    names = (f"{prefix}-{number}" for number in itertools.count())
    return next(name for name in names if place_of(name) == place_of(tenant))


@contextlib.asynccontextmanager
async def trickle(publisher: Publisher, tenant: str, prefix: str) -> AsyncIterator[None]:
    """A few anomalies of a tenant meanwhile."""

    async def publish() -> None:
        for number in itertools.count():
            await publisher.publish(tenant, f"{prefix}-{number}")
            await asyncio.sleep(1 / QUIET_PER_S)

    async with background(publish()):
        yield


@contextlib.asynccontextmanager
async def peak_of(process: psutil.Process, found: list[float]) -> AsyncIterator[None]:
    """The resident memory of a process meanwhile, in MB."""

    async def look() -> None:
        while True:
            found.append(process.memory_info().rss / 1e6)
            await asyncio.sleep(0.1)

    async with background(look()):
        yield


class Storm:
    """The bursts of one worker: each of a tenant of its own, with a quiet one beside it."""

    def __init__(self, publisher: Publisher, watch: Watch, database: Path, size: Size) -> None:
        self._publisher = publisher
        self._watch = watch
        self._database = database
        self._size = size
        self.found = Found()

    async def beside(self, turn: int, tenant: str, steady: str, quiet: str) -> None:
        """The quiet tenant beside a steady drain, alone and in the first minute of a burst, which is then left."""
        await self._without(turn, steady, quiet)
        async with trickle(self._publisher, quiet, f"during-{turn}"):
            await self._publish(tenant)
            await asyncio.sleep(self._size.beside_s)
        await self._keep_latencies(turn, quiet)

    async def burst(self, turn: int, tenant: str, steady: str, quiet: str) -> None:
        """The steady drain, the quiet tenant alone, and the burst."""
        rate, size, process, memory = await self._without(turn, steady, quiet), self._size, workers()[0], []
        used, begun = cpu_s(), time.time()
        async with trickle(self._publisher, quiet, f"during-{turn}"), peak_of(process, memory):
            await self._publish(tenant)
            await self._watch.until(lambda: self._watch.ended([tenant]) >= size.burst)
        ends = sorted(at - begun for at in self._watch.of(tenant).ended.values())
        said("first end after", f"{ends[0]:.2f} s")
        said("ends by tenths of the time", [sum(at <= ends[-1] * n / 10 for at in ends) for n in range(1, 11)])
        keep = self.found.keep
        keep("burst", ends[-1])
        keep("steady", size.burst / rate)
        keep("first end", ends[0])
        keep("cpu", 1e6 * (cpu_s() - used) / size.burst)
        keep("before", memory[0])
        keep("peak", max(memory))
        await self._keep_latencies(turn, quiet)
        keep("missing", size.burst - await self._accounted(tenant))

    async def _without(self, turn: int, steady: str, quiet: str) -> float:
        """Executions a second without a burst; the quiet tenant beside them, then alone."""
        size = self._size
        async with trickle(self._publisher, quiet, f"steady-{turn}"):
            rate = await drain(self._publisher, self._watch, (steady,), f"drain-{turn}", size.steady, size.slots)
        said(f"steady drain with {size.slots} in flight", f"{rate:.0f}/s")
        async with trickle(self._publisher, quiet, f"before-{turn}"):
            await asyncio.sleep(size.before_s)
        return rate

    async def _publish(self, tenant: str) -> None:
        begun = time.time()
        for number in range(self._size.burst):
            await self._publisher.publish(tenant, f"{tenant}-{number}")
        said("burst published in", f"{time.time() - begun:.2f} s")

    async def _keep_latencies(self, turn: int, quiet: str) -> None:
        seen = self._watch.of(quiet)
        for when, how in WHEN.items():
            mine = self._publisher.of(f"{when}-{turn}-")
            await self._watch.until(lambda mine=mine: len(seen.latencies(mine)) == len(mine))
            latencies = seen.latencies(mine)
            shown(f"quiet tenant, {how}", latencies)
            self.found.keep(f"{when} p50", 1e3 * statistics.median(latencies))
            self.found.keep(f"{when} p99", 1e3 * percentile(latencies, 0.99))

    async def _accounted(self, tenant: str) -> int:
        """How many executions the history has of the storm, all of which must have succeeded, and the log too."""
        seen = self._watch.of(tenant)
        assert not seen.twice, "first steps were started twice"
        question = "select status, count(*) from executions where tenant = ? group by status"
        rows: dict[str, int] = {}
        with contextlib.closing(sqlite3.connect(f"file:{self._database}?mode=ro", uri=True)) as database:
            while rows.get("succeeded", 0) < len(seen.ended):
                await asyncio.sleep(0.1)
                rows = dict(database.execute(question, [tenant]).fetchall())
        counts = [len(seen.requested), len(seen.started), len(seen.ended)]
        said("requested, begun and ended in the log; history", f"{counts}; {rows}")
        return min(len(seen.requested), len(seen.started), sum(rows.values()))


def quiet_of(found: Found, name: str, note: str) -> Figure:
    values = found.values
    return Figure(
        f"{name}: a quiet tenant's anomaly → first step started, p50", "ms",
        {"ours": values["during p50"]} | {WHEN[when]: values[f"{when} p50"] for when in ("steady", "before")},
        note=f"{note}; p99, ms: "
        + ", ".join(f"{how} {statistics.median(values[f'{when} p99']):.0f}" for when, how in WHEN.items()),
    )  # fmt: skip


def figures_of(found: Found, beside: Found, size: Size) -> list[Figure]:
    values, name = found.values, f"a burst of {size.burst:,} anomalies of one tenant"
    return [
        Figure(
            f"{name}: until the last execution has ended", "s",
            {"ours": values["burst"], "as many at the steady drain": values["steady"]},
            goal="≤ 1.3 times", at_most=1.3, note=f"three http steps, {size.slots} executions at once",
        ),
        Figure(f"{name}: until the first execution has ended", "s", {"ours": values["first end"]}),
        quiet_of(found, name, f"its log is the same partition; {size.slots} executions of the other one at once"),
        quiet_of(beside, f"{name} with {LIMIT} at once", f"the first {size.beside_s:g} s"),
        Figure(
            f"{name}: peak resident memory of the worker", "MB", {"ours": values["peak"], "before": values["before"]},
        ),
        Figure(f"{name}: processor time of the worker an execution", "µs", {"ours": values["cpu"]}),
        Figure(
            f"{name}: anomalies of which nothing is known in the end", "anomalies", {"ours": values["missing"]},
            goal="none", at_most=0, note="requested and begun once in the log, and ended well in the history",
        ),
    ]  # fmt: skip


@contextlib.asynccontextmanager
async def storms(rounds: int, size: Size) -> AsyncIterator[tuple[Storm, list[tuple[str, str, str]]]]:
    """A worker with so many slots a tenant, and a round's tenants: of the burst, of the steady drain, the quiet one."""
    settings = {"RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS": str(size.slots)}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with (
            EmbeddedKafka(data_dir=folder / "kafka") as kafka,
            target() as url,
            AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all") as producer,
            worker(kafka.bootstrap_servers, folder, **settings) as session,
        ):
            bursts = [f"storm-{turn}" for turn in range(rounds)]
            tenants = [(one, same_partition(one, "steady"), same_partition(one, "quiet")) for one in bursts]
            for tenant in set(itertools.chain(*tenants)):
                await put_runbook(session, runbook_of({"type": "http", "method": "POST", "url": url}), tenant)
            watch = Watch(kafka.bootstrap_servers)
            async with background(watch.run()):
                yield Storm(Publisher(producer), watch, folder / "worker" / "history.db", size), tenants


async def main(arguments: PartArguments) -> None:
    size = SHORT if arguments.short else Size()
    async with storms(arguments.rounds, size) as (storm, tenants):
        for turn, names in enumerate(tenants):
            await storm.burst(turn, *names)
    calm = replace(size, slots=LIMIT, steady=min(size.steady, 500))
    async with storms(1, calm) as (beside, tenants):
        await beside.beside(0, *tenants[0])
    report(arguments, figures_of(storm.found, beside.found, size))


if __name__ == "__main__":
    run(main(part_arguments(__doc__, rounds=2)))
