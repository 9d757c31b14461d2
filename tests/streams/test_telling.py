"""Messages about approvals through the executor: real slack_sdk towards the tests' Slack, the ledger's table faked."""

import asyncio

import pytest
from building import T0, plan, scale, story
from executing_fakes import EventLog, FakeTable, Record, a_member
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from prometheus_client import CollectorRegistry
from slack_server import SlackServer
from waiting import until

from app.actions.notices import ENDED, NoticeSender
from app.actions.runner import Runner
from app.actions.scene import Clients
from app.clients.http import HttpClient
from app.clients.kubernetes import KubernetesClient
from app.clients.network import NetworkPolicy
from app.clients.opentelemetry_export import exported
from app.clients.secrets import Secrets
from app.clients.slack import SlackClient
from app.clients.ssh import SshClient
from app.core.commands import read_command, write_command
from app.core.people import SlackUsers
from app.streams.executing import StepExecutor
from app.streams.figures import Figures
from app.streams.ledger import Ledger
from app.streams.tracing import CommandTracing

LEASE_S = 0.2


class FoldedLog(EventLog):
    """A log whose records are folded at once."""

    def __init__(self, told):
        super().__init__()
        self.story = told

    async def publish_event(self, event):
        await super().publish_event(event)
        self.story.tell(event)


class Office:
    """Workers over one table and one log, and the advancer's part: what falls due is sent once."""

    def __init__(self, slack, told):
        self.slack, self.story = slack, told
        self.now = T0
        self.table, self.log = FakeTable(), FoldedLog(told)
        self.workers, self.sent, self.records = {}, set(), {}
        self.registry = CollectorRegistry()
        self.figures = Figures(self.registry)

    def begin(self, told, run=1):
        """Go on with another request."""
        told.state = told.state.now(run=run)
        self.story = self.log.story = told
        self.records.clear()

    def worker(self, name="me") -> StepExecutor:
        if name not in self.workers:
            client = SlackClient(self.slack.bot_token, self.slack.base_url, timeout_s=5.0)
            clients = Clients(HttpClient(NetworkPolicy()), client, KubernetesClient(), Secrets(), SshClient())
            runner = Runner(clients, name, LEASE_S, 60.0, lambda: self.now, lambda: 100.0)
            ledger = Ledger(self.table, None, name, a_member())
            ledger.recover()
            sender = NoticeSender(client, SlackUsers(), lambda: self.now, pauses_s=(0.0,) * 3, channels=ledger.channels)
            executor = StepExecutor("slack", runner, ledger, self.log, self.figures, concurrency=8, notices=sender)
            executor.on_partitions({0})
            self.workers[name] = executor, clients
        return self.workers[name][0]

    async def take_due(self, name="me"):
        """Hand out what fell due since it was last asked."""
        for command in self.story.notices:
            if command.command_id not in self.sent:
                self.sent.add(command.command_id)
                await self.take(command, name)

    async def take(self, command, name="me") -> Record:
        record = self.records[command.command_id] = Record(write_command(command))
        await self.worker(name)._take(command, record)
        return record

    async def settled(self):
        """Until all that was handed out is acknowledged, and all that fell due by it."""

        async def quiet():
            await self.take_due()
            return all(record.acked for record in self.records.values())

        await until(quiet)

    async def calls(self, method, count):
        async def made():
            return len(self.slack.calls[method]) >= count

        await until(made)

    @property
    def notice(self):
        return self.story.state.steps[0].requests[-1].notices[0]

    def counted(self, result, kind="ask"):
        labels = {"kind": kind, "result": result}
        return self.registry.get_sample_value("runbooks_approval_messages_total", labels) or 0.0

    async def close(self):
        for executor, clients in self.workers.values():
            await executor.stop(5)
            await clients.close()


@pytest.fixture
async def slack():
    async with SlackServer() as server:
        yield server
    assert server.violations == []


@pytest.fixture
async def office(slack):
    office = Office(slack, asking())
    yield office
    slack.faults.lift_all()
    await office.close()


