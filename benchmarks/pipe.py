"""CPU of one execution in the engine's own code: everything but Kafka, Faust and the network.

Anomalies are matched, folded, commanded and carried out in one process over lists in place of topics, so the figures
hold on a busy machine too. Prints µs of CPU per execution by part, with SLOTS executions at once of a queue of COUNT.
Run: .venv/bin/python benchmarks/pipe.py [COUNT] [SLOTS]
"""

import asyncio
import sys
import time
import tracemalloc
from collections import Counter, deque
from datetime import UTC, datetime
from types import SimpleNamespace

import orjson
from prometheus_client import CollectorRegistry

from app.actions.runner import Claim, Runner
from app.actions.scene import Clients
from app.clients.http import HttpAnswer
from app.clients.secrets import Secrets
from app.core.catalog import Catalog, RunbookPut
from app.core.commands import read_command
from app.core.events import Limits, read_event
from app.core.runbook import read_runbook
from app.history.folding import Happened, fold, latest_of, row_of
from app.streams.advancing import Advancer
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.matching import AnomalyMatcher

LOG, COMMANDS = "execution-events", "step-commands.http"


def now() -> datetime:
    return datetime.now(UTC)


class Topics:
    """Lists in place of topics."""

    def __init__(self) -> None:
        self.records: dict[str, deque] = {}
        self.sizes: Counter = Counter()
        self.counts: Counter = Counter()
        self.done = asyncio.get_running_loop().create_future()
        self.done.set_result(SimpleNamespace(topic="t", partition=0, offset=0))

    async def send(self, topic, value, *, key=None, partition=None, headers=()):
        del key, partition, headers
        self.sizes[topic] += len(value or b"")
        self.counts[topic] += 1
        if topic in (LOG, COMMANDS):
            self.records.setdefault(topic, deque()).append((self.counts[topic], value))
        return self.done

    async def publish(self, topic, value, *, key=None):
        return (await self.send(topic, value, key=key)).result()

    def event(self, topic):
        offset, value = self.records[topic].popleft()
        message = SimpleNamespace(topic=topic, partition=0, offset=offset, key=None, timestamp=time.time())
        return SimpleNamespace(message=message, value=value)


class Table(dict):
    """A table whose changelog is written as the real one writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.unsent = []

    def __setitem__(self, key, value) -> None:
        super().__setitem__(key, value)
        self.unsent.append((key, value))

    async def send_changes(self, topics):
        changes, self.unsent = self.unsent, []
        return [
            await topics.send("changelog", value if isinstance(value, bytes) else orjson.dumps(value), key=key)
            for key, value in changes
        ]


class Http:
    """A server that answers every request."""

    def check_url(self, url: str) -> None: ...

    async def request(self, *_, **__) -> HttpAnswer:
        return HttpAnswer(status=200, headers={"Content-Type": "application/json"}, body={}, truncated=False)


class Meter:
    """CPU time by part."""

    def __init__(self) -> None:
        self.spent: Counter = Counter()
        self.calls: Counter = Counter()

    async def of(self, part: str, work):
        begun = time.process_time()
        try:
            return await work
        finally:
            self.spent[part] += time.process_time() - begun
            self.calls[part] += 1


async def main(count: int, slots: int) -> None:
    topics, meter, figures = Topics(), Meter(), Figures(CollectorRegistry())
    step = {"type": "http", "method": "POST", "url": "http://target.example/"}
    trigger = {"service_id": "s", "condition": "anomaly_score > 0.7"}
    runbook = read_runbook({"name": "bench", "trigger": trigger, "steps": [step] * 3})
    catalog = Catalog()
    catalog.apply(RunbookPut(tenant="t", runbook=runbook, by="bench", at=now()))
    log = Log(topics)
    matcher = AnomalyMatcher(catalog, log, Limits(max_concurrent_runbooks=slots), now, figures)
    advancer = Advancer(Table(), log, topics, now, figures)
    clients = Clients(http=Http(), slack=None, kubernetes=None, secrets=Secrets(None, frozenset()), ssh=None)
    runner = Runner(clients=clients, worker="bench", lease_s=15.0, heartbeat_s=5.0, now=now, monotonic=time.monotonic)
    claim = Claim(until=time.monotonic() + 1e6, held=lambda: True)
    every_event = []

    async def match(number: int) -> None:
        anomaly = {"anomaly_id": f"a{number}", "tenant_id": "t", "service_id": "s", "metric_name": "m"}
        value = orjson.dumps(anomaly | {"anomaly_score": 0.9})
        message = SimpleNamespace(topic="anomaly-events", partition=0, offset=number, key=None, timestamp=time.time())
        await matcher._handle(SimpleNamespace(message=message, value=value))

    async def carry_out(value: bytes) -> None:
        await runner.run(read_command(value), claim, log.publish_event)

    async def work_off() -> None:
        while topics.records.get(LOG) or topics.records.get(COMMANDS):
            while topics.records.get(LOG):
                event = topics.event(LOG)
                every_event.append((event.message.offset, event.value))
                await meter.of("fold", advancer._handle(event))
            while topics.records.get(COMMANDS):
                await meter.of("carry out", carry_out(topics.records[COMMANDS].popleft()[1]))

    tracemalloc.start() if "--memory" in sys.argv else None
    for number in range(count):
        await meter.of("match", match(number))
    if "--memory" in sys.argv:
        before = tracemalloc.get_traced_memory()[0]
        while topics.records[LOG]:
            await meter.of("fold", advancer._handle(topics.event(LOG)))
        used = (tracemalloc.get_traced_memory()[0] - before) / count
        print(f"{'memory of one queued execution (less its record)':48} {used:.0f} B", flush=True)
        return
    await work_off()

    async def project() -> None:
        known: dict = {}
        for begin in range(0, len(every_event), 500):
            happened = [Happened(offset, read_event(value)) for offset, value in every_event[begin : begin + 500]]
            changed = fold(known, happened)
            known |= latest_of(changed)
            for state in changed.values():
                row_of(state, 0)

    await meter.of("project", project())
    assert advancer.index.sizes() == (0, count), advancer.index.sizes()
    for part, spent in meter.spent.items():
        calls = meter.calls[part]
        print(f"{part:24} {spent / count * 1e6:9.0f} µs an execution, {spent / calls * 1e6:9.0f} µs a call", flush=True)
    print(f"{'all':24} {sum(meter.spent.values()) / count * 1e6:9.0f} µs an execution", flush=True)
    for topic, size in topics.sizes.items():
        print(f"{topic:24} {topics.counts[topic] / count:9.1f} records, {size / count:9.0f} bytes an execution")


if __name__ == "__main__":
    numbers = [int(text) for text in sys.argv[1:] if text.isdigit()]
    asyncio.run(main(*(numbers + [1000, 100][len(numbers) :])))
