"""Backtest: anomalies and log events a second on one core, beside a loop that only decodes the same records.

Three mixes: most anomalies about something else (as a backtest of one runbook finds them), half of them, all of them.
Both readers are fed by the same embedded Kafka in the same run; one process, one thread of ours. Prints records a
second, and the resident memory that each length of log takes.
Run: .venv/bin/python benchmarks/backtest.py [ANOMALIES]
"""

import asyncio
import json
import os
import resource
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition

from app.broker.kafka import EmbeddedKafka
from app.core.backtest_report import Question
from app.core.events import Limits
from app.core.runbook import read_runbook
from app.streams.backtesting import Backtester
from app.streams.connection import KafkaConnection
from app.streams.topics import ANOMALY_EVENTS, ensure_topics, read_topics

SHARES = {"1 in 100 is a candidate": 100, "1 in 2 is a candidate": 2, "every one is a candidate": 1}
RUNBOOK = {
    "name": "bench",
    "trigger": {"service_id": "s", "metric_name": "m", "condition": "anomaly_score > 0.99 && value >= 90.0"},
    "steps": [{"type": "slack", "channel": "#c", "message": "m"}],
    "cooldown_seconds": 60,
    "max_runs_per_hour": 20,
    "circuit_breaker": {"failures": 3},
}


async def fill(servers: str, first: int, count: int, every: int) -> None:
    """So many anomalies, one in every of which is about the runbook's service."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", linger_ms=20, max_batch_size=512 * 1024)
    await producer.start()
    for number in range(first, first + count):
        event = {
            "anomaly_id": f"a-{number}",
            "service_id": "s" if number % every == 0 else "other",
            "metric_name": "m",
            "anomaly_score": number % 1000 / 1000,
            "value": float(number % 120),
            "timestamp": time.time(),
            "severity": "high",
            "labels": {"region": "eu", "host": f"h{number % 50}"},
        }
        await producer.send(ANOMALY_EVENTS, json.dumps(event).encode())
    await producer.stop()


async def decoded(servers: str) -> tuple[int, float, float]:
    """Records, seconds and processor seconds of a loop that only decodes."""
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False, auto_offset_reset="earliest")
    await consumer.start()
    places = [TopicPartition(ANOMALY_EVENTS, number) for number in range(8)]
    consumer.assign(places)
    ends = await consumer.end_offsets(places)
    total, read = sum(ends.values()), 0
    begun, used = time.monotonic(), time.process_time()
    while read < total:
        for records in (await consumer.getmany(timeout_ms=500)).values():
            for record in records:
                orjson.loads(record.value)
            read += len(records)
    took = time.monotonic() - begun, time.process_time() - used
    await consumer.stop()
    return read, *took


async def tested(servers: str) -> tuple[int, float, float, dict]:
    """The same of a backtest."""
    question = Question("default", read_runbook(RUNBOOK), datetime.now(UTC) - timedelta(days=1), None, timedelta(0, 5))
    backtester = Backtester(KafkaConnection(bootstrap_servers=servers), Limits(), "bench")
    begun, used = time.monotonic(), time.process_time()
    outcome = await backtester.run(question)
    took = time.monotonic() - begun, time.process_time() - used
    return outcome.anomalies, *took, outcome.shown()


def told(name: str, read: int, seconds: float, used: float) -> None:
    rates = f"{read / seconds:>9,.0f}/s  {read / used:>9,.0f} a processor second"
    print(f"  {name:12} {read:>9,} records  {rates}  {psutil.Process().memory_info().rss >> 20} MB", flush=True)


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        for mix, every in SHARES.items():
            async with EmbeddedKafka(data_dir=Path(name) / str(every)) as kafka:
                servers = kafka.bootstrap_servers
                connection = KafkaConnection(bootstrap_servers=servers)
                await ensure_topics(connection, read_topics(Path("topics.yaml"), "bench"))
                print(mix)
                for part in range(2):
                    await fill(servers, part * count, count, every)
                    told("decode only", *await decoded(servers))
                    *figures, shown = await tested(servers)
                    told("backtest", *figures)
                print("  ", shown["reasons"][:4])
    print("peak resident:", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10, "MB;", os.cpu_count(), "cores")


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000))
