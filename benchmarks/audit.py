"""Reading the log: ``audit verify`` and the projector beside an aiokafka loop that only decodes the same records.

Two lengths of log in one run, the sides in turn. Events are counted a processor second of this process, and its
resident memory is taken after each reader: it must not follow the length of the log.
In each of 8 partitions an execution begins every 5 minutes: a dedup window (24 h) holds 2,304 of them.
Run: .venv/bin/python benchmarks/audit.py [--rounds N] [--short]
"""

import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition
from bench import run, said
from figures import Figure, PartArguments, part_arguments, report
from prometheus_client import CollectorRegistry
from stories import following

from app.audit.reading import FETCH_BYTES
from app.audit.verifying import Sources, Verification
from app.broker.kafka import EmbeddedKafka
from app.clients.kafka import Consumer
from app.collecting import collect_rarely
from app.core.commands import StepCommand
from app.core.events import write_event
from app.core.lifecycle import evolve
from app.core.planning import Prepared
from app.core.runbook import read_runbook
from app.history.database import open_database
from app.history.projection import Projection, Record
from app.history.schema import EXECUTIONS, OFFSETS
from app.history.store import Store
from app.streams.connection import KafkaConnection
from app.streams.topics import partition_of

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "core"))
TOPIC, PARTITIONS, RECORDS = "execution-events", 8, 7
TENANTS = {partition_of(name, range(PARTITIONS)): name for name in (f"t{number}" for number in range(100))}
"""One for each partition, as the rule of the log wants it."""
BEGAN = datetime.now(UTC) - timedelta(days=60)
BATCH = 2000
DECODING, PROJECTOR = "decode only", "projector, from an empty database"
VERIFY, WITH_HISTORY = "audit verify, the log alone", "audit verify, with the history"


def records_of(partition: int, first: int, executions: int):
    """What a worker writes for executions of three http steps: seven records each; the first one at an offset."""
    from building import http, requested

    runbook = read_runbook({"name": "bench", "trigger": {"service_id": "s"}, "steps": [http() for _ in range(3)]})
    asked = requested(at=BEGAN, by="olga", context={"region": "eu"})
    values: list[bytes] = []
    for number in range(first, first + executions):
        at = BEGAN + timedelta(minutes=5 * number)
        named = {"execution_id": f"{partition}-{number:08}", "tenant": TENANTS[partition], "at": at, "runbook": runbook}
        event = asked.model_copy(update={**named, "runbook_digest": runbook.digest()})
        state = None
        while event is not None:
            state, _ = evolve(state, event, RECORDS * first + len(values))
            values.append(write_event(event))
            event = following(state, event, at, _plan_of)
    return values


def _plan_of(command: StepCommand) -> Prepared:
    url = f"https://x.example/{command.command_id}"
    return Prepared.of(f"POST {url}", params={"url": url}, manual_reason="http")


async def create_topic(servers: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1, topic_configs={"retention.ms": "-1"})])
    await admin.close()


async def fill(servers: str, first: int, executions: int) -> None:
    """Append so many executions to each partition; records bear the times of their events."""
    async with AIOKafkaProducer(bootstrap_servers=servers, linger_ms=5, max_batch_size=1 << 18) as producer:
        for partition in range(PARTITIONS):
            for value in records_of(partition, first, executions):
                at = datetime.fromisoformat(orjson.loads(value)["at"])
                named = {"key": TENANTS[partition].encode(), "partition": partition}
                await producer.send(TOPIC, value, timestamp_ms=int(1000 * at.timestamp()), **named)


async def records_in_turn(servers: str):
    """What a plain consumer hands out, a batch of a partition at a time."""
    count = 0
    async with Consumer(
        bootstrap_servers=servers,
        max_partition_fetch_bytes=FETCH_BYTES, fetch_max_bytes=4 * FETCH_BYTES,
    ) as consumer:  # fmt: skip
        places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        total = sum((await consumer.end_offsets(places)).values())
        while count < total:
            batches = await consumer.getmany(timeout_ms=500, max_records=BATCH)
            count += sum(map(len, batches.values()))
            yield batches


