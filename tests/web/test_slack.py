"""Approvals in Slack: real Bolt over signed HTTP and Socket Mode, against the tests' Slack."""

import asyncio
from datetime import timedelta

import pytest
from building import T0, plan, scale, slack, story
from slack_people import Forgery
from slack_server import SlackServer
from waiting import until

from app.actions.approval_message import APPROVE, REASON_BLOCK, REASON_INPUT, REJECT
from app.actions.notices import NoticeSender
from app.clients.slack import SlackClient
from app.core.errors import TemporaryError
from app.core.people import SlackUser, SlackUsers
from app.web.parts import SlackRules

USERS = SlackUsers(
    users=(
        SlackUser(team="T1", user="U1", subject="ann", roles=("approver",), groups=("sre",)),
        SlackUser(team="T1", user="U2", subject="bob", roles=("admin",)),
        SlackUser(team="T1", user="U3", subject="vic", roles=("viewer",)),
        SlackUser(team="T1", user="U4", subject="far", roles=("approver",), tenants=("other",)),
        *(
            SlackUser(team="T1", user=f"U1{number:02}", subject=f"s{number}", roles=("approver",))
            for number in range(50)
        ),
    )
)


@pytest.fixture(params=["http", "socket"])
def mode(request):
    return request.param


@pytest.fixture
async def server():
    async with SlackServer() as server:
        yield server
    assert server.violations == []


class Desk:
    """An API with Slack's side, and executions whose requests were posted there."""

    def __init__(self, world, server, web) -> None:
        self.world, self.server, self.web = world, server, web

    async def ask(self, *, by=None, name="e", **fields):
        """A request that waits, its message posted to #ops and known to the history."""
        told = story(scale(require_approval=True, approval_channel="#ops", **fields), slack(), by=by)
        told.state = told.state.now(request=told.state.request.model_copy(update={"execution_id": name}))
        told.prepared(plan(inverse=True))
        client = SlackClient(self.server.bot_token, self.server.base_url)

        async def log(event):
            told.tell(event)

        await NoticeSender(client, USERS, lambda: T0).send(told.notices[0], log)
        await client.close()
        self.world.history.executions[name] = told.state
        return self.server.posted("#ops")[-1]

    def state(self, name="e"):
        return self.world.history.executions[name]

    @property
    def decisions(self):
        return self.world.log.decisions


@pytest.fixture
async def desk(world, server, serve, mode):
    over = {"signing_secret": server.signing_secret} if mode == "http" else {"app_token": server.app_token}
    rules = SlackRules(users=USERS, bot_token=server.bot_token, base_url=server.base_url, **over)
    web = await serve(world.parts(slack=rules))
    if mode == "http":
        server.request_url = str(web.client.make_url("/slack/interactions"))
    else:
        await server.connected(1)
    return Desk(world, server, web)


async def whispered(person):
    async def any_():
        return person.ephemerals

    return (await until(any_))[-1].text


async def test_an_approval_is_recorded_before_slack_is_answered(desk, server):
    message = await desk.ask()
    delivery = await server.person("U1").click(message, APPROVE)
    assert (delivery.error, delivery.late) == (None, False)
    (decision,) = desk.decisions
    assert (decision.by, decision.source, decision.groups, decision.refusal) == ("ann", "slack", ("sre",), None)
    assert decision.digest == desk.state().steps[0].approval.digest
    assert desk.state().status == "running"


async def test_a_rejection_asks_why(desk, server):
    message = await desk.ask()
    person = server.person("U2")
    assert (await person.click(message, REJECT)).error is None

    async def opened():
        return person.views

    (view,) = await until(opened)
    assert desk.decisions == []
    delivery = await person.submit(view, {f"{REASON_BLOCK}/{REASON_INPUT}": "not during the sale"})
    assert (delivery.error, person.views) == (None, [])
    assert (desk.state().status, desk.state().reason) == ("halted", "rejected by bob: not during the sale")


