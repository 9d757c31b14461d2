"""The tests' Slack against the real slack_sdk and slack_bolt: what it takes, refuses, delivers and gets wrong."""

import asyncio
from types import SimpleNamespace

import aiohttp
import pytest
from aiohttp import web
from slack_bolt.adapter.aiohttp import to_aiohttp_response, to_bolt_request
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncApp
from slack_people import Forgery
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient
from slack_server import SlackServer
from waiting import until

QUESTION = {"type": "section", "text": {"type": "mrkdwn", "text": "Scale *payment-api*?"}}
REASON = {
    "type": "input",
    "block_id": "reason",
    "label": {"type": "plain_text", "text": "Why"},
    "element": {"type": "plain_text_input", "action_id": "text", "max_length": 20},
}
MODAL = {
    "type": "modal",
    "callback_id": "reject",
    "private_metadata": "approval-1",
    "title": {"type": "plain_text", "text": "Reject"},
    "submit": {"type": "plain_text", "text": "Reject"},
    "blocks": [REASON],
}


def button(action_id: str, value: str = "approval-1", **more) -> dict:
    text = {"type": "plain_text", "text": action_id.title()}
    return {"type": "button", "action_id": action_id, "text": text, "value": value, **more}


def buttons(value: str = "approval-1") -> list[dict]:
    elements = [button("approve", value), button("reject", value), button("slow", value)]
    return [QUESTION, {"type": "actions", "block_id": "decision", "elements": elements}]


@pytest.fixture
async def slack():
    async with SlackServer() as server:
        yield server


@pytest.fixture
def client(slack):
    return AsyncWebClient(token=slack.bot_token, base_url=slack.base_url, timeout=5)


@pytest.fixture
def app(slack, client):
    """A bolt app with two buttons and a modal; seen holds the bodies that got through to it."""
    bolt = AsyncApp(client=client, token=slack.bot_token, signing_secret=slack.signing_secret)
    made = SimpleNamespace(bolt=bolt, seen=[], go_on=asyncio.Event())

    @bolt.action("approve")
    async def approve(ack, body, client, respond):
        await ack()
        made.seen.append(body)
        where = {"channel": body["channel"]["id"], "ts": body["message"]["ts"]}
        await client.chat_update(**where, text=f"Approved by <@{body['user']['id']}>", blocks=[QUESTION])
        await respond("You approved", replace_original=False)

    @bolt.action("reject")
    async def reject(ack, body, client):
        await ack()
        await client.views_open(trigger_id=body["trigger_id"], view=MODAL)

    @bolt.action("slow")
    async def slow(ack, body):
        await made.go_on.wait()
        made.seen.append(body)
        await ack()

    @bolt.view("reject")
    async def rejected(ack, body, view):
        reason = view["state"]["values"]["reason"]["text"]["value"]
        if reason == "no":
            await ack(response_action="errors", errors={"reason": "Say more"})
            return
        await ack()
        made.seen.append(body)

    return made


@pytest.fixture
async def over_http(slack, app, aiohttp_server):
    """The app behind a request URL."""

    async def interactions(request: web.Request) -> web.Response:
        return await to_aiohttp_response(await app.bolt.async_dispatch(await to_bolt_request(request)))

    application = web.Application()
    application.router.add_post("/slack/interactions", interactions)
    server = await aiohttp_server(application)
    slack.request_url = str(server.make_url("/slack/interactions"))
    return app


async def asked(client, slack, value: str = "approval-1"):
    answer = await client.chat_postMessage(channel="#ops", text="Scale?", blocks=buttons(value))
    return slack.messages[answer["channel"], answer["ts"]]


async def refused(call) -> str:
    """The code with which Slack refuses."""
    with pytest.raises(SlackApiError) as caught:
        await call
    return caught.value.response["error"]


