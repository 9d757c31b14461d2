"""The start of a worker, until it is ready, after what its tables' changelogs hold; and what it keeps in memory of it.

The changelogs are filled with the rows that a worker writes: markers of executions that have ended and are still known,
alone or with the three rows that the ledger keeps of each one's commands, or executions that wait for approval, which
are live. Each filling has tables of its own (another consumer group) on the same broker; the workers start in turn.
Memory is resident, at the time when the worker is ready and has looked at every live execution.
Run: .venv/bin/python benchmarks/starting.py [--rounds N] [--short]
"""

import asyncio
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import aiohttp
import orjson
from aiokafka import AIOKafkaProducer
from bench import cpu_s, run, said, worker, workers
from figures import Figure, PartArguments, part_arguments, report
from history import ended

from app.broker.kafka import EmbeddedKafka
from app.core.execution import Execution, Marker
from app.core.lifecycle import decide, evolve
from app.streams.connection import KafkaConnection
from app.streams.index import row_of
from app.streams.topics import changelog_name, ensure_topics, read_topics

PARTITIONS = 8
COMMANDS = 3
SETTLED_S = 300.0


@dataclass(frozen=True)
class Filling:
    """So many executions in a worker's changelogs; ledger: with their commands' rows."""

    count: int
    live: bool = False
    ledger: bool = False

    @property
    def group(self) -> str:
        return f"starting-{self.count}{'-live' * self.live}{'-ledger' * self.ledger}"

    def __str__(self) -> str:
        kind = "executions that wait for approval" if self.live else "markers"
        return f"{self.count:,} {kind}" + " and their commands in the ledger" * self.ledger


EMPTY = Filling(0)
FILLINGS = (Filling(10_000), Filling(1_000_000), Filling(100_000, ledger=True), Filling(10_000, live=True))
SHORT = (Filling(100, ledger=True), Filling(50, live=True))


class Kept(NamedTuple):
    """A record of a changelog."""

    table: str
    partition: int
    key: str
    value: bytes


class Started(NamedTuple):
    """One start: seconds until ready, processor seconds until then, MB resident afterwards, MB in the rows' files."""

    seconds: float
    cpu: float
    mb: float
    rows_mb: float


def waiting(at: datetime) -> Execution:
    """An execution that waits for approval for a day from now."""
    from building import http, plan, requested

    from app.core.events import StepPrepared

    step = http(require_approval=True, approval_timeout_minutes=24 * 60)
    state, _ = evolve(None, requested(step, http(), http(), at=at), 0)
    (command,) = decide(state)
    named = command.model_dump(include={"tenant", "execution_id", "command_id", "run", "phase", "attempt"})
    event = StepPrepared(**named, step=command.step_index, at=at, plan=plan("POST https://x.example/y"))
    state, refusal = evolve(state, event, 1)
    assert refusal is None, refusal
    return state


def rows_of(filling: Filling) -> Iterator[Kept]:
    """What a worker writes of so many executions."""
    now = datetime.now(UTC)
    marker, live = ended().now(finished_at=now).marker(), waiting(now)
    for number in range(filling.count):
        partition, name = number % PARTITIONS, f"{number * 2654435761 % 2**32:08x}-{number:012}"
        yield Kept(
            "executions", partition, name, row_of(partition, named(live if filling.live else marker, name, number))
        )
        for step in range(COMMANDS if filling.ledger else 0):
            row = {"partition": partition, "incarnation": "worker-1-12345678", "at": now.isoformat(), "done": True}
            yield Kept("step_ledger", partition, f"{name}/{7 * number}/{step}/apply/1", orjson.dumps(row))


def named(state: Execution | Marker, name: str, number: int) -> Execution | Marker:
    """The same of another execution."""
    if isinstance(state, Marker):
        changes = {"execution_id": name, "tenant": f"t{number % 20}", "run": 7 * number, "last_offset": 7 * number + 6}
        return state.model_copy(update=changes)
    request = state.request.model_copy(update={"execution_id": name, "tenant": f"t{number % 20}"})
    return state.now(request=request, run=7 * number, last_offset=7 * number + 1)


