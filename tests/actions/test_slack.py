from dataclasses import replace

import pytest

from app.actions.slack import SlackAction
from app.clients.slack import SlackClient
from app.core.errors import PermanentError
from app.core.steps import SlackStep

ACTION = SlackAction()


def step(message: str) -> SlackStep:
    return SlackStep(type="slack", channel="#alerts", message=message)


async def test_the_plan_shows_what_is_posted_where(scene, stand_ins):
    plan = await ACTION.prepare(step("Scaling payment-api"), scene)
    assert plan.summary == 'Post to #alerts: "Scaling payment-api"'
    assert plan.params == {"channel": "#alerts", "message": "Scaling payment-api"}
    assert (plan.inverse, plan.manual_reason) == (None, "a message that was read cannot be taken back")
    assert stand_ins.messages == []


async def test_a_long_message_is_shortened_for_people_and_whole_in_the_plan(scene):
    long = await ACTION.prepare(step("a" * 500), scene)
    longer = await ACTION.prepare(step("a" * 501), scene)
    assert long.summary == f'Post to #alerts: "{"a" * 119}…"'
    assert long.params["message"] == "a" * 500
    assert long.summary == longer.summary
    assert long.digest != longer.digest


async def test_the_same_step_gives_the_same_digest(scene):
    first, again = [await ACTION.prepare(step("hello"), scene) for _ in range(2)]
    assert first == again


async def test_a_message_is_posted_and_its_place_kept(scene, stand_ins):
    one = step("hello")
    outcome = await ACTION.apply(one, await ACTION.prepare(one, scene), scene)
    assert (outcome.outcome, outcome.output) == (
        "succeeded",
        {"channel": "C0DEMO", "ts": "1.000100", "thread_ts": None, "posted_to": "#alerts"},
    )
    assert [message["text"] for message in stand_ins.messages] == ["hello"]


async def test_an_executions_messages_to_a_channel_are_one_thread(scene, stand_ins):
    def view(kind, output):
        return {"type": kind, "output": output}

    first = {"posted_to": "#alerts", "ts": "7.1"}
    earlier = (
        view("slack", None),
        view("http", {"posted_to": "#alerts", "ts": "0.1"}),
        view("slack", {"posted_to": "#other", "ts": "6.1"}),
        view("slack", first),
        view("slack", {"posted_to": "#alerts", "ts": "8.1"}),
    )
    one = step("hello")
    outcome = await ACTION.apply(one, await ACTION.prepare(one, scene), replace(scene, earlier=earlier))
    assert outcome.output["thread_ts"] == "7.1"
    assert stand_ins.messages[0]["thread_ts"] == "7.1"


async def test_what_came_with_the_event_mentions_nobody_and_names_no_secret(scene, stand_ins):
    one = step("<!channel> & $PAGERDUTY_API_TOKEN")
    await ACTION.apply(one, await ACTION.prepare(one, scene), scene)
    assert stand_ins.messages[0]["text"] == "&lt;!channel&gt; &amp; $PAGERDUTY_API_TOKEN"


async def test_a_message_that_slack_would_cut_off_is_found_out_when_planning(scene):
    assert (await ACTION.prepare(step("&" * 8_000), scene)).params["message"] == "&" * 8_000
    with pytest.raises(PermanentError, match="has 40005 characters once it is escaped, and Slack takes 40000"):
        await ACTION.prepare(step("&" * 8_001), scene)


async def test_slack_that_is_off_is_found_out_when_planning(with_client):
    with pytest.raises(PermanentError, match="RUNBOOKS_SLACK__BOT_TOKEN"):
        await ACTION.prepare(step("hello"), with_client(slack=SlackClient(None)))