class TestWebApi:
    async def test_a_channel_keeps_its_id_and_every_message_has_its_own_ts(self, slack, client):
        first = await client.chat_postMessage(
            channel="#ops", text="one", metadata={"event_type": "a", "event_payload": {}}
        )
        second = await client.chat_postMessage(channel="ops", text="two", thread_ts=first["ts"])
        by_id = await client.chat_postMessage(channel=first["channel"], text="three")
        direct = await client.chat_postMessage(channel="U7", text="four")
        assert first["channel"] == second["channel"] == by_id["channel"] == slack.channels["ops"] != direct["channel"]
        assert slack.dms == {"U7": direct["channel"]}
        assert first["ts"] < second["ts"] < by_id["ts"]
        assert [one.text for one in slack.posted("#ops")] == ["one", "two", "three"]
        assert slack.posted("#ops")[1].thread_ts == first["ts"]
        assert [call.arguments["text"] for call in slack.calls["chat.postMessage"]] == ["one", "two", "three", "four"]

    async def test_forms_are_read_like_json(self, slack):
        form = {"token": slack.bot_token, "channel": "#ops", "text": "hello", "blocks": '[{"type": "divider"}]'}
        url = f"{slack.base_url}chat.postMessage"
        async with aiohttp.ClientSession() as session, session.post(url, data=form) as answer:
            assert (await answer.json())["ok"]
        assert slack.posted("#ops")[0].blocks[0]["type"] == "divider"

    async def test_auth(self, slack, client):
        assert (await client.auth_test())["team_id"] == slack.team_id
        other = AsyncWebClient(token="xoxb-other", base_url=slack.base_url)
        assert await refused(other.chat_postMessage(channel="#ops", text="a")) == "invalid_auth"
        assert await refused(other.apps_connections_open(app_token=slack.bot_token)) == "not_allowed_token_type"
        assert slack.messages == {}

    async def test_methods_that_are_not_known(self, slack, client):
        assert await refused(client.users_info(user="U1")) == "unknown_method"
        slack.answers["users.info"] = {"user": {"id": "U1"}}
        assert (await client.users_info(user="U1"))["user"] == {"id": "U1"}

    async def test_an_update_needs_the_message_by_its_channels_id(self, slack, client):
        message = await asked(client, slack)
        where = {"channel": message.channel_id, "ts": message.ts}
        await client.chat_update(**where, text="Approved")  # text alone takes the blocks away
        assert [one["text"] for one in message.versions] == ["Scale?", "Approved"]
        assert message.buttons == []
        unknown = client.chat_update(channel=message.channel_id, ts="1.000001", text="a")
        assert await refused(unknown) == "message_not_found"
        assert await refused(client.chat_update(channel="#ops", ts=message.ts, text="a")) == "channel_not_found"

    async def test_history_tells_metadata_when_asked(self, client):
        metadata = {"event_type": "approval", "event_payload": {"id": "1"}}
        first = await client.chat_postMessage(channel="#ops", text="one", metadata=metadata)
        await client.chat_postMessage(channel="#ops", text="reply", thread_ts=first["ts"])
        await client.chat_postMessage(channel="#ops", text="two")
        where = {"channel": first["channel"]}
        [two, one] = (await client.conversations_history(**where, include_all_metadata=True))["messages"]
        assert (two["text"], one["text"], one["metadata"]) == ("two", "one", metadata)
        assert "metadata" not in (await client.conversations_history(**where))["messages"][1]
        page = await client.conversations_history(**where, limit=1)
        assert (page["has_more"], [one["text"] for one in page["messages"]]) == (True, ["two"])
        following = page["response_metadata"]["next_cursor"]
        page = await client.conversations_history(**where, limit=1, cursor=following)
        assert (page["has_more"], [one["text"] for one in page["messages"]]) == (False, ["one"])
        between = {"oldest": one["ts"], "latest": one["ts"], "inclusive": True}
        assert (await client.conversations_history(**where, **between))["messages"][0]["text"] == "one"
        thread = await client.conversations_replies(**where, ts=first["ts"])
        assert [one["text"] for one in thread["messages"]] == ["one", "reply"]

    async def test_an_ephemeral_message_is_for_one_person(self, slack, client):
        await client.chat_postEphemeral(channel="#ops", user="U1", text="not you")
        assert [one.text for one in slack.person("U1").ephemerals] == ["not you"]
        assert slack.person("U2").ephemerals == slack.posted("#ops") == []


