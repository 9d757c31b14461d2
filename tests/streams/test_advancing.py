"""The advancing agent over fakes of the table and the log: what it keeps, sends and arms."""

import asyncio
from datetime import timedelta
from types import SimpleNamespace

import pytest
from building import LEASE, T0, Story, requested, scale, slack, story
from executing_fakes import FakeTable
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from waiting import until

from app.clients.opentelemetry_export import exported
from app.core.errors import RecordTooLarge
from app.core.events import Limits, TimerFired, write_event
from app.core.execution import Execution, Marker
from app.core.pauses import Pause, PauseEnded, PausePut
from app.core.pauses import Pauses as Fold
from app.core.spans import sending
from app.streams.advancing import Advancer
from app.streams.figures import Figures, IndexFigures
from app.streams.index import outline_of, row_of, state_of
from app.streams.pausing import Pauses
from app.streams.tracing import FoldTracing


class FakeLog:
    """Keeps what was sent."""

    def __init__(self):
        self.commands, self.letters, self.events = [], [], []
        self.takes_commands = True

    def room(self, topic):
        return 1000

    async def send_event(self, event):
        self.events.append(event)
        return done()

    async def send_command(self, command, sent_by=None):
        self.sent_by = sent_by
        if not self.takes_commands:
            raise RecordTooLarge(command.topic, 2000, 1000)
        self.commands.append(command)
        return done()

    async def send_dead_letter(self, source, error):
        self.letters.append((source, str(error)))
        return done()

    async def publish_event(self, event):
        self.events.append(event)


def done():
    future = asyncio.get_running_loop().create_future()
    future.set_result(None)
    return future


async def fired(bench, count):
    return len(bench.log.events) >= count


class Bench:
    """An advancer and its fakes; ``read`` hands it a record."""

    def __init__(self):
        self.table, self.log = FakeTable(), FakeLog()
        self.now = T0
        self.fold = Fold()
        self.pauses = Pauses(self.fold)
        self.registry = CollectorRegistry()
        figures = Figures(self.registry)
        self.advancer = Advancer(self.table, self.log, None, lambda: self.now, figures, self.pauses)
        self.registry.register(IndexFigures(self.advancer.index, self.advancer.markers, lambda: self.now))
        self.offset = 0

    async def read(self, event, partition=0):
        self.offset += 1
        raw = event if isinstance(event, bytes) else write_event(event)
        message = SimpleNamespace(
            topic="execution-events", partition=partition, offset=self.offset, key=b"default", headers=()
        )
        return await self.advancer._handle(SimpleNamespace(message=message, value=raw))

    def keep(self, execution_id, state, partition=0):
        self.table.put(execution_id, row_of(partition, state), outline_of(partition, state))

    def figure(self, name, **labels):
        return self.registry.get_sample_value(f"runbooks_{name}", labels)

    def state(self, execution_id="e"):
        return self.advancer.index.get(execution_id)


@pytest.fixture
async def bench():
    return Bench()


def named(number, *steps, **fields):
    return requested(*steps, **fields).model_copy(update={"execution_id": f"e{number}"})


async def test_a_command_is_sent_once_however_often_something_happens(bench):
    await bench.read(requested(slack()))
    await bench.read(requested(slack()))
    await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
    assert [command.command_id for command in bench.log.commands] == ["e/1/0/apply/1"]


async def test_three_start_and_the_fourth_when_one_ends(bench):
    for number in range(5):
        await bench.read(named(number, slack()))
    assert [command.execution_id for command in bench.log.commands] == ["e0", "e1", "e2"]
    other = Story(named(1, slack()))
    other.state = bench.state("e1")
    common = {"execution_id": "e1", "run": other.state.run}
    for event in other.does().events[1:]:
        await bench.read(event.model_copy(update=common))
    assert [command.execution_id for command in bench.log.commands] == ["e0", "e1", "e2", "e3"]
    assert bench.advancer.index.queued() == {"default": 4}  # until their first event they all count as queued


async def test_an_unreadable_record_is_put_aside(bench):
    await bench.read(b"{")
    ((source, error),) = bench.log.letters
    assert (source.offset, source.value) == (1, b"{")
    assert "not JSON" in error


async def test_a_command_that_no_topic_takes_is_answered_as_failed(bench):
    bench.log.takes_commands = False
    await bench.read(requested(slack(), slack()))
    (answer,) = bench.log.events
    assert (answer.type, answer.outcome.outcome) == ("step_finished", "failed")
    assert "at most 1000 are taken" in answer.outcome.error.message
    await bench.read(answer)
    assert isinstance(bench.state(), Marker)


