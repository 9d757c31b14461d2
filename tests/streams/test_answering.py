"""Which answers share a record of the ledger, when it is sent, and who learns what became of it."""

import asyncio
from contextlib import suppress

import orjson
import pytest
from building import T0

from app.core.answers import MAX_REASON, Answered, RunbookAnswer
from app.core.errors import TemporaryError
from app.streams.answering import MAX_BYTES, MAX_TOGETHER, Answers


class Log:
    """Keeps each record that it is given with its delivery; refuses when it is told to."""

    def __init__(self):
        self.records, self.deliveries, self.error = [], [], None

    async def send_answers(self, tenant, parts):
        if self.error is not None:
            raise self.error
        self.records.append((tenant, [orjson.loads(part)["anomaly_id"] for part in parts]))
        self.deliveries.append(asyncio.get_running_loop().create_future())
        return self.deliveries[-1]


class Bench:
    def __init__(self):
        self.log = Log()
        self.answers = Answers(self.log)
        self.running = asyncio.create_task(self.answers.run())

    def add(self, tenant, name, reason=""):
        answer = RunbookAnswer(runbook="r", version=1, result="no_match", reason=reason)
        answered = Answered(anomaly_id=name, service_id="s", metric_name="m", at=T0, answers=(answer,))
        return self.answers.add(tenant, answered)


@pytest.fixture
async def bench():
    one = Bench()
    yield one
    one.running.cancel()
    with suppress(asyncio.CancelledError, TemporaryError):
        await one.running


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def test_a_lone_answer_is_sent_in_the_next_turn_and_done_when_the_broker_has_it(bench):
    await turns()
    delivery = bench.add("t", "a")
    await turns()
    assert bench.log.records == [("t", ["a"])]
    assert not delivery.done()
    bench.log.deliveries[0].set_result("place")
    assert await delivery == "place"
    bench.add("t", "b")
    await turns()
    assert bench.log.records[1:] == [("t", ["b"])]


async def test_what_one_tenant_is_told_in_one_turn_shares_a_record(bench):
    a, b, c = bench.add("t", "a"), bench.add("u", "b"), bench.add("t", "c")
    await turns()
    assert bench.log.records == [("t", ["a", "c"]), ("u", ["b"])]
    bench.log.deliveries[0].set_result("place")
    await turns()
    assert (a.done(), b.done(), c.done()) == (True, False, True)


async def test_while_a_record_is_on_its_way_the_tenants_next_answers_gather(bench):
    bench.add("t", "a")
    await turns()
    for name in ("b", "c"):
        bench.add("t", name)
        bench.add("u", name)
        await turns()
    assert bench.log.records == [("t", ["a"]), ("u", ["b"])]
    bench.log.deliveries[0].set_result("place")
    await turns()
    assert bench.log.records[2:] == [("t", ["b", "c"])]
    bench.log.deliveries[1].set_exception(TemporaryError("away"))
    await turns()
    assert bench.log.records[3:] == [("u", ["c"])]


async def test_what_is_full_goes_while_another_is_on_its_way(bench):
    bench.add("t", "a")
    await turns()
    for number in range(MAX_TOGETHER + 1):
        bench.add("t", f"a{number}")
        await turns()
    assert [len(names) for _, names in bench.log.records] == [1, MAX_TOGETHER]
    bench.log.deliveries[1].set_result("place")
    await turns()
    assert len(bench.log.records) == 2
    bench.log.deliveries[0].set_result("place")
    await turns()
    assert bench.log.records[2:] == [("t", [f"a{MAX_TOGETHER}"])]


async def test_a_record_is_full_by_its_answers_or_by_its_bytes(bench):
    for number in range(MAX_TOGETHER + 1):
        bench.add("t", f"a{number}")
    reason = "x" * MAX_REASON
    for number in range(MAX_BYTES // MAX_REASON + 1):
        bench.add("u", f"a{number}", reason)
    await turns()
    for delivery in bench.log.deliveries:
        delivery.set_result("place")
    await turns()
    counts = {tenant: [len(names) for one, names in bench.log.records if one == tenant] for tenant in ("t", "u")}
    assert counts["t"] == [MAX_TOGETHER, 1]
    assert (len(counts["u"]), sum(counts["u"])) == (2, MAX_BYTES // MAX_REASON + 1)
    assert counts["u"][0] * MAX_REASON < MAX_BYTES


async def test_whoever_waits_for_a_record_learns_that_it_failed(bench):
    a, b = bench.add("t", "a"), bench.add("u", "b")
    await turns()
    bench.log.deliveries[0].set_exception(TemporaryError("away"))
    bench.log.deliveries[1].cancel()
    await turns()
    assert isinstance(a.exception(), TemporaryError)
    assert b.cancelled()


async def test_what_cannot_be_sent_ends_it_and_is_never_delivered(bench):
    bench.log.error = TemporaryError("away")
    delivery = bench.add("t", "a")
    with pytest.raises(TemporaryError):
        await bench.running
    assert not delivery.done()