class TestLimits:
    async def test_what_is_refused_is_remembered(self, slack, client):
        blocks = [{"type": "section", "text": {"type": "mrkdwn", "text": "a" * 3001}}]
        with pytest.raises(SlackApiError) as caught:
            await client.chat_postMessage(channel="#ops", text="a", blocks=blocks)
        assert caught.value.response["error"] == "invalid_blocks"
        reason = "must be less than 3001 characters [json-pointer:/blocks/0/text/text]"
        assert f"[ERROR] {reason}" in caught.value.response["response_metadata"]["messages"]
        assert f"chat.postMessage: {reason}" in slack.violations
        assert slack.messages == {}

    async def test_text_and_metadata(self, slack, client):
        await client.chat_postMessage(channel="#ops", text="a" * 40_000)
        assert await refused(client.chat_postMessage(channel="#ops", text="a" * 40_001)) == "msg_too_long"
        no_payload = client.chat_postMessage(channel="#ops", text="a", metadata={"event_type": "a"})
        assert await refused(no_payload) == "invalid_metadata_format"
        assert len(slack.violations) == 2

    async def test_a_refused_view_does_not_use_the_trigger_up(self, slack, client, over_http):
        message = await asked(client, slack)
        trigger_id = (await slack.person("U1").click(message, "unheard-of", value="x")).payload["trigger_id"]
        too_long = MODAL | {"title": {"type": "plain_text", "text": "t" * 25}}
        assert await refused(client.views_open(trigger_id=trigger_id, view=too_long)) == "invalid_blocks"
        await client.views_open(trigger_id=trigger_id, view=MODAL)
        assert [view.user_id for view in slack.views] == ["U1"]


class TestFaults:
    async def test_refusals_and_pages(self, slack, client):
        slack.faults.refuse("chat.postMessage", "account_inactive", times=1)
        assert await refused(client.chat_postMessage(channel="#ops", text="a")) == "account_inactive"
        fault = slack.faults.fail("*", 503)
        with pytest.raises(SlackApiError):
            await client.chat_postMessage(channel="#ops", text="a")
        fault.lift()
        await client.chat_postMessage(channel="#ops", text="b")
        assert [one.text for one in slack.posted("#ops")] == ["b"]

    async def test_rate_limits_end(self, slack, client):
        client.retry_handlers.append(AsyncRateLimitErrorRetryHandler(max_retry_count=2))
        fault = slack.faults.limit("chat.postMessage", 0, times=2)
        await client.chat_postMessage(channel="#ops", text="a")
        assert (fault.hits, len(slack.calls["chat.postMessage"]), len(slack.posted("#ops"))) == (2, 3, 1)

    @pytest.mark.parametrize("carried_out", [True, False])
    @pytest.mark.parametrize(("kind", "error"), [("garble", SlackApiError), ("drop", aiohttp.ClientError)])
    async def test_answers_that_are_none(self, slack, client, kind, error, carried_out):
        client.retry_handlers.clear()
        getattr(slack.faults, kind)("chat.postMessage", times=1, carried_out=carried_out)
        with pytest.raises(error):
            await client.chat_postMessage(channel="#ops", text="a")
        assert len(slack.posted("#ops")) == carried_out

    @pytest.mark.parametrize("carried_out", [True, False])
    async def test_what_hangs_goes_on_when_released(self, slack, client, carried_out):
        fault = slack.faults.hang("chat.postMessage", carried_out=carried_out)
        async with asyncio.TaskGroup() as group:
            posting = group.create_task(client.chat_postMessage(channel="#ops", text="a"))

            async def arrived():
                return slack.calls["chat.postMessage"]

            await until(arrived)
            assert len(slack.posted("#ops")) == carried_out
            fault.release()
        assert posting.result()["ok"]
        assert len(slack.posted("#ops")) == 1

    async def test_what_still_hangs_does_not_hold_the_server(self, slack):
        slack.faults.hang("chat.postMessage")
        impatient = AsyncWebClient(token=slack.bot_token, base_url=slack.base_url, timeout=0.1)
        with pytest.raises(TimeoutError):
            await impatient.chat_postMessage(channel="#ops", text="a")