def asking(to="#ops"):
    return story(scale(require_approval=True, approval_channel=to, approvals_required=2)).prepared(plan(inverse=True))


async def held(office, method="chat.postMessage"):
    """The first call of a method that Slack has not answered yet."""
    fault = office.slack.faults.hang(method, times=1)
    await office.take_due()
    await office.calls(method, 1)
    return fault


async def test_a_message_is_posted_once_and_done_before_it_is_acknowledged(office, slack):
    post = office.story.notices[0]
    fault = await held(office)
    assert not office.records[post.command_id].acked
    again = await office.take(post)
    assert not again.acked
    fault.release()

    async def known():
        return office.table[post.command_id].get("done")

    await until(known)
    (message,) = slack.posted("#ops")
    assert office.table[post.command_id]["posted"] == [message.channel_id, message.ts, "#ops"]

    async def acknowledged():
        return again.acked

    await until(acknowledged)
    assert [event.type for event in office.log.events] == ["approval_noticed"]
    assert (await office.take(post, "who comes after")).acked
    assert len(slack.calls["chat.postMessage"]) == 1


async def test_a_vote_whose_record_comes_again_while_the_post_hangs_is_told_after_a_rebalance(office, slack):
    fault = await held(office)
    office.story.decided(by="ann")
    await office.take_due()
    executor = office.worker()
    taken = [read_command(record.value) for record in office.records.values() if not record.acked]
    membership = executor._ledger._membership
    membership.shared_out()
    executor.on_partitions(set())
    membership.heard(0.0)
    executor.on_partitions({0})
    again = [await office.take(command) for command in taken]
    fault.release()

    async def all_acknowledged():
        return all(record.acked for record in again)

    await until(all_acknowledged)
    (message,) = slack.posted("#ops")
    assert "Approved 1 of 2" in str(message.blocks)


async def test_nothing_is_posted_before_the_claim_is_on_the_broker(office, slack):
    office.table.broker.clear()
    await office.take_due()
    await asyncio.sleep(0)
    assert slack.calls["chat.postMessage"] == []
    office.table.broker.set()
    await office.settled()
    assert len(slack.posted("#ops")) == 1


async def test_a_vote_while_the_post_is_on_its_way_changes_the_one_message(office, slack):
    fault = await held(office)
    office.story.decided(by="ann")
    await office.take_due()
    fault.release()
    await office.settled()
    (message,) = slack.posted("#ops")
    assert "Approved 1 of 2" in message.text
    assert (office.notice.ts, office.notice.shown) == (message.ts, 1)
    assert len(message.buttons) == 2


ENDS = {
    "cancelled": lambda s: s.cancel(by="bob"),
    "expired": lambda s: s.at(601).timer(),
    "rejected": lambda s: s.decided("reject", by="ann"),
    "approved": lambda s: s.decided(by="ann").decided(by="cy"),
}


@pytest.mark.parametrize("end", ENDS)
async def test_a_post_that_is_on_its_way_when_the_request_ends_loses_its_buttons(office, slack, end):
    fault = await held(office)
    ENDS[end](office.story)
    office.now = office.story.now
    await office.take_due()
    fault.release()
    await office.settled()
    (message,) = slack.posted("#ops")
    assert message.buttons == []
    assert office.story.state.steps[0].approval.ended in message.text
    assert office.story.notices == [] or office.story.state.terminal


@pytest.mark.parametrize("end", ENDS)
async def test_what_ended_before_it_was_posted_is_not_asked(office, slack, end):
    office.table.broker.clear()
    await office.take_due()
    ENDS[end](office.story)
    await office.take_due()
    office.table.broker.set()
    await office.settled()
    assert slack.posted("#ops") == []
    assert [event.error for event in office.log.events] == [ENDED]
    assert (office.counted("superseded"), office.counted("dropped")) == (1.0, 1.0)
    assert all(row["done"] for row in office.table.values())