async def test_a_reason_may_be_left_out(desk, server):
    person = server.person("U2")
    await person.click(await desk.ask(), REJECT)

    async def opened():
        return person.views

    (view,) = await until(opened)
    assert (await person.submit(view)).error is None
    assert desk.state().reason == "rejected by bob"


@pytest.mark.parametrize(
    ("user", "by", "said"),
    [
        ("U9", "slack:T1/U9", "Slack user U9 of team T1 is mapped to nobody"),
        ("U3", "vic", "vic has not the role approver"),
        ("U4", "far", "far has no part in this tenant"),
    ],
)
@pytest.mark.parametrize("button", [APPROVE, REJECT])
async def test_who_may_not_decide_is_refused_visibly_and_recorded(desk, server, user, by, said, button):
    person = server.person(user)
    assert (await person.click(await desk.ask(), button)).error is None
    assert said in await whispered(person)
    (decision,) = desk.decisions
    assert decision.by == by
    assert said in decision.refusal
    assert person.views == []
    assert desk.state().status == "awaiting_approval"


async def test_the_same_user_id_of_another_team_is_somebody_else(desk, server):
    person = server.person("U1", team="T2")
    await person.click(await desk.ask(), APPROVE)
    assert "U1 of team T2 is mapped to nobody" in await whispered(person)
    assert desk.state().status == "awaiting_approval"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"by": "ann"}, "ann asked for this run and may not approve it"),
        ({"approvers": ["group:dba"]}, "ann is not among the step's approvers"),
    ],
)
async def test_rules_of_the_step_hold_in_slack_too(desk, server, fields, said):
    person = server.person("U1")
    await person.click(await desk.ask(**fields), APPROVE)
    assert said in await whispered(person)
    assert desk.decisions[0].refusal == said


async def test_a_quorum_of_two_people_and_nobody_counts_twice(desk, server):
    message = await desk.ask(approvals_required=2)
    ann = server.person("U1")
    await ann.click(message, APPROVE)
    await ann.click(message, APPROVE)
    assert "ann has decided already" in await whispered(ann)
    assert desk.state().status == "awaiting_approval"
    await server.person("U2").click(message, APPROVE)
    assert desk.state().status == "running"


async def test_late_is_no(desk, server):
    message = await desk.ask()
    desk.world.now = T0 + timedelta(minutes=10)
    person = server.person("U1")
    await person.click(message, APPROVE)
    assert "it came after the deadline" in await whispered(person)
    assert desk.state().status == "awaiting_approval"


async def test_a_click_on_what_is_over_says_how_it_ended_and_takes_the_buttons_away(desk, server):
    message = await desk.ask()
    await server.person("U2").click(message, APPROVE)
    late = server.person("U1")
    await late.click(message, APPROVE)
    assert "does not count: approved by bob" in await whispered(late)

    async def changed():
        return "actions" not in str(message.blocks)

    await until(changed)
    assert desk.decisions[-1].refusal == "approved by bob"


async def test_fifty_click_at_once_and_one_decision_counts(desk, server):
    message = await desk.ask()
    people = [server.person(f"U1{number:02}") for number in range(50)]
    deliveries = await asyncio.gather(*(person.click(message, APPROVE) for person in people))
    assert {delivery.error for delivery in deliveries} == {None}
    assert len(desk.decisions) == 50
    assert len(desk.state().steps[0].approval.votes) == 1
    assert desk.state().status == "running"


async def test_a_request_pasted_onto_another_message_is_refused(desk, server):
    first = await desk.ask(name="e")
    second = await desk.ask(name="f")
    value = next(one["value"] for block in second.blocks if block["type"] == "actions" for one in block["elements"])
    person = server.person("U1")
    await person.click(first, APPROVE, value=value)
    assert "this message is not the one that asked for it" in await whispered(person)
    assert {desk.state(name).status for name in "ef"} == {"awaiting_approval"}


async def test_where_the_log_takes_nothing_the_user_sees_that_nothing_is_confirmed(desk, server):
    message = await desk.ask()
    desk.world.log.error = TemporaryError("Kafka is away")
    person = server.person("U1")
    delivery = await person.click(message, APPROVE)
    assert delivery.error is None
    assert "Your decision is NOT confirmed" in await whispered(person)
    desk.world.log.error = None
    await person.click(message, APPROVE)
    assert desk.state().status == "running"