async def test_an_execution_whose_state_no_record_can_hold_is_ended_once(bench):
    bench.table.unwritten["e"] = asyncio.get_running_loop().create_future()
    await bench.read(requested(scale(require_approval=True)))
    (stop,) = bench.log.events
    assert (stop.type, stop.by) == ("cancel_requested", "runbooks")
    assert "1000 bytes of a record" in stop.comment
    await bench.read(stop)
    await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
    assert len(bench.log.events) == 1


async def test_an_event_in_anothers_name_changes_nothing(bench):
    await bench.read(requested(slack()))
    before = bench.state()
    await bench.read(TimerFired(tenant="other", execution_id="e", at=T0 + timedelta(days=1)))
    assert bench.state() is before


async def test_an_ended_execution_shrinks_to_a_marker_and_is_dropped_after_its_window(bench):
    s = story(slack()).does()
    for event in s.events:
        await bench.read(event)
    assert "marker" in bench.table["e"]
    bench.now = T0 + timedelta(hours=24.5)
    await bench.read(named(2, slack()))
    assert bench.state() is not None
    bench.now = T0 + timedelta(hours=25.1)
    await bench.read(named(3, slack()))
    assert bench.state() is None
    assert "e" not in bench.table


async def test_recovered_each_live_execution_is_looked_at_and_its_lease_still_runs_out(bench):
    s = story(slack()).started()
    bench.keep("e", s.state)
    bench.advancer.recover({0})
    firing = asyncio.create_task(bench.advancer.timers.run())
    await until(lambda: fired(bench, 1))
    assert bench.log.events == [TimerFired(tenant="default", execution_id="e", at=T0)]
    bench.offset = 10
    await bench.read(bench.log.events[0])
    bench.now = T0 + LEASE
    bench.advancer.timers._changed.set()
    await until(lambda: fired(bench, 2))
    await bench.read(bench.log.events[1])
    assert bench.state().status == "attention"
    firing.cancel()


async def test_recovered_what_was_outstanding_is_sent_again(bench):
    bench.keep("e", story(slack()).state)
    bench.keep("gone", story(slack()).state.now(run=5), partition=1)
    bench.advancer.recover({0})
    await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
    assert [command.command_id for command in bench.log.commands] == ["e/1/0/apply/1"]
    assert len(list(bench.advancer.index.live())) == 1


class TestMessagesOfApprovals:
    GUARDED = scale(require_approval=True, approval_channel="#ops")

    async def asked(self, bench):
        s = story(self.GUARDED, slack()).prepared()
        for event in s.events:
            await bench.read(event)
        return s

    async def test_a_request_is_sent_once_however_often_something_happens(self, bench):
        await self.asked(bench)
        await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
        names = [command.command_id for command in bench.log.commands]
        assert names == ["e/1/0/prepare/1", "e/1/0/notice-1-0/0"]

    async def test_the_step_goes_on_beside_the_change_of_its_message_and_neither_is_sent_twice(self, bench):
        s = await self.asked(bench)
        for event in s.noticed().decided().events[-2:]:
            await bench.read(event)
        await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
        names = [command.command_id for command in bench.log.commands[2:]]
        assert names == ["e/1/0/apply/1", "e/1/0/notice-1-0/2/placed"]

    async def test_recovered_what_is_not_posted_yet_is_asked_for_again(self, bench):
        s = story(self.GUARDED).prepared()
        bench.keep("e", s.state)
        bench.advancer.recover({0})
        await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
        assert [command.command_id for command in bench.log.commands] == ["e/1/0/notice-1-0/0"]

    async def test_the_end_is_sent_to_a_message_whose_place_is_not_known_yet(self, bench):
        s = await self.asked(bench)
        await bench.read(s.cancel().events[-1])
        last = bench.log.commands[-1]
        assert (last.command_id, last.ts, last.card.state) == ("e/1/0/notice-1-0/1", None, "withdrawn")
        assert "marker" in bench.table["e"]

    async def test_the_last_change_is_on_the_broker_before_the_execution_is_forgotten(self, bench):
        s = await self.asked(bench)
        s.noticed()
        await bench.read(s.events[-1])
        acknowledged = asyncio.get_running_loop().create_future()

        async def send_command(command, _sent_by=None):
            bench.log.commands.append(command)
            return acknowledged

        sent = []

        async def send_changes(publisher):
            sent.append({name: bench.table[name] for name in bench.table})
            return []

        bench.log.send_command, bench.table.send_changes = send_command, send_changes
        reading = asyncio.create_task(bench.read(s.decided("reject").events[-1]))

        async def commanded():
            return bench.log.commands[-1].command_id == "e/1/0/notice-1-0/2/placed"

        await until(commanded)
        assert (reading.done(), sent) == (False, [])
        acknowledged.set_result(None)
        await reading
        assert "marker" in sent[0]["e"]


