"""What the why-not ledger costs the matcher: anomaly events a second with it and without it, side by side.

The real matcher and producer on the embedded Kafka; records are handed over as the agent hands them over, and each must
be acknowledged with all that came of it. Without: the matcher as it was, whose answers are neither made nor sent.
Run: .venv/bin/python benchmarks/ledger.py [ANOMALIES]
"""

import asyncio
import json
import sys
import tempfile
import time
from collections import deque
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

from prometheus_client import CollectorRegistry

from app.broker.kafka import EmbeddedKafka
from app.core.catalog import Catalog, RunbookPut
from app.core.events import Limits
from app.core.runbook import read_runbook
from app.streams.connection import KafkaConnection
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.matching import AnomalyMatcher
from app.streams.publisher import Publisher
from app.streams.topics import ensure_topics, read_topics

IN_FLIGHT = 4000
MIXES = {
    "no candidate": lambda _: {"service_id": "other"},
    "3 candidates, none matches": lambda _: {"anomaly_score": 0.1},
    "3 candidates, 1 in 20 matches": lambda number: {"anomaly_score": 0.9 if number % 20 == 0 else 0.1},
}


class Unrecorded(AnomalyMatcher):
    """The matcher as it was before there was a ledger."""

    def _answers(self, *_):
        return None


class UnrecordedLog(Log):
    """Sends no answers."""

    async def send_answers(self, _):
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


def catalog() -> Catalog:
    found = Catalog()
    for number, least in enumerate((0.5, 0.95, 0.99)):
        trigger = {"service_id": "s", "metric_name": "m", "condition": f"anomaly_score > {least}"}
        content = {
            "name": f"r{number}",
            "trigger": trigger,
            "steps": [{"type": "slack", "channel": "#c", "message": "m"}],
        }
        found.apply(RunbookPut(tenant="default", runbook=read_runbook(content), by="bench", at=datetime.now(UTC)))
    return found


def events(name: str, count: int, fields) -> list:
    at = time.time()
    found = []
    for number in range(count):
        named = {"anomaly_id": f"{name}-{number}", "service_id": "s", "metric_name": "m", "labels": {"region": "eu"}}
        message = SimpleNamespace(topic="anomaly-events", partition=0, offset=number, timestamp=at, key=None)
        found.append(SimpleNamespace(message=message, value=json.dumps(named | fields(number)).encode()))
    return found


async def rate(matcher: AnomalyMatcher, given: list) -> float:
    waiting: deque = deque()
    begun = time.monotonic()
    for event in given:
        waiting.extend(await matcher._handle(event))  # noqa: SLF001 - what the agent calls
        while len(waiting) > IN_FLIGHT:
            await waiting.popleft()
    await asyncio.gather(*waiting)
    return len(given) / (time.monotonic() - begun)


async def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        async with EmbeddedKafka(data_dir=Path(name) / "kafka") as kafka:
            connection = KafkaConnection(bootstrap_servers=kafka.bootstrap_servers)
            await ensure_topics(connection, read_topics(Path("topics.yaml"), "bench"))
            publisher = Publisher(connection, "bench")
            await publisher.start()

            def clock():
                return datetime.now(UTC)

            def made(kind, log):
                return kind(catalog(), log, Limits(), clock, Figures(CollectorRegistry()))

            for turn in range(3):
                for mix, fields in MIXES.items():
                    with_it = await rate(made(AnomalyMatcher, Log(publisher)), events(f"w{turn}", count, fields))
                    without = await rate(made(Unrecorded, UnrecordedLog(publisher)), events(f"o{turn}", count, fields))
                    print(f"{mix:32} with {with_it:>8,.0f}/s   without {without:>8,.0f}/s   {with_it / without:.2f}")
            await publisher.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