async def decode_only(servers: str) -> int:
    """The least that a reader of these records does."""
    count = 0
    async for batches in records_in_turn(servers):
        for records in batches.values():
            for record in records:
                orjson.loads(record.value)
                count += 1
    return count


async def project(servers: str, engine) -> int:
    """The projector's work from an empty database on."""
    async with engine.begin() as connection:
        for table in (EXECUTIONS, OFFSETS):
            await connection.execute(table.delete())
    projection, count = Projection(Store(engine, TOPIC), CollectorRegistry()), 0
    places = [await projection.load(partition) for partition in range(PARTITIONS)]
    async for batches in records_in_turn(servers):
        read = {at.partition: [*map(Record.of, found)] for at, found in batches.items()}
        await projection.project([(places[number], found) for number, found in read.items()])
        count += sum(map(len, read.values()))
    return count


async def verify(servers: str, engine) -> int:
    sources = Sources(KafkaConnection(bootstrap_servers=servers), TOPIC, engine)
    result = await Verification(sources, lambda _: None).run()
    assert not result.count, result.differences[:3]
    return result.records


class Found:
    """Events a processor second and resident MB, a value a round, by reader."""

    def __init__(self) -> None:
        self.rates: defaultdict[str, list[float]] = defaultdict(list)
        self.resident: defaultdict[str, list[float]] = defaultdict(list)

    async def measure(self, name: str, work) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        count = await work()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        self.rates[name].append(count / cpu)
        self.resident[name].append(psutil.Process().memory_info().rss / 1e6)
        mb = self.resident[name][-1]
        said(name, f"{count:,} events, {count / wall:,.0f}/s, {count / cpu:,.0f} a processor second, {mb:.0f} MB")


async def rounds_of(servers: str, engine, rounds: int) -> Found:
    found = Found()
    for _ in range(rounds):
        await found.measure(DECODING, lambda: decode_only(servers))
        await found.measure(PROJECTOR, lambda: project(servers, engine))
        await found.measure(VERIFY, lambda: verify(servers, None))
        await found.measure(WITH_HISTORY, lambda: verify(servers, engine))
    return found


def figures_of(found: Found, length: int) -> list[Figure]:
    """A reader beside the loop, and beside the goal: that of events a second has no other side."""
    figures = []
    for name in (PROJECTOR, VERIFY, WITH_HISTORY):
        called = f"{name}, {length:,} events"
        figures += [
            Figure(
                f"{called}: events a processor second", "1/s", {"ours": found.rates[name]},
                goal="≥ 20,000/s", at_least=20_000,
            ),
            Figure(
                f"{called}: beside decoding only", "1/s", {"ours": found.rates[name], DECODING: found.rates[DECODING]},
                goal="≥ 50 %", at_least=0.5, note="the loop reads and decodes, and keeps and checks nothing",
            ),
            Figure(f"{called}: resident memory", "MB", {"ours": found.resident[name]}),
        ]  # fmt: skip
    return figures


async def main(arguments: PartArguments) -> None:
    collect_rarely()
    figures = []
    each = 25 if arguments.short else 2000
    with tempfile.TemporaryDirectory() as folder:
        broker = EmbeddedKafka(data_dir=Path(folder) / "kafka", progress=print)
        await broker.start()
        engine = await open_database(f"sqlite:///{folder}/history.db")
        try:
            await create_topic(broker.bootstrap_servers)
            for part in range(1 if arguments.short else 2):
                await fill(broker.bootstrap_servers, part * each, each)
                length = PARTITIONS * each * (part + 1) * RECORDS
                found = await rounds_of(broker.bootstrap_servers, engine, arguments.rounds)
                figures += figures_of(found, length)
        finally:
            await engine.dispose()
            await broker.stop()
    report(arguments, figures)


if __name__ == "__main__":
    run(main(part_arguments(__doc__)))
