"""What the why-not ledger costs the matcher: anomaly events a second with it and without it, side by side.

The real matcher and producer on the embedded Kafka; records are handed over as the agent hands them over, and each must
be acknowledged with all that came of it. Beside the rate, the processor time of this process for each. Without: the
matcher as it was, whose answers are neither made nor sent. Nobody folds here, so that requests are not paced.
Run: .venv/bin/python benchmarks/ledger.py [ANOMALIES]
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from app.broker.kafka import EmbeddedKafka
from app.core.catalog import Catalog, RunbookPut
from app.core.events import Limits
from app.core.runbook import read_runbook
from app.streams.answering import Answers
from app.streams.app import UNSETTLED_LIMIT
from app.streams.connection import KafkaConnection
from app.streams.drawing import Turn
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.matching import AnomalyMatcher
from app.streams.pacing import Pace
from app.streams.publisher import Publisher
from app.streams.receipts import Receipts
from app.streams.topics import ensure_topics, read_topics

MIXES = {
    "no candidate": lambda _: {"service_id": "other"},
    "3 candidates, none matches": lambda _: {"anomaly_score": 0.1},
    "3 candidates, 1 in 20 matches": lambda number: {"anomaly_score": 0.9 if number % 20 == 0 else 0.1},
}


class Unrecorded(AnomalyMatcher):
    """The matcher as it was before there was a ledger."""

    def __init__(self, catalog: Catalog, log: Log, *others) -> None:
        super().__init__(catalog, log, *others)
        self._answers = Unwritten(log)

    def _answered(self, *_):
        return None


class Unwritten(Answers):
    """Sends no answers."""

    def add(self, *_):
        done = asyncio.get_running_loop().create_future()
        done.set_result(None)
        return done


class Unpaced(Pace):
    """Room for every request."""

    def has_room(self, _: str) -> bool:
        return True


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


class Rate(NamedTuple):
    """Anomalies a second, and processor microseconds each."""

    per_second: float
    cpu_us: float


class Given:
    """Anomalies that are handed to a matcher, and those that it has not acknowledged."""

    def __init__(self, events: list) -> None:
        self._events = events
        self._left = len(events)
        self.done = asyncio.get_running_loop().create_future()

    async def records(self) -> AsyncIterator:
        turn = Turn()
        for event in self._events:
            event.ack = self._acknowledged
            yield event
            if turn.is_over():
                await turn.passes()
        await asyncio.Event().wait()

    def _acknowledged(self) -> None:
        self._left -= 1
        if not self._left:
            self.done.set_result(None)


def events(name: str, count: int, fields) -> list:
    at = time.time()
    found = []
    for number in range(count):
        named = {"anomaly_id": f"{name}-{number}", "service_id": "s", "metric_name": "m", "labels": {"region": "eu"}}
        message = SimpleNamespace(topic="anomaly-events", partition=0, offset=number, timestamp=at, key=None)
        found.append(SimpleNamespace(message=message, value=json.dumps(named | fields(number)).encode()))
    return found


async def rate(matcher: AnomalyMatcher, events: list) -> Rate:
    given, matcher.pace = Given(events), Unpaced()
    begun, used = time.monotonic(), time.process_time()
    running = asyncio.create_task(matcher.run(given.records(), Receipts(UNSETTLED_LIMIT, given.done.set_exception)))
    await given.done
    seconds, used_s = time.monotonic() - begun, time.process_time() - used
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    return Rate(len(events) / seconds, used_s / len(events) * 1e6)


def told(rate: Rate) -> str:
    return f"{rate.per_second:>8,.0f}/s {rate.cpu_us:>6.0f} µs"


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
                    without = await rate(made(Unrecorded, Log(publisher)), events(f"o{turn}", count, fields))
                    print(f"{mix:32} with {told(with_it)}   without {told(without)}")
            await publisher.stop()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 20_000))
