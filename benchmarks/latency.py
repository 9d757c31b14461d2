"""Anomaly published -> first step started, at a steady rate, beside two bare Kafka hops in the same run.

Prints p50, p99 and max of both in milliseconds, the worker's start-up time and its resident memory.
Run: .venv/bin/python benchmarks/latency.py [EVENTS] [PER_SECOND]
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path

from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from bench import paced, put_runbook, shown, target, worker

from app.broker.kafka import EmbeddedKafka

HOPS = ("hop-one", "hop-two")


async def bare_hops(servers: str, count: int, per_second: float) -> list[float]:
    """Publish, consume and publish again, consume: what any two-hop pipeline costs here."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, 8, 1) for name in HOPS])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    first, second = (AIOKafkaConsumer(name, bootstrap_servers=servers, auto_offset_reset="earliest") for name in HOPS)
    for part in (producer, first, second):
        await part.start()
    taken: list[float] = []

    async def echo() -> None:
        async for record in first:
            await producer.send_and_wait(HOPS[1], record.value)

    async def measure() -> None:
        async for record in second:
            taken.append(time.time() - float(record.value))
            if len(taken) == count:
                return

    echoing, measuring = asyncio.create_task(echo()), asyncio.create_task(measure())
    async for _ in paced(count, per_second):
        await producer.send(HOPS[0], str(time.time()).encode())
    await measuring
    echoing.cancel()
    for part in (first, second, producer):
        await part.stop()
    return taken


async def engine(servers: str, folder: Path, count: int, per_second: float) -> list[float]:
    async with target() as url, worker(servers, folder, RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS="100") as session:
        runbook = {
            "name": "bench",
            "trigger": {"service_id": "s", "condition": "anomaly_score > 0.7"},
            "steps": [{"type": "http", "method": "POST", "url": url} for _ in range(3)],
        }
        await put_runbook(session, runbook)
        return await started(servers, count, per_second)


async def started(servers: str, count: int, per_second: float) -> list[float]:
    """Publish and watch the log: each anomaly's time until its first step_started stands there."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    watcher = AIOKafkaConsumer("execution-events", bootstrap_servers=servers, auto_offset_reset="latest")
    await producer.start()
    await watcher.start()
    await watcher.seek_to_end()
    published: dict[str, float] = {}
    anomalies: dict[str, str] = {}
    seen: dict[str, float] = {}

    async def watch() -> None:
        async for record in watcher:
            event = json.loads(record.value)
            if event["type"] == "execution_requested":
                anomalies[event["execution_id"]] = event["anomaly"]["anomaly_id"]
            elif event["type"] == "step_started" and event["step"] == 0:
                seen[anomalies[event["execution_id"]]] = time.time()
                if len(seen) == count:
                    return

    watching = asyncio.create_task(watch())
    async for number in paced(count, per_second):
        name = f"{per_second}-{number}"
        event = {"anomaly_id": name, "service_id": "s", "metric_name": "m", "anomaly_score": 0.9}
        published[name] = time.time()
        await producer.send("anomaly-events", json.dumps(event).encode())
    await watching
    await watcher.stop()
    await producer.stop()
    return [seen[name] - at for name, at in published.items()]


async def main(count: int, per_second: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedKafka(data_dir=folder / "kafka") as kafka:
            bare = shown(
                f"two bare hops at {per_second:g}/s", await bare_hops(kafka.bootstrap_servers, count, per_second)
            )
            ours = await engine(kafka.bootstrap_servers, folder, count, per_second)
            row = shown(f"anomaly -> first step started at {per_second:g}/s", ours)
            print(f"{'ratio of the medians':48} {row['p50_ms'] / bare['p50_ms']:.2f}")


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["500"])[0]), float((sys.argv[2:] or ["20"])[0])))
