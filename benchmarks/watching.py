"""Anomalies out, and what the log says of them: who was requested, begun and ended, and when."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer

STEPS = 3


def runbook_of(step: dict[str, Any], steps: int = STEPS) -> dict[str, Any]:
    """A definition of so many equal steps, which every anomaly of the publisher starts."""
    trigger = {"service_id": "s", "condition": "anomaly_score > 0.7"}
    return {"name": "bench", "trigger": trigger, "steps": [step] * steps}


@dataclass
class Seen:
    """What the log has said of one tenant, by execution and by anomaly; times are seconds since the epoch.

    A step that was skipped has begun and ended at once.
    """

    requested: dict[str, str] = field(default_factory=dict)
    started: dict[str, float] = field(default_factory=dict)
    ended: dict[str, float] = field(default_factory=dict)
    twice: int = 0

    def take(self, event: dict[str, Any], at: float) -> None:
        execution_id = event["execution_id"]
        match event["type"]:
            case "execution_requested":
                self.requested.setdefault(execution_id, event["anomaly"]["anomaly_id"])
            case "step_started" if event["step"] == 0:
                self.twice += execution_id in self.started
                self.started.setdefault(execution_id, at)
            case "step_finished" | "step_skipped" if event["step"] == STEPS - 1:
                self.ended.setdefault(execution_id, at)

    def latencies(self, published: dict[str, float]) -> list[float]:
        """From publishing an anomaly to its first step."""
        begun = {self.requested[name]: at for name, at in self.started.items() if name in self.requested}
        return [begun[name] - at for name, at in published.items() if name in begun]


class Watch:
    """Follows the log.

    by_arrival: take the time at which a record is read here, which is later than its own: that of its writing.
    """

    def __init__(self, servers: str, *, by_arrival: bool = False) -> None:
        self.tenants: dict[str, Seen] = {}
        self.changed = asyncio.Condition()
        self._servers = servers
        self._by_arrival = by_arrival

    def of(self, tenant: str) -> Seen:
        return self.tenants.setdefault(tenant, Seen())

    def started(self, tenants: Iterable[str]) -> int:
        """How many executions of these tenants have begun their first step."""
        return sum(len(self.of(tenant).started) for tenant in tenants)

    def ended(self, tenants: Iterable[str]) -> int:
        """How many executions of these tenants have ended."""
        return sum(len(self.of(tenant).ended) for tenant in tenants)

    async def until(self, is_so: Callable[[], bool]) -> None:
        async with self.changed:
            await self.changed.wait_for(is_so)

    async def run(self) -> None:
        async with AIOKafkaConsumer(
            "execution-events",
            bootstrap_servers=self._servers,
            auto_offset_reset="earliest",
            fetch_max_wait_ms=20,
        ) as consumer:
            while True:
                for records in (await consumer.getmany(timeout_ms=100)).values():
                    now = time.time()
                    for record in records:
                        at = now if self._by_arrival else record.timestamp / 1000
                        self.of(record.key.decode()).take(orjson.loads(record.value), at)
                async with self.changed:
                    self.changed.notify_all()


class Publisher:
    """Publishes anomalies with no key, as a metrics pipeline would."""

    def __init__(self, producer: AIOKafkaProducer) -> None:
        self._producer = producer
        self.published: dict[str, float] = {}

    async def publish(self, tenant: str, name: str, score: float = 0.9) -> None:
        event = {"anomaly_id": name, "tenant_id": tenant, "service_id": "s", "metric_name": "m", "anomaly_score": score}
        self.published[name] = time.time()
        await self._producer.send("anomaly-events", orjson.dumps(event))

    def of(self, prefix: str) -> dict[str, float]:
        """When the anomalies whose names begin so were published."""
        return {name: at for name, at in self.published.items() if name.startswith(prefix)}


@contextlib.asynccontextmanager
async def background(work: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """Have this done meanwhile; what fails in it ends what waits for it."""
    async with asyncio.TaskGroup() as group:
        running = group.create_task(work)
        yield
        running.cancel()


async def drain(
    publisher: Publisher, watch: Watch, tenants: tuple[str, ...], name: str, count: int, window: int
) -> float:
    """Executions a second with a window of them in flight: the worker is never idle and nothing piles up.

    Publishes count + window anomalies, whose names begin with name, of the tenants in turn; the first ends of so many
    as the window has are not counted.
    """
    before = {tenant: set(watch.of(tenant).ended) for tenant in tenants}
    done = watch.ended(tenants)
    for number in range(count + window):
        await watch.until(lambda number=number: watch.ended(tenants) - done > number - window)
        await publisher.publish(tenants[number % len(tenants)], f"{name}-{number}")
    await watch.until(lambda: watch.ended(tenants) - done >= count + window)
    ends = sorted(at for tenant in tenants for one, at in watch.of(tenant).ended.items() if one not in before[tenant])
    return count / (ends[-1] - ends[window - 1])