class TestOverHttp:
    async def test_a_click_is_delivered_as_slack_documents_it(self, slack, client, over_http):
        message = await asked(client, slack)
        ann = slack.person("U1", name="ann")
        delivery = await ann.click(message, "approve")
        assert (delivery.status, delivery.error, delivery.late) == (200, None, False)

        async def told():
            return ann.ephemerals

        [note] = await until(told)
        assert (note.text, note.channel_id) == ("You approved", message.channel_id)
        assert (message.text, message.buttons) == ("Approved by <@U1>", [])
        assert [one["text"] for one in message.versions] == ["Scale?", "Approved by <@U1>"]
        [body] = over_http.seen
        assert body["user"] == {"id": "U1", "username": "ann", "name": "ann", "team_id": "T1"}
        assert body["channel"] == {"id": slack.channels["ops"], "name": "ops"}
        assert body["container"]["message_ts"] == body["message"]["ts"] == message.ts
        assert body["message"]["blocks"] == message.versions[0]["blocks"]
        [action] = body["actions"]
        assert (action["action_id"], action["block_id"], action["value"]) == ("approve", "decision", "approval-1")
        assert slack.violations == []

    async def test_only_what_is_shown_can_be_clicked(self, slack, client, over_http):
        message = await asked(client, slack)
        await client.chat_update(channel=message.channel_id, ts=message.ts, text="Expired")
        with pytest.raises(AssertionError, match="no button 'approve'"):
            await slack.person("U1").click(message, "approve")
        assert (
            await slack.person("U1").click(message, "Approve", version=0)
        ).error is None  # by who has not seen it yet

    async def test_a_modal_is_opened_and_submitted(self, slack, client, over_http):
        ann = slack.person("U1")
        assert (await ann.click(await asked(client, slack), "reject")).error is None

        async def opened():
            return ann.views

        [view] = await until(opened)
        await ann.submit(view, {"reason/text": "no"})
        assert (view.is_open, view.errors) == (True, {"reason": "Say more"})
        with pytest.raises(AssertionError, match="takes 0 to 20"):
            await ann.submit(view, {"reason/text": "because " * 20})
        assert (await ann.submit(view, {"reason/text": "too many"})).error is None
        assert (view.is_open, view.errors, ann.views) == (False, {}, [])
        [body] = over_http.seen
        assert (body["type"], body["user"]["id"], body["view"]["private_metadata"]) == (
            "view_submission",
            "U1",
            "approval-1",
        )
        assert slack.violations == []

    async def test_a_trigger_holds_once_and_not_for_long(self, slack, client, over_http):
        message = await asked(client, slack)
        ann = slack.person("U1")
        trigger_id = (await ann.click(message, "approve")).payload["trigger_id"]
        await client.views_open(trigger_id=trigger_id, view=MODAL)
        for used_up in (trigger_id, "1.2.3"):
            assert await refused(client.views_open(trigger_id=used_up, view=MODAL)) == "expired_trigger_id"
        slack.trigger_limit_s = 0.0
        late = (await ann.click(message, "approve", version=0)).payload["trigger_id"]
        assert await refused(client.views_open(trigger_id=late, view=MODAL)) == "expired_trigger_id"

    async def test_who_acknowledges_late_is_not_heard(self, slack, client, over_http):
        slack.ack_limit_s = 0.2
        message = await asked(client, slack)
        delivery = await slack.person("U1").click(message, "slow")
        assert (delivery.late, delivery.status, over_http.seen) == (True, None, [])
        over_http.go_on.set()

        async def went_on():
            return over_http.seen

        await until(went_on)  # the app decided all the same
        assert delivery.error == "the app did not acknowledge in time"

    @pytest.mark.parametrize(
        ("forgery", "status"),
        [
            (Forgery(secret="another"), 401),
            (Forgery(skew_s=-360), 401),
            (Forgery(skew_s=360), 401),
            (Forgery(signature=""), 401),
            (Forgery(without=("X-Slack-Signature",)), 401),
            (Forgery(tamper=lambda payload: payload["user"].update(id="U2")), 401),
            (Forgery(), 200),
        ],
    )
    async def test_forged_requests(self, slack, client, over_http, forgery, status):
        delivery = await slack.person("U1").click(await asked(client, slack), "approve", forgery=forgery)
        assert delivery.status == status
        assert (delivery.error is None) == (status == 200)

    @pytest.mark.parametrize("forgery", [Forgery(timestamp="yesterday"), Forgery(signature="v0=é")])
    async def test_what_slack_sdk_itself_cannot_take(self, slack, client, over_http, forgery):
        delivery = await slack.person("U1").click(await asked(client, slack), "approve", forgery=forgery)
        assert (delivery.status, over_http.seen) == (500, [])

    async def test_a_replay_is_the_same_bytes(self, slack, client, over_http):
        ann = slack.person("U1")
        first = await ann.click(await asked(client, slack), "approve")
        again = await ann.replay(first, {"X-Slack-Retry-Num": "1"})
        assert (again.body, again.status) == (first.body, 200)
        assert again.headers["X-Slack-Signature"] == first.headers["X-Slack-Signature"]

        async def both():
            return len(over_http.seen) == 2

        await until(both)

    async def test_payloads_of_others(self, slack, client, over_http):
        first, second = await asked(client, slack), await asked(client, slack, "approval-2")
        pasted = await slack.person("U1").click(second, "approve", value="approval-1")
        assert pasted.payload["message"]["ts"] == second.ts != first.ts
        assert pasted.payload["actions"][0]["value"] == "approval-1"
        edited = await slack.person("U1").click(first, "approve", edit=lambda payload: payload["user"].update(id="U2"))
        assert (edited.payload["user"]["id"], edited.status) == ("U2", 200)

    async def test_an_app_that_is_away(self, slack, client, over_http, unused_tcp_port):
        message = await asked(client, slack)
        slack.request_url = f"http://127.0.0.1:{unused_tcp_port}/slack/interactions"
        delivery = await slack.person("U1").click(message, "approve")
        assert (delivery.status, delivery.late) == (None, False)
        assert delivery.error.startswith("the app cannot be reached")

    async def test_a_response_url_holds_five_times(self, slack, client, over_http):
        message = await asked(client, slack)
        url = (await slack.person("U1").click(message, "unheard-of", value="x")).payload["response_url"]
        bodies = [
            {"text": "only you"},
            {"text": "all of you", "response_type": "in_channel"},
            {"text": "changed", "replace_original": True},
            {"text": "a", "blocks": [{"type": "buttons"}]},
            {"delete_original": True},
            {"text": "too often"},
        ]
        async with aiohttp.ClientSession() as session:
            answers = [await session.post(url, json=body) for body in bodies]
        assert [one.status for one in answers] == [200, 200, 200, 400, 200, 404]
        assert [one.text for one in slack.person("U1").ephemerals] == ["only you"]
        assert [one.text for one in slack.posted("#ops")] == ["all of you"]
        assert (message.text, message.deleted) == ("changed", True)
        assert len(slack.calls["response_url"]) == len(bodies)


