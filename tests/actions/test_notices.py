"""Messages about requests for approval, delivered to the tests' Slack through slack_sdk."""

import asyncio
from datetime import timedelta

import pytest
from building import T0, plan, scale, story
from slack_server import SlackServer
from waiting import until

from app.actions.notices import NoticeSender
from app.clients.slack import SlackClient
from app.core.notice_line import NoticeLine
from app.core.people import SlackUser, SlackUsers

USERS = SlackUsers(users=(SlackUser(team="T1", user="U2", subject="cy"),))

LOST = NoticeLine(lost=True)


def asking(to="#ops", **fields):
    return story(scale(require_approval=True, approval_channel=to, **fields)).prepared(plan(inverse=True))


@pytest.fixture
async def slack():
    async with SlackServer() as server:
        yield server
    assert server.violations == []


@pytest.fixture
async def client(slack):
    client = SlackClient(slack.bot_token, slack.base_url, timeout_s=2.0)
    yield client
    await client.close()


class Desk:
    """A sender, the log it tells, and the story that folds what it is told."""

    def __init__(self, client, told, **options) -> None:
        given = {"users": USERS, "now": lambda: told.now, "pauses_s": (0.0, 0.0)} | options
        self.sender = NoticeSender(client, **given)
        self.story, self.events = told, []

    async def send(self, command=None, line=None, **options):
        async def log(event):
            self.events.append(event)
            self.story.tell(event)

        self.sent = await self.sender.send(command or self.story.notices[0], log, line, **options)
        return self

    @property
    def notice(self):
        return self.story.state.steps[0].requests[-1].notices[0]


async def test_a_request_is_posted_once_and_changed_in_its_place(slack, client):
    desk = Desk(client, asking())
    await desk.send()
    (message,) = slack.posted("#ops")
    assert (desk.notice.state, desk.notice.channel_id, desk.notice.ts) == ("posted", message.channel_id, message.ts)
    assert [block["type"] for block in message.blocks][-2:] == ["actions", "context"]
    desk.story.decided(by="ann")
    await desk.send()
    assert len(slack.posted("#ops")) == 1
    assert (len(message.versions), "actions" in str(message.blocks)) == (2, False)
    assert "✅ approved by ann" in message.text
    assert desk.story.notices == []


async def test_a_reminder_answers_the_request_and_an_escalation_reaches_a_person(slack, client):
    desk = await Desk(client, asking(escalate_to=["cy"])).send()
    (ask,) = slack.posted("#ops")
    desk.story.at(480).timer()
    for command in desk.story.notices:
        await desk.send(command)
    assert [one.thread_ts for one in slack.posted("#ops")] == [None, ask.ts]
    (direct,) = slack.posted("U2")
    assert direct.text.startswith("Nobody has decided yet: ⚡")


async def test_what_slack_refuses_is_told_at_once_and_not_tried_again(slack, client):
    slack.faults.refuse("chat.postMessage", "channel_not_found")
    desk = await Desk(client, asking()).send()
    assert (desk.notice.state, desk.notice.error) == ("failed", "Slack said channel_not_found")
    assert len(slack.calls["chat.postMessage"]) == 1
    assert desk.story.decided(by="ann").status == "running"


async def test_an_outage_is_told_at_once_and_the_request_comes_later(slack, client):
    slack.faults.fail("chat.postMessage", 503, times=2)
    desk = await Desk(client, asking()).send()
    assert [event.error is None for event in desk.events] == [False, True]
    assert (desk.notice.state, len(slack.posted("#ops"))) == ("posted", 1)


async def test_an_outage_that_lasts_leaves_the_request_to_the_api_and_the_reminder(slack, client):
    fault = slack.faults.fail("chat.postMessage", 503)
    desk = await Desk(client, asking()).send()
    assert len(desk.events) == 1
    fault.lift()
    desk.story.at(301).timer()
    await desk.send()
    assert len(slack.posted("#ops")) == 1


async def test_slack_that_is_off_is_told(slack):
    off = SlackClient(None)
    desk = await Desk(off, asking()).send()
    assert desk.notice.error == "Slack is not configured: set RUNBOOKS_SLACK__BOT_TOKEN"


async def test_a_subject_that_nobody_is_mapped_to_is_told(slack, client):
    desk = await Desk(client, asking(to="nobody")).send()
    assert desk.notice.error == "nobody is neither a channel nor somebody in RUNBOOKS_SLACK__USERS_FILE"


async def test_an_answer_that_never_came_is_looked_for_before_it_is_posted_again(slack, client):
    slack.faults.garble("chat.postMessage", times=1, carried_out=True)
    desk = await Desk(client, asking(to="C00000001")).send()
    assert (len(slack.posted("C00000001")), desk.notice.state) == (1, "posted")