class TestTraces:
    @pytest.fixture
    def told(self, bench):
        memory = InMemorySpanExporter()
        traces = exported("me", lambda: bench.now, to_targets=False, processor=SimpleSpanProcessor(memory))
        bench.advancer.tracing = FoldTracing(traces)
        return memory.get_finished_spans

    async def test_a_command_carries_the_span_that_sends_it(self, bench, told):
        await bench.read(requested(slack()))
        await until(lambda: is_told(told, 2))
        assert bench.log.sent_by == sending(bench.log.commands[0])
        assert [span.name for span in told()] == ["request execution", "send step-commands.slack"]

    async def test_what_changes_nothing_is_not_told(self, bench, told):
        await bench.read(requested(slack()))
        await until(lambda: is_told(told, 2))
        await bench.read(requested(slack()))
        assert len(told()) == 2

    async def test_a_command_that_is_too_large_was_never_sent(self, bench, told):
        bench.log.takes_commands = False
        await bench.read(requested(slack()))
        assert [span.name for span in told()] == ["request execution"]


async def is_told(told, count):
    return len(told()) >= count


def test_rows_round_trip():
    s = story(slack())
    assert state_of(row_of(3, s.state)) == s.state
    marker = s.does().state.marker()
    assert state_of(row_of(3, marker)) == marker
    assert isinstance(state_of(row_of(3, story(slack()).state)), Execution)


GUARDED = {"cooldown_seconds": 60}


async def ends(bench, number, outcome="succeeded"):
    """Let the first step of an execution end it."""
    s = Story(named(number, slack()))
    s.state = bench.state(f"e{number}")
    common = {"execution_id": f"e{number}", "run": s.state.run}
    for event in s.does(outcome, None if outcome == "succeeded" else "x").events[1:]:
        await bench.read(event.model_copy(update=common))


async def test_a_guarded_runbook_is_judged_in_the_log_before_anything_is_sent(bench):
    await bench.read(named(0, slack(), **GUARDED))
    await bench.read(named(1, slack(), **GUARDED))
    assert bench.log.commands == []
    assert [(one.execution_id, one.effect, one.guard) for one in bench.log.events] == [
        ("e0", "start", None),
        ("e1", "skip", "cooldown"),
    ]
    for event in list(bench.log.events):
        await bench.read(event)
    assert [command.execution_id for command in bench.log.commands] == ["e0"]
    assert bench.state("e1").status == "skipped"
    await bench.read(named(0, slack(), **GUARDED))
    assert len(bench.log.events) == 2


async def test_recovered_what_was_not_judged_is_judged_as_before(bench):
    for number in range(3):
        await bench.read(named(number, slack(), **GUARDED))
    said = list(bench.log.events)
    await bench.read(said[0])  # the others' verdicts were lost with the worker
    bench.log.events.clear()
    bench.advancer.recover({0})
    for number in (1, 2):
        await bench.read(TimerFired(tenant="default", execution_id=f"e{number}", at=T0))
    assert [(one.execution_id, one.effect, one.reason) for one in bench.log.events] == [
        (one.execution_id, one.effect, one.reason) for one in said[1:]
    ]


async def test_recovered_the_cooldown_of_what_has_ended_goes_on(bench):
    await bench.read(named(0, slack(), **GUARDED))
    await bench.read(bench.log.events[0])
    await ends(bench, 0)
    before = bench.table["e0"]
    bench.advancer.recover({0})
    bench.log.events.clear()
    await bench.read(named(1, slack(), at=T0 + timedelta(seconds=59), **GUARDED))
    await bench.read(named(2, slack(), at=T0 + timedelta(seconds=60), **GUARDED))
    assert [one.effect for one in bench.log.events] == ["skip", "start"]
    assert bench.table["e0"] == before


async def test_one_target_is_acted_on_by_one_execution_at_a_time_and_others_pass(bench):
    for number, deployment in enumerate(("a", "a", "b")):
        await bench.read(named(number, scale(deployment=deployment)))
    assert [command.execution_id for command in bench.log.commands] == ["e0", "e2"]
    await ends(bench, 0)
    assert [command.execution_id for command in bench.log.commands] == ["e0", "e2", "e1"]


