"""Backtest: anomalies and log events a second on one core, beside a loop that only decodes the same records.

Three mixes: most anomalies about something else (as a backtest of one runbook finds them), half of them, all of them,
each on an embedded Kafka of its own, and in two lengths. The readers take turns, in one process and one
thread of ours. Records are counted a processor second.
Run: .venv/bin/python benchmarks/backtest.py [--rounds N] [--short]
"""

import json
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import psutil
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.structs import TopicPartition
from bench import run, said
from figures import Figure, PartArguments, part_arguments, report

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


def kept(name: str, read: int, seconds: float, used: float) -> tuple[float, float]:
    """Records a processor second, and MB resident."""
    mb = psutil.Process().memory_info().rss / 1e6
    said(name, f"{read:,} records, {read / seconds:,.0f}/s, {read / used:,.0f} a processor second, {mb:.0f} MB")
    return read / used, mb


async def rounds_of(servers: str, rounds: int, mix: str, length: int) -> list[Figure]:
    """The two readers in turn."""
    alone, ours, resident = [], [], []
    for _ in range(rounds):
        alone.append(kept("decode only", *await decoded(servers))[0])
        *figures, _shown = await tested(servers)
        rate, mb = kept(f"backtest, {mix}", *figures)
        ours.append(rate)
        resident.append(mb)
    called = f"backtest, {mix}, {length:,} records"
    return [
        Figure(f"{called}: records a processor second", "1/s", {"ours": ours}, goal="≥ 20,000/s", at_least=20_000),
        Figure(
            f"{called}: beside decoding only", "1/s", {"ours": ours, "decode only": alone},
            goal="≥ 50 %", at_least=0.5, note="the loop reads and decodes the records, and asks them nothing",
        ),
        Figure(f"{called}: resident memory", "MB", {"ours": resident}),
    ]  # fmt: skip


async def main(arguments: PartArguments) -> None:
    count, figures = 1000 if arguments.short else 100_000, []
    mixes = dict(list(SHARES.items())[:1]) if arguments.short else SHARES
    with tempfile.TemporaryDirectory() as name:
        for mix, every in mixes.items():
            async with EmbeddedKafka(data_dir=Path(name) / str(every)) as kafka:
                servers = kafka.bootstrap_servers
                await ensure_topics(
                    KafkaConnection(bootstrap_servers=servers), read_topics(Path("topics.yaml"), "bench")
                )
                for part in range(1 if arguments.short else 2):
                    await fill(servers, part * count, count, every)
                    figures += await rounds_of(servers, arguments.rounds, mix, (part + 1) * count)
    report(arguments, figures)


if __name__ == "__main__":
    run(main(part_arguments(__doc__)))
