"""Reading the log: ``audit verify`` beside a plain aiokafka loop that only decodes the same records, in one run.

Prints events/s by wall clock and by CPU time of this process, several rounds in turn, and the memory that grew.
Run: .venv/bin/python benchmarks/audit.py [EXECUTIONS] [ROUNDS]
"""

import resource
import statistics
import sys
import tempfile
import time
from datetime import timedelta
from pathlib import Path

import orjson
import psutil
import uvloop
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from app.audit.verifying import FETCH_BYTES, Sources, Verification
from app.broker.kafka import EmbeddedKafka
from app.clients.kafka import Consumer
from app.core.commands import StepCommand
from app.core.events import ExecutionRequested, StepFinished, StepStarted, write_event
from app.core.lifecycle import decide, evolve
from app.core.planning import Outcome, Prepared
from app.core.runbook import read_runbook
from app.history.database import open_database
from app.history.projection import Projection, Record
from app.history.store import Store
from app.streams.connection import KafkaConnection

sys.path.insert(0, str(Path(__file__).parent.parent / "tests" / "core"))
TOPIC, PARTITIONS = "execution-events", 8
BATCH = 2000


def records_of(partition: int, executions: int):
    """What a worker writes for executions of three http steps: seven records each; a window of two hours."""
    from building import LEASE, T0, http, requested

    runbook = read_runbook({"name": "bench", "trigger": {"service_id": "s"}, "steps": [http() for _ in range(3)]})
    first = requested(at=T0, by="olga", context={"region": "eu"})
    values: list[bytes] = []
    for number in range(executions):
        at = T0 + timedelta(seconds=30 * number)
        named = {"execution_id": f"{partition}-{number:08}", "tenant": f"t{partition}", "at": at, "runbook": runbook}
        event = first.model_copy(update={**named, "runbook_digest": runbook.digest()})
        state = None
        while event is not None:
            state, _ = evolve(state, event, len(values))
            values.append(write_event(event))
            event = _next(state, event, at, LEASE)
    return values


def _next(state, event, at, lease):
    if isinstance(event, ExecutionRequested | StepFinished):
        due = decide(state)
        if not due:
            return None
        (command,) = due
        assert isinstance(command, StepCommand)
        plan = Prepared.of("POST https://x.example/y", params={"url": "https://x.example/y"}, manual_reason="http")
        named = command.model_dump(include={"tenant", "execution_id", "command_id", "run", "phase", "attempt"})
        return StepStarted(**named, step=command.step_index, at=at, plan=plan, lease_until=at + lease, worker="w")
    answer = event.model_dump(exclude={"plan", "lease_until", "worker", "type"})
    return StepFinished(**answer, outcome=Outcome(outcome="succeeded", output={"status": 200}))


async def fill(servers: str, engine, executions: int) -> int:
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(TOPIC, PARTITIONS, 1)])
    await admin.close()
    projection, count = Projection(Store(engine, TOPIC), CollectorRegistry()), 0
    async with AIOKafkaProducer(bootstrap_servers=servers, linger_ms=5, max_batch_size=1 << 18) as producer:
        for partition in range(PARTITIONS):
            values = records_of(partition, executions // PARTITIONS)
            for value in values:
                await producer.send(TOPIC, value, key=f"t{partition}".encode(), partition=partition)
            place = await projection.load(partition)
            for start in range(0, len(values), BATCH):
                part = [
                    Record(start + n, value, f"t{partition}".encode())
                    for n, value in enumerate(values[start : start + BATCH])
                ]
                await projection.project([(place, part)])
            count += len(values)
    return count


async def decode_only(servers: str) -> int:
    """The least that a reader of these records does."""
    count = 0
    async with Consumer(
        bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest",
        max_partition_fetch_bytes=FETCH_BYTES, fetch_max_bytes=4 * FETCH_BYTES,
    ) as consumer:  # fmt: skip
        places = [TopicPartition(TOPIC, number) for number in range(PARTITIONS)]
        consumer.assign(places)
        total = sum((await consumer.end_offsets(places)).values())
        while count < total:
            for records in (await consumer.getmany(timeout_ms=500)).values():
                for record in records:
                    orjson.loads(record.value)
                    count += 1
    return count


async def verify(servers: str, engine) -> int:
    sources = Sources(KafkaConnection(bootstrap_servers=servers), TOPIC, engine)
    result = await Verification(sources, lambda _: None).run()
    assert result.count <= result.records, result.differences[:3]
    return result.records


async def measured(name: str, work, figures: dict) -> None:
    wall, cpu = time.perf_counter(), time.process_time()
    count = await work()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    figures.setdefault(name, []).append((count / wall, count / cpu))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{name:24} {count:9,} events  {count / wall:9,.0f}/s  {count / cpu:9,.0f} a CPU second  peak {grown:.0f} MB")


async def main(executions: int, rounds: int) -> None:
    figures: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        broker = EmbeddedKafka(data_dir=Path(folder) / "kafka", progress=print)
        await broker.start()
        engine = await open_database(f"sqlite:///{folder}/history.db")
        try:
            servers = broker.bootstrap_servers
            print(f"{await fill(servers, engine, executions):,} records, {psutil.Process().memory_info().rss >> 20} MB")
            for _ in range(rounds):
                await measured("decode only", lambda: decode_only(servers), figures)
                await measured("verify, the log", lambda: verify(servers, None), figures)
                await measured("verify, with history", lambda: verify(servers, engine), figures)
        finally:
            await engine.dispose()
            await broker.stop()
    base = statistics.median(cpu for _, cpu in figures["decode only"])
    for name, both in figures.items():
        wall, cpu = (statistics.median(values) for values in zip(*both, strict=True))
        print(f"median  {name:24} {wall:9,.0f}/s  {cpu:9,.0f} a CPU second, {cpu / base:.2f} of decode only")


if __name__ == "__main__":
    given = [int(one) for one in sys.argv[1:]]
    uvloop.run(main(*(given + [20_000, 3][len(given) :])))