async def fill(servers: str, filling: Filling) -> None:
    """Make the topics of the filling's group, and write its rows in large batches."""
    group, begun = filling.group, time.monotonic()
    await ensure_topics(KafkaConnection(bootstrap_servers=servers), read_topics(Path("topics.yaml"), group))
    async with AIOKafkaProducer(bootstrap_servers=servers, max_batch_size=1 << 19) as producer:
        batches, places = {}, defaultdict(list)
        for kept in rows_of(filling):
            topic, at = changelog_name(group, kept.table), (kept.table, kept.partition)
            key = orjson.dumps(kept.key)
            batch = batches.setdefault(at, producer.create_batch())
            if batch.append(key=key, value=kept.value, timestamp=None) is None:
                places[at].append(await producer.send_batch(batch, topic, partition=kept.partition))
                batches[at] = producer.create_batch()
                batches[at].append(key=key, value=kept.value, timestamp=None)
        for (table, partition), batch in batches.items():
            await producer.send_batch(batch, changelog_name(group, table), partition=partition)
        await producer.flush()
    said(f"filled: {filling}", f"in {time.monotonic() - begun:.1f} s")


async def start(servers: str, filling: Filling) -> Started:
    """Start a worker on a filling, and end it."""
    with tempfile.TemporaryDirectory() as name:
        folder, begun = Path(name), time.monotonic()
        async with worker(servers, folder, RUNBOOKS_KAFKA__GROUP_ID=filling.group) as session:
            seconds, cpu = time.monotonic() - begun, cpu_s()
            if filling.live:
                await looked_at(session, filling.count)
            (process,) = workers()
            mb = process.memory_info().rss / 1e6
            rows_mb = size_of_rows(folder) / 1e6
    said(f"start: {filling}", f"{seconds:.2f} s, {cpu:.2f} processor seconds, {mb:.0f} MB, {rows_mb:.1f} MB of rows")
    return Started(seconds, cpu, mb, rows_mb)


def size_of_rows(folder: Path) -> int:
    """Bytes of the files that hold the tables' rows; the newest pages are in memory until there are too many."""
    return sum(path.stat().st_size for path in folder.rglob("*.rows"))


async def looked_at(session: aiohttp.ClientSession, count: int) -> None:
    """Until the worker has folded a timer of each live execution."""
    async with asyncio.timeout(SETTLED_S):
        while await timers_folded(session) < count:
            await asyncio.sleep(0.1)


async def timers_folded(session: aiohttp.ClientSession) -> float:
    async with session.get("/metrics") as answer:
        lines = (await answer.text()).splitlines()
    return sum(
        float(one.split()[-1])
        for one in lines
        if one.startswith("runbooks_execution_events_total{") and "timer_fired" in one
    )


def figures_of(found: dict[Filling, list[Started]]) -> list[Figure]:
    """The times beside those of an empty start; what one execution takes, from the difference to it."""
    figures, empty = [], found[EMPTY]
    for filling, starts in found.items():
        beside = {} if filling is EMPTY else {"with none": [one.seconds for one in empty]}
        figures.append(
            Figure(
                f"start of a worker, until ready, with {filling}",
                "s",
                {"ours": [one.seconds for one in starts], **beside},
            )
        )
    without = {name: statistics.median(getattr(one, name) for one in empty) for name in ("mb", "rows_mb", "cpu")}
    for filling, starts in found.items():
        if filling is EMPTY:
            continue
        for what, unit, name in (
            ("memory", "bytes", "mb"), ("file of the data folder", "bytes", "rows_mb"), ("processor time", "µs", "cpu")
        ):  # fmt: skip
            each = [1e6 * (getattr(one, name) - without[name]) / filling.count for one in starts]
            figures.append(Figure(f"{what} at the start, each of {filling}", unit, {"ours": each}))
    return figures


async def main(arguments: PartArguments) -> None:
    fillings = (EMPTY, *(SHORT if arguments.short else FILLINGS))
    found: dict[Filling, list[Started]] = {filling: [] for filling in fillings}
    with tempfile.TemporaryDirectory() as name:
        async with EmbeddedKafka(data_dir=Path(name) / "kafka") as kafka:
            for filling in fillings:
                await fill(kafka.bootstrap_servers, filling)
            for live in (False, True):  # the timers of live ones stand in the log, and all later starts would read them
                for filling in [one for one in fillings if one.live == live] * arguments.rounds:
                    found[filling].append(await start(kafka.bootstrap_servers, filling))
    report(arguments, figures_of(found))


if __name__ == "__main__":
    run(main(part_arguments(__doc__)))