async def test_a_rejection_that_is_not_confirmed_keeps_its_dialog(desk, server):
    person = server.person("U2")
    await person.click(await desk.ask(), REJECT)

    async def opened():
        return person.views

    (view,) = await until(opened)
    desk.world.log.error = TemporaryError("Kafka is away")
    await person.submit(view, {f"{REASON_BLOCK}/{REASON_INPUT}": "no"})
    assert "NOT confirmed" in view.errors[REASON_BLOCK]
    assert view.is_open
    assert desk.state().status == "awaiting_approval"


async def test_a_dialog_that_cannot_be_opened_is_told(desk, server):
    server.faults.refuse("views.open", "internal_error")
    person = server.person("U2")
    await person.click(await desk.ask(), REJECT)
    assert "nothing is recorded" in await whispered(person)


@pytest.mark.parametrize("mode", ["http"], indirect=True)
class TestForged:
    FORGERIES = (
        Forgery(secret="another secret"),
        Forgery(skew_s=-360),
        Forgery(skew_s=360),
        Forgery(timestamp="yesterday"),
        Forgery(timestamp="١٢٣"),
        Forgery(signature="v0=ä"),
        Forgery(signature=""),
        Forgery(signature="v0=" + "0" * 64),
        Forgery(without=("X-Slack-Signature",)),
        Forgery(without=("X-Slack-Request-Timestamp",)),
        Forgery(tamper=lambda payload: payload["user"].update(id="U2")),
    )

    @pytest.mark.parametrize("forgery", FORGERIES)
    async def test_a_forged_request_is_a_401_and_leaves_nothing(self, desk, server, forgery):
        delivery = await server.person("U1").click(await desk.ask(), APPROVE, forgery=forgery)
        assert (delivery.status, desk.decisions) == (401, [])

    async def test_a_small_skew_of_the_clocks_is_none(self, desk, server):
        delivery = await server.person("U1").click(await desk.ask(), APPROVE, forgery=Forgery(skew_s=-120))
        assert delivery.status == 200

    async def test_a_replayed_request_decides_nothing_more(self, desk, server):
        person = server.person("U1")
        delivery = await person.click(await desk.ask(approvals_required=2), APPROVE)
        again = await person.replay(delivery, {"X-Slack-Retry-Num": "1"})
        assert again.status == 200
        assert len(desk.state().steps[0].approval.votes) == 1
        assert [one.refusal for one in desk.decisions] == [None, "ann has decided already"]

    async def test_what_is_no_interaction_of_ours_is_no_server_error(self, desk, server):
        for edit in (
            lambda payload: payload["actions"][0].update(action_id="other"),
            lambda payload: payload["actions"][0].update(value="{}"),
            lambda payload: payload.pop("actions"),
            lambda payload: payload.update(type="shortcut", callback_id="x"),
        ):
            delivery = await server.person("U1").click(await desk.ask(), APPROVE, edit=edit)
            assert delivery.status < 500
        assert desk.decisions == []


@pytest.mark.parametrize("mode", ["socket"], indirect=True)
class TestSocketMode:
    async def test_a_rotated_socket_is_connected_again(self, desk, server):
        message = await desk.ask()
        await server.rotate_socket()
        await server.connected(1)
        assert (await server.person("U1").click(message, APPROVE)).error is None
        assert desk.state().status == "running"

    async def test_no_signed_request_is_taken_beside_it(self, desk):
        answer = await desk.web.plain("POST", "/slack/interactions", data=b"payload={}")
        assert (answer.status, "Socket Mode" in answer.body["detail"]) == (404, True)


async def test_without_slack_there_is_no_way_in(web):
    answer = await web.plain("POST", "/slack/interactions", data=b"payload={}")
    assert (answer.status, "RUNBOOKS_SLACK__SIGNING_SECRET" in answer.body["detail"]) == (404, True)
