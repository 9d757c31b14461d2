"""Decisions from Slack against a slow log and a history that lags: one deadline, and never a no that is not sure."""

import asyncio
import time
from datetime import timedelta

import pytest
from building import T0, plan, scale, story

from app.core.approval_card import reference_of
from app.core.errors import TemporaryError
from app.core.people import SlackUser, SlackUsers
from app.web.slack_decisions import DECIDE_S, HISTORY_S, LAGS, Click, SlackDecisions

USERS = SlackUsers(
    users=(
        SlackUser(team="T1", user="U1", subject="ann", roles=("approver",)),
        SlackUser(team="T1", user="U2", subject="cy", roles=("approver",)),
        SlackUser(team="T1", user="U3", subject="vic", roles=("viewer",)),
    )
)
STEP = scale(require_approval=True, approval_channel="#ops", approvers=["ann"], escalate_to=["cy"])


@pytest.fixture
def decisions(world):
    parts = world.parts()
    return SlackDecisions(
        parts.log, parts.projection, USERS, lambda: world.now, parts.signing, decide_s=0.3, history_s=0.15
    )


@pytest.fixture
def asked(world):
    """A request that waits and whose message stands at C1, as the log knows it; each test gives it to the history."""
    return story(STEP).prepared(plan(inverse=True)).noticed()


def click(told, user="U1", notice=0):
    approval = told.state.steps[0].approval
    shown = approval.notices[notice]
    return Click("T1", user, shown.channel_id, shown.ts), reference_of(told.state, 0, approval)


def earlier(told, events):
    """The execution as it was after so many of its events."""
    past = type(told)(told.events[0])
    for event in told.events[1:events]:
        past.tell(event)
    return past.state


def test_all_of_it_fits_into_the_three_seconds_of_slack():
    assert HISTORY_S < DECIDE_S <= 2.6


@pytest.mark.parametrize("known", [0, 1, 2], ids=["nothing", "not the request", "not the message"])
async def test_a_history_that_lags_refuses_nobody_and_records_nothing(world, decisions, asked, known):
    if known:
        world.history.executions["e"] = earlier(asked, known)
    answer = await decisions.decide(*click(asked), "approve")
    assert (answer.recorded, answer.refusal, world.log.decisions) == (False, LAGS, [])
    assert answer.told == f"Your decision is NOT recorded: {LAGS}. Please try again, or use the API."
    world.history.executions["e"] = asked.state
    assert (await decisions.decide(*click(asked), "approve")).told is None
    assert world.history.executions["e"].status == "running"


async def test_a_history_that_catches_up_meanwhile_lets_the_click_count(world, decisions, asked):
    deciding = asyncio.ensure_future(decisions.decide(*click(asked), "approve"))
    await asyncio.sleep(0)
    world.history.executions["e"] = asked.state
    assert (await deciding).told is None


async def test_a_reminder_that_the_history_does_not_know_yet_is_no_forgery(world, decisions, asked):
    world.history.executions["e"] = asked.state
    asked.at(301).timer().noticed()
    world.now = T0 + timedelta(seconds=302)
    answer = await decisions.decide(*click(asked, notice=1), "approve")
    assert (answer.refusal, world.log.decisions) == (LAGS, [])
    world.history.executions["e"] = asked.state
    assert (await decisions.decide(*click(asked, notice=1), "approve")).told is None


async def test_who_may_decide_since_the_escalation_is_not_refused_by_a_history_before_it(world, decisions, asked):
    world.history.executions["e"] = asked.state
    early = await decisions.decide(*click(asked, "U2"), "approve")
    assert early.told == "Your decision is recorded and does not count: cy is not among the step's approvers."
    world.now = T0 + timedelta(seconds=451)
    assert (await decisions.decide(*click(asked, "U2"), "approve")).refusal == LAGS
    asked.at(451).timer()
    world.history.executions["e"] = asked.state
    assert (await decisions.decide(*click(asked, "U2"), "approve")).told is None


async def test_what_can_be_told_for_sure_is_refused_and_recorded(world, decisions, asked):
    world.history.executions["e"] = asked.state
    place, reference = click(asked)
    pasted = await decisions.decide(place._replace(ts="9.9"), reference, "approve")
    assert pasted.refusal == "this message is not the one that asked for it"
    other = await decisions.decide(place, reference.model_copy(update={"digest": "0" * 64}), "approve")
    assert other.refusal == "this message is not the one that asked for it"
    old = await decisions.decide(place, reference.model_copy(update={"run": 0}), "approve")
    assert old.refusal == "it was given for an earlier run"
    beyond = await decisions.decide(place, reference.model_copy(update={"step": 7}), "approve")
    assert beyond.refusal == "this message is not the one that asked for it"
    assert [one.refusal for one in world.log.decisions] == [one.refusal for one in (pasted, other, old, beyond)]


async def test_who_may_decide_nothing_is_refused_without_the_history(world, decisions, asked):
    answer = await decisions.decide(*click(asked, "U3"), "approve")
    assert (answer.recorded, answer.refusal) == (True, "vic has not the role approver")
    assert [one.refusal for one in world.log.decisions] == ["vic has not the role approver"]


class NeverTold:
    """A log that takes a decision and never says so."""

    async def publish_decision(self, decision):
        await asyncio.Event().wait()


async def test_one_deadline_over_all_and_what_nobody_knows_is_said_so(world, decisions, asked):
    slow = SlackDecisions(
        NeverTold(), decisions.projection, USERS, decisions.clock, decisions.signing, decide_s=0.3, history_s=0.25
    )
    begun = time.monotonic()
    deciding = asyncio.ensure_future(slow.decide(*click(asked), "approve"))
    await asyncio.sleep(0.2)
    world.history.executions["e"] = asked.state
    answer = await deciding
    assert time.monotonic() - begun < slow.decide_s + slow.history_s
    assert answer.recorded is None
    assert answer.told.startswith("Your decision is NOT confirmed")
    assert "may have been recorded after all" in answer.told


async def test_a_log_that_fails_may_have_it_all_the_same(world, decisions, asked):
    world.history.executions["e"] = asked.state
    world.log.error = TemporaryError("Kafka is away")
    answer = await decisions.decide(*click(asked), "approve")
    assert (answer.recorded, answer.told.startswith("Your decision is NOT confirmed")) == (None, True)


async def test_without_a_key_nothing_is_recorded(world, decisions, asked):
    mute = SlackDecisions(decisions.log, decisions.projection, USERS, decisions.clock, None)
    answer = await mute.decide(*click(asked), "approve")
    assert answer.told.startswith("Your decision is NOT recorded: no signing key is configured.")
