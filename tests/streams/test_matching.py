"""How far one tenant's requests may be ahead of the fold, and who passes whom meanwhile."""

import asyncio
from types import SimpleNamespace

import orjson
import pytest
from building import T0, http
from executing_fakes import Record
from prometheus_client import CollectorRegistry
from waiting import until

from app.core.catalog import Catalog, RunbookPut
from app.core.events import Limits
from app.core.runbook import read_runbook
from app.streams.figures import Figures
from app.streams.matching import AnomalyMatcher
from app.streams.pacing import AHEAD, FOLDED_AFTER_S, Pace
from app.streams.receipts import Receipts

TENANTS = ("busy", "quiet")


class Requests:
    """The log: every request, at once on the broker."""

    def __init__(self):
        self.sent = []

    async def send_event(self, event, came_from=None):
        self.sent.append(event)
        return _done()

    async def send_answers(self, answered):
        return _done()

    def of(self, tenant):
        return [event.anomaly.anomaly_id for event in self.sent if event.tenant == tenant]


def _done():
    done = asyncio.get_running_loop().create_future()
    done.set_result(None)
    return done


class Stream:
    """Anomalies as an agent is given them; ends never."""

    def __init__(self):
        self.records = asyncio.Queue()

    async def drawn(self):
        while True:
            yield await self.records.get()

    def put(self, tenant, name):
        value = {"anomaly_id": name, "tenant_id": tenant, "service_id": "s", "metric_name": "m"}
        record = Record(orjson.dumps(value))
        record.message = SimpleNamespace(
            topic="anomaly-events", partition=0, offset=0, key=None, timestamp=T0.timestamp()
        )
        self.records.put_nowait(record)
        return record


class Bench:
    def __init__(self):
        self.log, self.stream, self.now = Requests(), Stream(), 0.0
        catalog = Catalog()
        runbook = read_runbook({"name": "r", "trigger": {"service_id": "s"}, "steps": [http()]})
        for tenant in TENANTS:
            catalog.apply(RunbookPut(tenant=tenant, runbook=runbook, by="ann", at=T0))
        registry = CollectorRegistry()
        self.held = lambda: registry.get_sample_value("runbooks_anomalies_held")
        self.matcher = AnomalyMatcher(catalog, self.log, Limits(), lambda: T0, Figures(registry))
        self.matcher.pace = Pace(lambda: self.now)
        self.failures = []
        self.running = asyncio.create_task(self.matcher.run(self.stream.drawn(), Receipts(10, self.failures.append)))

    async def requested(self, tenant, count):
        async def there():
            return len(self.log.of(tenant)) == count

        await until(there)

    def fold(self, count):
        for event in self.log.sent[:count]:
            self.matcher.pace.folded(event.tenant, event.execution_id)


@pytest.fixture
async def bench():
    one = Bench()
    yield one
    one.running.cancel()
    await asyncio.gather(one.running, return_exceptions=True)
    assert one.failures == []


async def test_a_burst_waits_for_the_fold_and_another_tenant_passes_it(bench):
    burst = [bench.stream.put("busy", f"a{number}") for number in range(3 * AHEAD)]
    quiet = bench.stream.put("quiet", "q")
    await bench.requested("quiet", 1)
    assert len(bench.log.of("busy")) == AHEAD
    assert (quiet.acked, burst[0].acked, burst[-1].acked) == (True, True, False)
    assert bench.held() == 2 * AHEAD
    bench.fold(10)
    await bench.requested("busy", AHEAD + 10)
    bench.now += FOLDED_AFTER_S + 0.1  # the fold is another worker's: nothing is heard of it
    await bench.requested("busy", 2 * AHEAD + 10)
    bench.now += FOLDED_AFTER_S + 0.1
    await bench.requested("busy", 3 * AHEAD)
    assert bench.log.of("busy") == [f"a{number}" for number in range(3 * AHEAD)]
    assert (all(record.acked for record in burst), bench.held()) == (True, 0)


async def test_what_waits_is_let_go_when_the_partitions_are_shared_out_anew(bench):
    burst = [bench.stream.put("busy", f"a{number}") for number in range(AHEAD + 5)]

    async def held():
        return bench.held() == 5

    await until(held)
    bench.matcher.forget()
    bench.fold(AHEAD)
    bench.stream.put("busy", "next")
    await bench.requested("busy", AHEAD + 1)
    assert bench.log.of("busy")[-1] == "next"
    assert not burst[-1].acked
