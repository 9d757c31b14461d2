"""The executors over a fake table and log, with the real runner towards a real HTTP server."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import orjson
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from building import T0, http, scale, slack, story
from executing_fakes import EventLog, FakeTable, Record, a_member
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from waiting import until

from app.actions.runner import Runner
from app.actions.scene import Clients
from app.clients.http import HttpClient
from app.clients.kubernetes import KubernetesClient
from app.clients.network import NetworkPolicy
from app.clients.opentelemetry_export import exported
from app.clients.secrets import Secrets
from app.clients.slack import SlackClient
from app.clients.ssh import SshClient
from app.core.commands import MetricCommand, write_command
from app.core.runbook import MetricCheck
from app.core.spans import carried_out, sending
from app.streams import commanding
from app.streams.app import Executors
from app.streams.executing import StepExecutor
from app.streams.figures import Figures
from app.streams.ledger import LEDGER_KEPT, Entry, Ledger, Posted, outline_of_claim
from app.streams.log import headers_of
from app.streams.membership import Membership
from app.streams.tracing import CommandTracing


class Bench:
    """An executor, and a target that answers when it may."""

    def __init__(self, url):
        self.url, self.now, self.monotonic = url, T0, 100.0
        self.table, self.log = FakeTable(), EventLog()
        self.answer = asyncio.Event()
        self.calls = []
        self.opened = []
        self.memberships = {}
        self.executor = self.worker("me")

    def worker(self, incarnation):
        clients = Clients(
            HttpClient(NetworkPolicy(allow_loopback=True)),
            SlackClient(None),
            KubernetesClient(),
            Secrets(),
            SshClient(),
        )
        self.opened.append(clients)
        runner = Runner(clients, incarnation, 0.2, 60.0, lambda: self.now, lambda: self.monotonic)
        membership = Membership(10, lambda: self.monotonic)
        membership.heard(self.monotonic)
        membership.on_shared_out.append(lambda: executor.on_partitions(set()))
        self.memberships[incarnation] = membership
        ledger = Ledger(self.table, None, incarnation, membership)
        figures = Figures(CollectorRegistry())
        executor = StepExecutor("http", runner, ledger, self.log, figures, concurrency=4)
        executor.on_partitions({0})
        return executor

    def command(self, **fields):
        return story(http(url=self.url, **fields)).command

    async def take(self, command, executor=None, partition=0):
        record = Record(write_command(command), partition)
        await (executor or self.executor)._take(command, record)
        return record


@pytest.fixture
async def bench():
    async def post(request):
        held.calls.append(request.headers["Idempotency-Key"])
        await held.answer.wait()
        return web.json_response({"ok": True})

    application = web.Application()
    application.router.add_route("*", "/", post)
    async with TestServer(application) as server:
        held = Bench(str(server.make_url("/")))
        yield held
        held.answer.set()
        await held.executor.stop(5)
        for clients in held.opened:
            await clients.close()


async def is_true(condition):
    return condition()


async def test_started_is_told_before_the_call_and_the_record_acknowledged_after_the_end(bench):
    record = await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    assert bench.log.told == ["started"]
    assert not record.acked
    bench.answer.set()
    await until(lambda: is_true(lambda: record.acked))
    assert bench.log.told == ["started", "finished"]
    assert bench.log.events[1].outcome.outcome == "succeeded"
    assert bench.calls == ["e/1/0/apply/1"]


async def test_nothing_acts_before_the_claim_is_on_the_broker(bench):
    bench.table.broker.clear()
    await bench.take(bench.command())
    await asyncio.sleep(0)
    assert (bench.log.told, bench.calls) == ([], [])
    bench.table.broker.set()
    await until(lambda: is_true(lambda: bench.calls))


async def test_a_command_that_comes_again_is_begun_once(bench):
    command = bench.command()
    await bench.take(command)
    again = await bench.take(command)
    assert not again.acked  # whoever is next would know nothing of it
    bench.answer.set()
    await until(lambda: is_true(lambda: again.acked))
    assert bench.log.told == ["started", "finished"]
    assert (await bench.take(command)).acked
    assert len(bench.calls) == 1


async def test_another_worker_waits_for_the_claim_to_run_out_and_says_interrupted(bench):
    command = bench.command()
    await bench.take(command)
    await until(lambda: is_true(lambda: bench.calls))
    other = bench.worker("other")
    record = await bench.take(command, other)
    await until(lambda: is_true(lambda: record.acked))
    assert bench.log.told == ["started", "interrupted"]
    assert len(bench.calls) == 1
    await other.stop(0)


async def test_what_another_worker_has_done_is_only_acknowledged(bench):
    command = bench.command()
    bench.answer.set()
    first = await bench.take(command)
    await until(lambda: is_true(lambda: first.acked))
    other = bench.worker("other")
    assert (await bench.take(command, other)).acked
    assert (bench.log.told, other.in_flight()) == (["started", "finished"], 0)


async def test_done_is_on_the_broker_before_the_record_is_acknowledged(bench):
    record = await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    bench.table.broker.clear()
    bench.answer.set()
    await until(lambda: is_true(lambda: bench.table["e/1/0/apply/1"].get("done")))
    assert (bench.log.told, record.acked) == (["started", "finished"], False)
    bench.table.broker.set()
    await until(lambda: is_true(lambda: record.acked))


async def test_done_is_written_however_long_it_takes(bench):
    record = await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    bench.table.refusals = 1
    bench.answer.set()
    await until(lambda: is_true(lambda: record.acked))
    assert bench.table["e/1/0/apply/1"]["done"]


async def test_what_was_claimed_before_the_partition_came_back_is_answered_for(bench):
    bench.table.broker.clear()
    command = bench.command()
    record = await bench.take(command)
    bench.memberships["me"].shared_out()
    bench.executor.on_partitions({0})
    bench.table.broker.set()
    await until(lambda: is_true(lambda: record.acked))
    again = await bench.take(command)
    assert again.acked
    assert (bench.log.told, bench.calls) == (["interrupted"], [])


async def test_cut_off_it_begins_nothing_before_it_hears_that_it_still_is_a_member(bench):
    bench.monotonic += 10  # since the last heartbeat
    await bench.take(bench.command())
    await until(lambda: is_true(lambda: len(bench.table) == 1))
    await asyncio.sleep(0.2)
    assert (bench.log.told, bench.calls) == ([], [])
    bench.memberships["me"].heard(bench.monotonic)
    await until(lambda: is_true(lambda: bench.calls))


async def test_cut_off_and_replaced_it_begins_nothing_and_says_nothing(bench):
    bench.monotonic += 10
    record = await bench.take(bench.command())
    bench.memberships["me"].shared_out()  # what the heartbeat brings about that says: you are nobody's member
    bench.executor.on_partitions({1})
    await until(lambda: is_true(lambda: not bench.executor.in_flight()))
    assert (bench.log.told, bench.calls) == ([], [])
    bench.memberships["me"].heard(bench.monotonic)
    ignored = await bench.take(bench.command())
    assert (ignored.acked, bench.executor.in_flight()) == (False, 0)
    assert record.acked  # which nobody hears: the partition is not this worker's


class TestWaitingForRoom:
    """The partition goes while a command waits for others to end, and comes back or not."""

    @pytest.fixture
    async def waiting(self, bench):
        """The command, its record, and the task that takes it; all room is taken by four others."""
        bench.calls_of = lambda run: [call for call in bench.calls if f"/{run}/" in call]
        for run in range(1, 5):
            await bench.take(bench.command().model_copy(update={"run": run, "command_id": f"e/{run}/0/apply/1"}))
        await until(lambda: is_true(lambda: len(bench.calls) == 4))
        command = bench.command().model_copy(update={"run": 9, "command_id": "e/9/0/apply/1"})
        record = Record(write_command(command))
        taking = asyncio.create_task(bench.executor._take(command, record))
        await until(lambda: is_true(lambda: bench.executor._room._waiters))
        bench.memberships["me"].shared_out()
        yield command, record, taking
        await taking

    def comes_back(self, bench, **row):
        bench.table.put("e/9/0/apply/1", orjson.dumps(row), outline_of_claim(row))
        bench.executor.on_partitions({0})
        bench.memberships["me"].heard(bench.monotonic)
        bench.answer.set()

    async def test_what_another_worker_did_meanwhile_is_not_done_again(self, bench, waiting):
        _, record, taking = waiting
        self.comes_back(bench, partition=0, incarnation="other", at=T0.isoformat(), done=True)
        await taking
        await until(lambda: is_true(lambda: not bench.executor.in_flight()))
        assert (record.acked, bench.calls_of(9)) == (True, [])
        assert not [event for event in bench.log.events if event.run == 9]

    async def test_what_another_worker_took_meanwhile_is_answered_for(self, bench, waiting):
        _, record, taking = waiting
        self.comes_back(bench, partition=0, incarnation="other", at=T0.isoformat())
        await taking
        await until(lambda: is_true(lambda: record.acked))
        assert [event.type for event in bench.log.events if event.run == 9] == ["step_interrupted"]
        assert bench.calls_of(9) == []

    async def test_of_a_partition_that_is_gone_nothing_is_begun_and_its_room_is_free(self, bench, waiting):
        _, record, taking = waiting
        bench.executor.on_partitions({1})
        bench.answer.set()
        await taking
        await until(lambda: is_true(lambda: not bench.executor.in_flight()))
        assert (record.acked, bench.calls_of(9), bench.executor._room._value) == (False, [], 4)


async def test_a_revoked_command_is_never_begun(bench):
    command = bench.command()
    revoked = command.model_copy(update={"revoked": True})
    await bench.take(revoked)
    await until(lambda: is_true(lambda: bench.log.told == ["interrupted"]))
    await bench.take(command)
    assert bench.calls == []


async def test_revoked_while_its_claim_is_on_the_way_it_is_not_begun(bench):
    bench.table.broker.clear()
    command = bench.command()
    await bench.take(command)
    await bench.take(command.model_copy(update={"revoked": True}))
    bench.table.broker.set()
    await until(lambda: is_true(lambda: bench.log.told))
    assert (bench.log.told, bench.calls) == (["interrupted"], [])


async def test_what_is_claimed_on_a_lost_partition_is_not_begun(bench):
    bench.table.broker.clear()
    await bench.take(bench.command())
    bench.executor.on_partitions({1, 2})
    bench.table.broker.set()
    await until(lambda: is_true(lambda: not bench.executor.in_flight()))
    assert (bench.log.told, bench.calls) == ([], [])


async def test_a_claim_that_has_run_out_is_not_acted_on(bench):
    bench.table.broker.clear()
    await bench.take(bench.command())
    bench.monotonic += 1.0
    bench.table.broker.set()
    await until(lambda: is_true(lambda: bench.log.told))
    assert (bench.log.told, bench.calls) == (["interrupted"], [])


async def test_a_start_that_the_broker_took_late_is_followed_by_a_sign_of_life_at_once(bench):
    """The step runs out of its lease otherwise, and is told as unknown."""
    publish = bench.log.publish_event
    bench.executor._runner = replace(bench.executor._runner, lease_s=100.0, heartbeat_s=60.0)

    async def late(event):
        if event.type == "step_started":
            bench.monotonic += 90
        await publish(event)

    bench.log.publish_event = late
    await bench.take(bench.command())
    await until(lambda: is_true(lambda: "heartbeat" in bench.log.told))
    assert bench.log.told[:2] == ["started", "heartbeat"]


async def test_the_log_is_told_however_long_it_takes(bench):
    bench.answer.set()
    bench.log.refusals = 1
    record = await bench.take(bench.command())
    await until(lambda: is_true(lambda: record.acked))
    assert bench.log.told == ["started", "finished"]


async def test_stopped_while_it_acts_the_outcome_is_unknown(bench):
    await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    await bench.executor.stop(0)
    assert bench.log.told == ["started", "finished"]
    assert bench.log.events[1].outcome.outcome == "unknown"


async def test_stopping_nothing_more_begins(bench):
    bench.table.broker.clear()
    record = await bench.take(bench.command())
    stopping = asyncio.create_task(bench.executor.stop(5))
    await asyncio.sleep(0)
    bench.table.broker.set()
    await stopping
    assert (bench.log.told, bench.calls, record.acked) == (["interrupted"], [], True)


async def test_all_kinds_of_a_worker_stop_at_once(bench):
    other = bench.worker("other kind")
    await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    stopping = asyncio.create_task(Executors((bench.executor, other), other._ledger).stop(5))
    await until(lambda: is_true(lambda: other._stopping))
    late = await bench.take(bench.command().model_copy(update={"run": 2, "command_id": "e/2/0/apply/1"}), other)
    assert (late.acked, other.in_flight(), stopping.done()) == (False, 0, False)
    bench.answer.set()
    await stopping


async def test_stopping_ends_though_nobody_takes_the_last_words(bench, monkeypatch):
    monkeypatch.setattr(commanding, "LAST_WORDS_S", 0.2)
    await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    bench.log.refusals = 10**6
    async with asyncio.timeout(20):
        await bench.executor.stop(0)
    assert (bench.executor.in_flight(), bench.log.told) == (0, ["started"])


async def test_what_cannot_even_be_looked_at_ends_as_failed(bench):
    bench.executor._runner.clients.secrets.check = broken
    record = await bench.take(bench.command())
    await until(lambda: is_true(lambda: record.acked))
    (finished,) = bench.log.events
    said = "planning the step broke: RuntimeError: out of order"
    assert (finished.outcome.outcome, finished.outcome.error.message) == ("failed", said)


def broken(*_):
    raise RuntimeError("out of order")


async def test_once_its_partition_is_gone_it_does_not_answer_for_what_another_worker_took(bench):
    command = bench.command()
    await bench.take(command)
    await until(lambda: is_true(lambda: bench.calls))
    other = bench.worker("other")
    record = await bench.take(command, other)
    other.on_partitions({1})
    await until(lambda: is_true(lambda: not other.in_flight()))
    assert (record.acked, bench.log.told) == (False, ["started"])


async def test_a_record_that_comes_again_is_not_acknowledged_for_what_was_given_up(bench):
    bench.monotonic += 10  # it waits to hear that it is a member
    command = bench.command()
    await bench.take(command)
    again = await bench.take(command)
    bench.memberships["me"].shared_out()
    bench.executor.on_partitions({1})
    await until(lambda: is_true(lambda: not bench.executor.in_flight()))
    assert bench.log.told == []
    bench.executor.on_partitions({0})
    once_more = await bench.take(command)
    await until(lambda: is_true(lambda: once_more.acked))
    assert (bench.log.told, bench.calls) == (["interrupted"], [])
    assert again is not once_more


async def test_a_record_that_comes_in_the_very_turn_that_its_command_is_settled_in_is_acknowledged(bench):
    command = bench.command()
    again = Record(write_command(command))

    class First(Record):
        def ack(self):
            super().ack()
            taking.append(asyncio.create_task(bench.executor._take(command, again)))  # the agent goes on in this turn

    taking = []
    await bench.executor._take(command, First(write_command(command)))
    await until(lambda: is_true(lambda: bench.calls))
    bench.answer.set()
    await until(lambda: is_true(lambda: again.acked))
    assert (bench.log.told, len(taking)) == (["started", "finished"], 1)


async def test_what_comes_once_it_stops_is_left_to_whoever_is_next(bench):
    await bench.take(bench.command())
    await until(lambda: is_true(lambda: bench.calls))
    stopping = asyncio.create_task(bench.executor.stop(5))
    await asyncio.sleep(0)
    late = bench.command().model_copy(update={"run": 2, "command_id": "e/2/0/apply/1"})
    record = await bench.take(late)
    assert (record.acked, bench.executor.in_flight(), "e/2/0/apply/1" in bench.table) == (False, 1, False)
    bench.answer.set()
    await stopping
    assert bench.log.told == ["started", "finished"]
    other = bench.worker("other")
    await bench.take(late, other)
    await until(lambda: is_true(lambda: bench.log.told == ["started", "finished"] * 2))
    await other.stop(5)


async def test_no_answer_in_time_is_an_unknown_outcome(bench):
    await bench.take(bench.command(timeout_seconds=0.05))
    await until(lambda: is_true(lambda: "finished" in bench.log.told))
    assert bench.log.events[1].outcome.outcome == "unknown"


@pytest.mark.parametrize(
    ("step", "told", "said"),
    [
        (slack(), ["finished"], "Slack is not configured"),
        (scale(), ["finished"], "Kubernetes is not configured"),
        (slack(when="false"), ["skipped"], None),
        (slack(when="nope > 1"), ["finished"], "when `nope > 1`"),
        (slack(message="{{ nope }}"), ["finished"], "message: 'nope' is undefined"),
        (scale(replicas="{{ 'x' }}"), ["finished"], "replicas after rendering"),
        (http(headers={"A": "$MISSING"}, url="https://x.example"), ["finished"], "the secret $MISSING is missing"),
    ],
)
async def test_what_cannot_be_planned_ends_before_it_starts(bench, step, told, said):
    await bench.take(story(step).command)
    await until(lambda: is_true(lambda: bench.log.told))
    assert bench.log.told == told
    if said is not None:
        assert said in bench.log.events[0].outcome.error.message
        assert bench.log.events[0].outcome.outcome == "failed"


async def test_a_dry_run_plans_and_does_not_call(bench):
    s = story(http(url=bench.url), http(url=bench.url, body={"x": "{{ steps[0].output.body.id }}"}), dry_run=True)
    await bench.take(s.command)
    await until(lambda: is_true(lambda: bench.log.told == ["prepared"]))
    await bench.take(s.prepared().command)
    await until(lambda: is_true(lambda: bench.log.told == ["prepared"] * 2))
    assert bench.log.events[1].plan.params["body"] == {"x": "<<steps[0].output.body.id: known after it runs>>"}
    assert bench.calls == []


async def test_a_dry_run_says_when_a_number_is_not_known_yet(bench):
    s = story(slack(), scale(replicas="{{ steps[0].output.count }}"), dry_run=True).prepared()
    await bench.take(s.command)
    await until(lambda: is_true(lambda: bench.log.told == ["prepared"]))
    assert "depends on what earlier steps give back" in bench.log.events[0].plan.summary


async def test_another_plan_than_the_approved_one_is_announced_and_not_applied(bench):
    command = bench.command().model_copy(update={"expected_digest": "another"})
    await bench.take(command)
    await until(lambda: is_true(lambda: bench.log.told))
    assert (bench.log.told, bench.calls) == (["prepared"], [])


async def test_the_ledger_forgets_what_cannot_come_again():
    table = FakeTable()
    ledger = Ledger(table, None, "me", a_member())
    await ledger.claim("old", 0, T0)
    await ledger.claim("elsewhere", 1, T0)
    await ledger.claim("new", 0, T0 + timedelta(seconds=1))
    recovered = Ledger(table, None, "other", a_member())
    recovered.recover()
    await recovered.claim("newest", 0, T0 + LEDGER_KEPT + timedelta(seconds=0.5))
    assert sorted(table) == ["elsewhere", "new", "newest"]
    assert recovered.find("new") == Entry("me", T0 + timedelta(seconds=1))  # as rows were before they could be done
    assert recovered.find("old") is None


async def test_the_ledger_knows_where_messages_were_posted():
    table = FakeTable()
    ledger = Ledger(table, None, "me", a_member())
    await ledger.claim("a", 0, T0)
    await ledger.finish("a", Posted("C1", "1.5", "#ops"))
    await ledger.finish("gone with its partition")
    recovered = Ledger(table, None, "other", a_member())
    recovered.recover()
    assert recovered.find("a") == Entry("me", T0, done=True, posted=Posted("C1", "1.5", "#ops"))
    assert (recovered.channels, list(table)) == ({"#ops": "C1"}, ["a"])


async def test_a_command_of_another_kind_is_passed_over(bench):
    record = Record(write_command(METRIC))

    async def records():
        yield record

    await bench.executor.run(records(), None)
    assert record.acked


METRIC = MetricCommand(
    command_id="m",
    tenant="default",
    execution_id="e",
    run=1,
    attempt=1,
    check=MetricCheck(metric_name="cpu", check_after_minutes=1, rollback_if_value_exceeds=90),
    service_id="s",
)


class TestTraces:
    """What is told of a command, and of the call that it makes."""

    @pytest.fixture
    def told(self, bench):
        memory = InMemorySpanExporter()
        traces = exported("me", lambda: T0, to_targets=False, processor=SimpleSpanProcessor(memory))
        bench.executor.tracing = CommandTracing(traces)
        return memory.get_finished_spans

    async def test_a_call_hangs_from_its_command(self, bench, told):
        command = bench.command()
        record = Record(write_command(command))
        record.message.headers = headers_of(sending(command))
        bench.answer.set()
        await bench.executor._take(command, record)
        await until(lambda: is_true(lambda: len(told()) == 2))
        call, attempt = told()
        assert (call.name, attempt.name) == ("POST", "http POST")
        assert call.parent.span_id == attempt.context.span_id
        assert (attempt.parent.trace_id, attempt.parent.span_id) == sending(command)[:2]
        assert (attempt.attributes["runbooks.result"], call.attributes["server.address"]) == ("succeeded", "127.0.0.1")

    async def test_what_its_first_worker_never_told_is_told_as_interrupted_by_the_next(self, bench, told):
        command = bench.command()
        other = bench.worker("other")
        await other._ledger.claim(command.command_id, 0, bench.now - timedelta(seconds=1))
        record = Record(write_command(command))
        record.message.headers = []
        await bench.executor._take(command, record)
        await until(lambda: is_true(told))
        (span,) = told()
        assert span.attributes["runbooks.result"] == "interrupted"
        assert span.context.span_id == carried_out(command, interrupted=True).span_id