async def test_who_takes_over_finds_what_the_worker_before_has_posted(slack, client):
    desk = Desk(client, asking(to="C00000001"))
    post = desk.story.notices[0]
    await desk.send(post)
    lost = Desk(client, asking(to="C00000001"))
    await lost.send(post, LOST)
    assert len(slack.posted("C00000001")) == 1
    assert (lost.notice.state, lost.notice.ts) == ("posted", desk.notice.ts)


async def test_where_the_channel_cannot_be_read_it_is_posted_once_more(slack, client):
    slack.faults.refuse("conversations.history", "missing_scope")
    desk = await Desk(client, asking(to="C00000001")).send(line=LOST)
    assert (desk.notice.state, len(slack.posted("C00000001"))) == ("posted", 1)


async def test_an_answer_that_never_came_is_not_posted_over_where_nobody_can_look(slack, client):
    slack.faults.garble("chat.postMessage", times=1, carried_out=True)
    desk = await Desk(client, asking()).send()
    assert (len(slack.posted("#ops")), desk.notice.state, len(desk.events)) == (1, "unknown", 1)
    assert desk.notice.error == "Slack's answer cannot be read; it may stand in #ops or not, and is not posted twice"
    assert desk.story.decided(by="ann").status == "running"
    (closing,) = desk.story.notices
    await desk.send(closing)
    assert (desk.story.notices, desk.notice.state) == ([], "unknown")


async def test_an_answer_that_never_came_is_unknown_too_where_the_channel_may_not_be_read(slack, client):
    slack.faults.garble("chat.postMessage", times=1, carried_out=True)
    slack.faults.refuse("conversations.history", "missing_scope")
    desk = await Desk(client, asking(to="C00000001")).send()
    assert (len(slack.posted("C00000001")), desk.notice.state) == (1, "unknown")
    assert "it cannot be looked for: Slack said missing_scope" in desk.notice.error


async def test_a_channel_by_name_is_looked_through_once_slack_told_its_id(slack, client):
    desk = await Desk(client, asking()).send()
    slack.faults.garble("chat.postMessage", times=1, carried_out=True)
    desk.story.at(301).timer()
    (remind,) = desk.story.notices
    await desk.send(remind)
    assert len(slack.posted("#ops")) == 2
    assert desk.story.state.steps[0].approval.notices[1].ts == slack.posted("#ops")[1].ts
    assert len(slack.calls["conversations.replies"]) == 1


async def test_direct_messages_are_looked_through_once_slack_told_their_id(slack, client):
    desk = Desk(client, asking(escalate_to=["cy"]), channels={"cy": "D1"})
    slack.dms["U2"] = "D1"
    desk.story.at(480).timer()
    slack.faults.garble("chat.postMessage", times=1, carried_out=True)
    await desk.send(next(one for one in desk.story.notices if one.to == "cy"))
    assert len(slack.posted("U2")) == 1


async def test_nobody_wants_it_any_more(slack, client):
    slack.faults.fail("chat.postMessage", 503)
    answers = iter([True, True, False])
    desk = await Desk(client, asking()).send(wanted=lambda: next(answers))
    assert (len(slack.calls["chat.postMessage"]), desk.sent.over, len(desk.events)) == (2, False, 1)


async def test_a_subject_in_capitals_is_not_taken_for_a_channel(slack, client):
    people = SlackUsers(users=(SlackUser(team="T1", user="U2", subject="GABRIELLE"),))
    desk = Desk(client, asking(escalate_to=["GABRIELLE"]), users=people)
    desk.story.at(480).timer()
    for command in desk.story.notices:
        await desk.send(command)
    assert len(slack.posted("U2")) == 1


async def test_where_no_click_can_reach_us_there_are_no_buttons(slack, client):
    await Desk(client, asking(), clickable=False).send()
    (message,) = slack.posted("#ops")
    assert message.buttons == []
    assert "runbooks approve e," in str(message.blocks)


async def test_a_message_that_is_gone_is_given_up(slack, client):
    desk = await Desk(client, asking()).send()
    slack.faults.refuse("chat.update", "message_not_found")
    desk.story.decided(by="ann")
    await desk.send()
    assert desk.notice.error == "Slack said message_not_found"
    assert desk.story.notices == []


async def test_a_long_wait_that_slack_asks_for_is_kept(slack, client):
    slack.faults.limit("chat.postMessage", retry_after=600, times=None)
    desk = Desk(client, asking())
    sending = asyncio.create_task(desk.send())

    async def told():
        return desk.events

    await until(told)
    assert desk.notice.state == "failed"
    assert not sending.done()
    sending.cancel()
    assert desk.story.now == T0 + timedelta(0)