@pytest.fixture
async def over_sockets(slack, client, app):
    """The app with one connection open."""
    handler = AsyncSocketModeHandler(app.bolt, slack.app_token, web_client=client, ping_interval=0.2)
    await handler.connect_async()
    await slack.connected()
    yield app
    await handler.close_async()


class TestOverSockets:
    async def test_a_click_and_a_modal(self, slack, client, over_sockets):
        ann = slack.person("U1", name="ann")
        message = await asked(client, slack)
        assert (await ann.click(message, "reject")).error is None

        async def opened():
            return ann.views

        [view] = await until(opened)
        delivery = await ann.submit(view, {"reason/text": "no"})
        assert (delivery.answer["response_action"], view.is_open) == ("errors", True)
        await ann.submit(view, {"reason/text": "too many"})
        assert (view.is_open, over_sockets.seen[0]["view"]["private_metadata"]) == (False, "approval-1")
        delivery = await ann.click(message, "approve")
        assert (delivery.status, delivery.answer, delivery.error) == (200, None, None)
        again = await ann.replay(delivery)
        assert (again.payload, again.error) == (delivery.payload, None)
        assert slack.violations == []

    async def test_who_acknowledges_late_is_not_heard(self, slack, client, over_sockets):
        slack.ack_limit_s = 0.2
        delivery = await slack.person("U1").click(await asked(client, slack), "slow")
        assert (delivery.late, delivery.status) == (True, None)
        over_sockets.go_on.set()

        async def acknowledged():
            return slack.sockets.late_acks

        await until(acknowledged)
        assert len(over_sockets.seen) == 1

    async def test_what_the_app_does_not_know_is_never_acknowledged(self, slack, client, over_sockets):
        slack.ack_limit_s = 0.1
        assert (await slack.person("U1").click(await asked(client, slack), "unheard-of", value="x")).late

    @pytest.mark.parametrize("reason", ["refresh_requested", "warning", "too_many_websockets"])
    async def test_the_app_comes_back_when_connections_are_rotated(self, slack, client, over_sockets, reason):
        [before] = slack.sockets.open
        await slack.rotate_socket(reason)
        await slack.connected()
        assert before not in slack.sockets.open
        assert (await slack.person("U1").click(await asked(client, slack), "approve")).error is None
        assert len(slack.calls["apps.connections.open"]) == 2

    async def test_a_connection_that_is_closed_at_once(self, slack, client, over_sockets):
        message = await asked(client, slack)
        await slack.rotate_socket(at_once=True)

        async def clicked():
            await slack.connected()
            return (await slack.person("U1").click(message, "approve", version=0)).error is None

        await until(clicked)  # one click may be lost with a connection that the app opened and left again

    async def test_a_connection_that_breaks_off_loses_the_click(self, slack, client, over_sockets):
        message = await asked(client, slack)
        async with asyncio.TaskGroup() as group:
            clicking = group.create_task(slack.person("U1").click(message, "slow"))

            async def under_way():
                return [socket for socket in slack.sockets.open if socket.waiting]

            await until(under_way)
            slack.sockets.drop()
        assert clicking.result().error == "the connection was closed before the app acknowledged"
        over_sockets.go_on.set()
        await slack.connected()
        assert (await slack.person("U1").click(message, "approve")).error is None

    async def test_pings_are_answered_both_ways(self, slack, over_sockets):
        [before] = slack.sockets.open
        await slack.sockets.ping()

        async def answered():
            return before.pongs

        await until(answered)
        slack.sockets.answers_pings = False  # for the app, the connection is dead now

        async def replaced():
            return slack.sockets.open and before not in slack.sockets.open

        await until(replaced)

    async def test_several_connections(self, slack, client, app, over_sockets):
        second = AsyncSocketModeHandler(app.bolt, slack.app_token, web_client=client, ping_interval=0.2)
        await second.connect_async()
        await slack.connected(2)
        for _ in range(2):
            assert (await slack.person("U1").click(await asked(client, slack), "approve")).error is None
        await second.close_async()

        async def closed():
            return len(slack.sockets.open) == 1

        await until(closed)

    async def test_nobody_is_connected(self, slack, client):
        delivery = await slack.person("U1").click(await asked(client, slack), "approve")
        assert delivery.error == "the app has no connection open"

    async def test_a_ticket_opens_one_connection(self, slack, client):
        url = (await client.apps_connections_open(app_token=slack.app_token))["url"]
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url) as socket:
                hello = await socket.receive_json()
                assert (hello["type"], hello["num_connections"]) == ("hello", 1)
                await socket.send_json({"envelope_id": "never sent"})
                await socket.close()
            with pytest.raises(aiohttp.WSServerHandshakeError):
                await session.ws_connect(url)
        assert "no envelope was sent" in slack.violations[0]