async def test_what_ended_while_slack_was_away_is_not_tried_any_more(office, slack):
    fault = slack.faults.hang("chat.postMessage", times=1, status=503)
    await office.take_due()
    await office.calls("chat.postMessage", 1)
    office.story.cancel()
    await office.take_due()
    fault.release()
    await office.settled()
    assert len(slack.calls["chat.postMessage"]) == 1


async def test_a_later_change_never_lands_before_an_earlier_one(office, slack):
    await office.take_due()
    await office.settled()
    office.story.decided(by="ann")
    fault = await held(office, "chat.update")
    office.story.decided("reject", by="cy")
    await office.take_due()
    await asyncio.sleep(0)
    assert len(slack.calls["chat.update"]) == 1
    fault.release()
    await office.settled()
    (message,) = slack.posted("#ops")
    assert "❌ rejected by cy" in message.text
    assert len(message.versions) == 3


async def lose_a_worker_that_posted(office, posts=1):
    """A worker whose post Slack took and did not answer, killed; what it took is to be handed out again."""
    office.slack.faults.hang("chat.postMessage", times=1, carried_out=True)
    await office.take_due("lost")
    await office.calls("chat.postMessage", posts)
    await office.worker("lost").stop(0)
    office.slack.faults.lift_all()
    office.records.clear()
    office.sent.clear()


async def test_who_takes_over_looks_for_what_was_posted_and_brings_it_up_to_date(office, slack):
    office.begin(asking("C00000001"))
    await lose_a_worker_that_posted(office)
    post = office.story.notices[0]
    office.story.decided("reject", by="ann")
    await office.take(post)
    await office.settled()
    (message,) = slack.posted("C00000001")
    assert message.buttons == []


async def test_a_channel_given_by_name_is_looked_through_once_the_ledger_knows_its_id(office, slack):
    await office.take_due("lost")
    await office.settled()
    office.begin(asking(), run=2)
    await lose_a_worker_that_posted(office, posts=2)
    await office.settled()
    assert office.notice.ts == slack.posted("#ops")[-1].ts
    assert len(slack.posted("#ops")) == 2


async def test_where_nobody_can_look_it_is_posted_once_more(office, slack):
    await lose_a_worker_that_posted(office)
    await office.settled()
    assert (len(slack.posted("#ops")), office.notice.state) == (2, "posted")


async def test_what_another_worker_posted_late_is_closed_when_the_log_tells_of_it(office, slack):
    post = office.story.notices[0]
    office.story.decided(by="ann").decided(by="cy")
    await office.settled()
    client = SlackClient(slack.bot_token, slack.base_url)
    late = await client.post_message("#ops", "late")
    await client.close()
    office.story.noticed(post, channel_id=late.channel_id, ts=late.ts)
    await office.settled()
    assert "✅ approved by ann, cy" in slack.posted("#ops")[0].text


async def test_a_lost_partition_ends_the_trying_and_its_record_stays(office, slack):
    post = office.story.notices[0]
    fault = slack.faults.hang("chat.postMessage", times=1, status=503)
    await office.take_due()
    await office.calls("chat.postMessage", 1)
    office.worker().on_partitions({1})
    fault.release()

    async def given_up():
        return office.worker().in_flight() == 0

    await until(given_up)
    assert (office.records[post.command_id].acked, len(slack.calls["chat.postMessage"])) == (False, 1)
    office.worker().on_partitions({0})
    await office.take(post)
    await office.settled()
    assert (len(slack.posted("#ops")), office.notice.state) == (1, "posted")


async def test_a_message_is_told_of_as_a_span(office):
    memory = InMemorySpanExporter()
    traces = exported("me", lambda: T0, to_targets=False, processor=SimpleSpanProcessor(memory))
    office.worker("me").tracing = CommandTracing(traces)
    await office.take_due()

    async def told():
        return memory.get_finished_spans()

    (span,) = await until(told)
    assert (span.name, span.attributes["runbooks.result"]) == ("slack approval message", "posted")