async def test_while_it_is_paused_nothing_begins_and_then_it_goes_on(bench):
    bench.fold.apply(PausePut(pause=Pause(tenant="default", name="p", starts_at=T0, by="ann"), at=T0))
    await bench.read(named(0, slack(), slack()))
    await bench.read(named(1, slack(), dry_run=True))
    assert [command.execution_id for command in bench.log.commands] == ["e1"]
    watching = asyncio.create_task(bench.advancer.watch_pauses())
    firing = asyncio.create_task(bench.advancer.timers.run())
    await asyncio.sleep(0)
    bench.fold.apply(PauseEnded(tenant="default", name="p", by="ann", at=T0))
    bench.pauses.tell()
    await until(lambda: fired(bench, 2))
    for event in list(bench.log.events):
        await bench.read(event)
    assert [command.execution_id for command in bench.log.commands] == ["e1", "e0"]
    for task in (watching, firing):
        task.cancel()
    await asyncio.gather(watching, firing, return_exceptions=True)


async def test_a_window_that_closes_lets_it_go_on(bench):
    end = T0 + timedelta(seconds=0.05)
    bench.fold.apply(PausePut(pause=Pause(tenant="*", name="w", starts_at=T0, ends_at=end, by="ann"), at=T0))
    await bench.read(named(0, slack()))
    watching = asyncio.create_task(bench.advancer.watch_pauses())
    firing = asyncio.create_task(bench.advancer.timers.run())
    await asyncio.sleep(0)
    bench.now = end
    await until(lambda: fired(bench, 1))
    await bench.read(bench.log.events[0])
    assert [command.execution_id for command in bench.log.commands] == ["e0"]
    for task in (watching, firing):
        task.cancel()
    await asyncio.gather(watching, firing, return_exceptions=True)


async def test_a_step_that_comes_while_it_is_paused_waits_and_a_rollback_does_not(bench):
    s = story(scale(), slack(), rollback_on_failure=True).does(inverse=True)
    for event in s.events:
        await bench.read(event)
    sent = len(bench.log.commands)
    bench.fold.apply(PausePut(pause=Pause(tenant="default", name="p", starts_at=T0, by="ann"), at=T0))
    bench.advancer._sent.clear()
    await bench.read(TimerFired(tenant="default", execution_id="e", at=T0))
    assert len(bench.log.commands) == sent
    for event in s.does("failed", "x").events[-2:]:
        await bench.read(event)
    assert bench.log.commands[-1].phase == "rollback"


async def test_those_who_may_start_are_named_once_each_and_again_when_their_state_has_changed(bench):
    for number in range(5):
        await bench.read(named(number, slack(), limits=Limits(max_concurrent_runbooks=100)))
    index = bench.advancer.index
    assert list(index.due(bench.state("e4"))) == []  # a burst costs each event its own work, not that of all slots
    index.put(bench.state("e1"))
    assert [command.execution_id for command in index.due(bench.state("e4"))] == ["e1"]
    index.rebuild(list(index.live()))
    assert [command.execution_id for command in index.due(bench.state("e4"))] == ["e0", "e1", "e2", "e3", "e4"]


async def test_an_unknown_outcome_is_counted_by_why(bench):
    for number, s in enumerate((story(slack()).does("unknown"), story(slack()).started().at(15).timer())):
        name = {"execution_id": f"e{number}"}
        for event in s.events:
            run = {"run": bench.state(f"e{number}").run} if hasattr(event, "run") else {}
            await bench.read(event.model_copy(update=name | run))
        assert bench.state(f"e{number}").status == "attention"
    assert bench.figure("attention_executions", tenant="default") == 2
    assert bench.figure("unknown_outcomes_total", kind="slack", reason="said") == 1
    assert bench.figure("unknown_outcomes_total", kind="slack", reason="lease_ended") == 1


async def test_what_waits_longest_is_known_by_tenant(bench):
    for number in range(4):
        at = T0 + timedelta(seconds=number)
        await bench.read(named(number, scale(deployment="a", require_approval=True), at=at))
    s = story(scale(deployment="a", require_approval=True)).at(5).prepared()
    plan = s.events[-1].model_copy(update={"execution_id": "e0", "run": bench.state("e0").run})
    await bench.read(plan)
    bench.now = T0 + timedelta(seconds=60)
    assert bench.figure("waiting_approvals", tenant="default") == 1
    assert bench.figure("oldest_approval_seconds", tenant="default") == 55
    assert bench.figure("queued_executions", tenant="default") == 3
    assert bench.figure("oldest_queued_seconds", tenant="default") == 59
    assert bench.figure("oldest_queued_seconds", tenant="other") is None
