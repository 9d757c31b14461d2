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
from app.streams.holding import MAX_HELD
from app.streams.matching import AnomalyMatcher
from app.streams.pacing import AHEAD, FOLDED_AFTER_S, SUPPLY, Pace
from app.streams.receipts import Receipts

TENANTS = ("busy", "quiet")
T0_S = T0.timestamp()


class Requests:
    """The log: every request, answer and dead letter, at once on the broker."""

    def __init__(self):
        self.sent, self.answered, self.letters = [], [], []

    async def send_event(self, event, came_from=None):
        self.sent.append(event)
        return _done()

    async def send_answers(self, tenant, parts):
        self.answered += [orjson.loads(part)["anomaly_id"] for part in parts]
        return _done()

    async def send_dead_letter(self, source, error):
        self.letters.append(source.value)
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

    def put(self, tenant, name, written_s=T0_S, **fields):
        value = {"anomaly_id": name, "tenant_id": tenant, "service_id": "s", "metric_name": "m", "value": 1, **fields}
        record = Record(orjson.dumps(value))
        record.message = SimpleNamespace(topic="anomaly-events", partition=0, offset=0, key=None, timestamp=written_s)
        self.records.put_nowait(record)
        return record


class Bench:
    def __init__(self):
        self.log, self.stream, self.now = Requests(), Stream(), 0.0
        catalog = Catalog()
        trigger = {"service_id": "s", "condition": "value > 0"}
        runbook = read_runbook({"name": "r", "trigger": trigger, "steps": [http()]})
        for tenant in TENANTS:
            catalog.apply(RunbookPut(tenant=tenant, runbook=runbook, by="ann", at=T0))
        registry = CollectorRegistry()
        self.held = lambda: registry.get_sample_value("runbooks_anomalies_held")
        self.counted = lambda result: registry.get_sample_value("runbooks_anomalies_total", {"result": result})
        self.matcher = AnomalyMatcher(catalog, self.log, Limits(), lambda: T0, Figures(registry))
        self.in_line = 0
        self.matcher.pace = Pace(lambda: self.now, lambda _: self.in_line)
        self.failures = []
        self.running = asyncio.create_task(self.matcher.run(self.stream.drawn(), Receipts(10, self.failures.append)))

    async def requested(self, tenant, count):
        async def there():
            return len(self.log.of(tenant)) == count

        await until(there)

    async def acknowledged(self, *records):
        async def there():
            return all(record.acked for record in records)

        await until(there)

    async def waiting(self, count):
        async def there():
            return self.held() == count

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
    await bench.acknowledged(quiet, burst[0])
    assert not burst[-1].acked
    assert (bench.held(), bench.counted("matched")) == (2 * AHEAD, AHEAD + 1)
    bench.fold(10)
    await bench.requested("busy", AHEAD + 10)
    bench.now += FOLDED_AFTER_S + 0.1  # the fold is another worker's: nothing is heard of it
    await bench.requested("busy", 2 * AHEAD + 10)
    bench.now += FOLDED_AFTER_S + 0.1
    await bench.requested("busy", 3 * AHEAD)
    assert bench.log.of("busy") == [f"a{number}" for number in range(3 * AHEAD)]
    await bench.acknowledged(*burst)
    assert bench.held() == 0
    assert bench.counted("matched") == 3 * AHEAD + 1


async def test_what_waits_is_let_go_when_the_partitions_are_shared_out_anew(bench):
    burst = [bench.stream.put("busy", f"a{number}") for number in range(AHEAD + 5)]
    await bench.waiting(5)
    bench.matcher.forget()
    bench.fold(AHEAD)
    bench.stream.put("busy", "next")
    await bench.requested("busy", AHEAD + 1)
    assert bench.log.of("busy")[-1] == "next"
    assert not burst[-1].acked


async def test_what_matches_nothing_needs_no_room_but_keeps_its_place(bench):
    for number in range(AHEAD + 1):
        bench.stream.put("busy", f"a{number}")
    misses = [bench.stream.put("busy", name, value=0) for name in ("b", "c")]
    last = bench.stream.put("busy", "d")
    await bench.waiting(4)
    assert (bench.counted("unmatched"), misses[0].acked) == (0, False)
    bench.fold(1)
    await bench.waiting(1)
    await bench.acknowledged(*misses)
    assert bench.log.answered[AHEAD:] == [f"a{AHEAD}", "b", "c"]
    assert not last.acked
    assert (bench.counted("matched"), bench.counted("unmatched")) == (AHEAD + 1, 2)


async def test_what_is_refused_waits_for_its_turn_too(bench):
    for number in range(AHEAD + 1):
        bench.stream.put("busy", f"a{number}")
    refused = bench.stream.put("busy", "b", service_id=None)
    nobodys = bench.stream.put(None, "c", service_id=None)
    await bench.waiting(2)
    await bench.acknowledged(nobodys)
    assert (bench.log.letters, refused.acked) == ([nobodys.value], False)
    bench.fold(1)
    await bench.acknowledged(refused)
    assert (bench.log.letters, bench.counted("refused")) == ([nobodys.value, refused.value], 2)


async def test_several_that_wait_take_turns(bench):
    for tenant in TENANTS:
        for number in range(AHEAD + 3):
            bench.stream.put(tenant, f"a{number}")
    await bench.waiting(6)
    bench.fold(2 * AHEAD)
    await bench.waiting(0)
    assert [event.tenant for event in bench.log.sent[2 * AHEAD :]] == [*TENANTS] * 3


async def test_no_more_are_held_than_there_is_room_for(bench):
    burst = [bench.stream.put("busy", f"a{number}") for number in range(AHEAD + MAX_HELD + 2)]
    await bench.waiting(MAX_HELD)
    assert bench.stream.records.qsize() == 1
    bench.fold(AHEAD)
    await bench.requested("busy", 2 * AHEAD)
    bench.matcher.forget()
    assert bench.held() == 0
    assert not burst[-1].acked


async def test_a_tenant_that_has_enough_waiting_is_no_further_ahead_than_the_fold_is_quick(bench):
    for number in range(4 * AHEAD):
        bench.stream.put("busy", f"a{number}")
    await bench.requested("busy", AHEAD)
    bench.in_line, bench.now = SUPPLY, 0.1
    bench.fold(AHEAD)
    await bench.requested("busy", AHEAD + AHEAD // 2)
    bench.in_line = SUPPLY - 1
    bench.fold(AHEAD + 1)
    await bench.requested("busy", 2 * AHEAD + 1)


async def test_it_goes_on_when_no_more_can_be_held(bench):
    for number in range(AHEAD + MAX_HELD):
        bench.stream.put("busy", f"a{number}")
    await bench.waiting(MAX_HELD)
    bench.in_line, bench.now = SUPPLY, 0.1
    bench.fold(AHEAD // 2 - 1)  # which leaves more ahead than are folded in good time
    await bench.requested("busy", AHEAD + 1)
    assert bench.held() == MAX_HELD - 1


async def test_a_record_whose_time_is_no_moment_is_put_aside_if_its_event_names_none(bench):
    absurd = (-1e12, 1.7e12, 1.7e15)
    refused = [bench.stream.put("quiet", f"r{number}", at) for number, at in enumerate(absurd)]
    timed = [bench.stream.put("quiet", f"t{number}", at, timestamp=T0.isoformat()) for number, at in enumerate(absurd)]
    await bench.acknowledged(*refused, *timed)
    assert bench.log.letters == [record.value for record in refused]
    assert bench.log.of("quiet") == ["t0", "t1", "t2"]
