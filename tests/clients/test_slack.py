from datetime import UTC, datetime, timedelta

import pytest
from aiohttp import web
from slack_server import SlackServer

from app.clients.slack import RATE_LIMIT_RETRIES, SlackClient, SlackMessage, escape
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError


@pytest.fixture
async def connect():
    """A client towards a base URL."""
    clients: list[SlackClient] = []

    def to(base_url: str, **options) -> SlackClient:
        clients.append(SlackClient("xoxb-stand-in", base_url, **options))
        return clients[-1]

    yield to
    for client in clients:
        await client.close()


@pytest.fixture
async def answering(aiohttp_server, connect):
    """A client whose Slack gives these answers, one a call; calls holds what was posted."""

    async def start(*answers: web.Response):
        left, calls = list(answers), []

        async def post(request: web.Request) -> web.Response:
            calls.append(dict(await request.post()) or await request.json())
            return left.pop(0)

        application = web.Application()
        application.router.add_post("/api/chat.postMessage", post)
        server = await aiohttp_server(application)
        return connect(str(server.make_url("/api/"))), calls

    return start


OK = {"ok": True, "channel": "C1", "ts": "1.5"}


def limited(retry_after: str | None) -> web.Response:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return web.json_response({"ok": False, "error": "ratelimited"}, status=429, headers=headers)


async def test_a_message_is_posted_and_named_as_slack_names_it(clients, stand_ins):
    assert await clients.slack.post_message("#alerts", "hello") == SlackMessage(channel_id="C0DEMO", ts="1.000100")
    assert [(one["channel"], one["text"]) for one in stand_ins.messages] == [("#alerts", "hello")]
    assert "thread_ts" not in stand_ins.messages[0]


async def test_a_message_in_a_thread(clients, stand_ins):
    await clients.slack.post_message("#alerts", "hello", thread_ts="1.5")
    assert stand_ins.messages[0]["thread_ts"] == "1.5"


async def test_a_wrong_token_is_slacks_refusal(connect, stand_ins):
    client = SlackClient("xoxb-other", stand_ins.slack_url)
    with pytest.raises(PermanentError, match=r"^Slack said invalid_auth$"):
        await client.post_message("#alerts", "hello")
    await client.close()


async def test_off_names_the_setting():
    with pytest.raises(PermanentError, match=r"^Slack is not configured: set RUNBOOKS_SLACK__BOT_TOKEN$"):
        await SlackClient(None).post_message("#alerts", "hello")


@pytest.mark.parametrize("code", ["channel_not_found", "not_in_channel", "msg_too_long", "account_inactive"])
async def test_slacks_refusals_are_permanent_and_named(answering, code):
    client, calls = await answering(web.json_response({"ok": False, "error": code}))
    with pytest.raises(PermanentError, match=f"^Slack said {code}$"):
        await client.post_message("#alerts", "hello")
    assert len(calls) == 1


@pytest.mark.parametrize(
    ("answer", "delay_s"),
    [
        (web.json_response({"ok": False, "error": "internal_error"}), None),
        (web.json_response({"ok": False, "error": "fatal_error"}, status=500), None),
        (web.Response(status=503, text="upstream"), None),
        (web.Response(status=502, text="<html>", content_type="text/html"), None),
        (web.Response(status=500, text="{broken", content_type="application/json"), None),
        (web.json_response({"ok": False}, status=503, headers={"Retry-After": "12"}), 12.0),
        (limited("3600"), 3600.0),
    ],
)
async def test_trouble_at_slacks_is_temporary(answering, answer, delay_s):
    client, calls = await answering(answer)
    with pytest.raises(TemporaryError, match="Slack said") as caught:
        await client.post_message("#alerts", "hello")
    assert (caught.value.delay_s, len(calls)) == (delay_s, 1)


async def test_a_short_wait_is_waited(answering):
    client, calls = await answering(limited("0"), web.json_response(OK))
    assert await client.post_message("#alerts", "hello") == SlackMessage(channel_id="C1", ts="1.5")
    assert len(calls) == 2


async def test_waiting_has_an_end(answering):
    client, calls = await answering(*[limited("0") for _ in range(RATE_LIMIT_RETRIES + 1)])
    with pytest.raises(TemporaryError, match="Slack said ratelimited") as caught:
        await client.post_message("#alerts", "hello")
    assert (caught.value.delay_s, len(calls)) == (0.0, RATE_LIMIT_RETRIES + 1)


@pytest.mark.parametrize("retry_after", ["Thu, 01 Jan 2099 00:00:00 GMT", "soon", "6", "9" * 400])
async def test_a_wait_that_is_long_or_not_in_seconds_is_left_to_the_runbook(answering, retry_after):
    client, calls = await answering(limited(retry_after))
    with pytest.raises(TemporaryError, match="Slack said ratelimited"):
        await client.post_message("#alerts", "hello")
    assert len(calls) == 1


@pytest.mark.parametrize(
    "answer",
    [
        web.Response(text="fine", content_type="text/plain"),
        web.Response(text="<html>", content_type="text/html"),
        web.Response(text="{broken", content_type="application/json"),
        web.json_response(["ok"]),
        web.json_response({}),
    ],
)
async def test_an_answer_that_says_neither_is_unknown(answering, answer):
    client, _ = await answering(answer)
    with pytest.raises(OutcomeUnknown, match="cannot be read"):
        await client.post_message("#alerts", "hello")


async def test_no_answer_in_time_is_unknown(connect, hanging):
    with pytest.raises(OutcomeUnknown, match="Slack did not answer: TimeoutError"):
        await connect(hanging.url + "/api/", timeout_s=0.2).post_message("#alerts", "hello")
    assert len(hanging.seen) == 1


async def test_a_reset_after_sending_is_unknown_and_not_sent_again(connect, raw, scripts):
    async with raw(scripts["reset"]) as server:
        with pytest.raises(OutcomeUnknown, match="Slack did not answer"):
            await connect(server.url + "/api/").post_message("#alerts", "hello")
    assert len(server.seen) == 1


async def test_nothing_listens_then_nothing_was_sent(connect, unused_tcp_port):
    with pytest.raises(TemporaryError, match="Slack cannot be reached"):
        await connect(f"http://127.0.0.1:{unused_tcp_port}/api/").post_message("#alerts", "hello")


def test_text_of_others_can_neither_mention_nor_link():
    assert escape("<!channel> & <http://evil|ok>") == "&lt;!channel&gt; &amp; &lt;http://evil|ok&gt;"
    assert escape("&lt;") == "&amp;lt;"


class TestLookingForAMessage:
    """find_marked, in the tests' Slack."""

    @pytest.fixture
    async def workspace(self):
        async with SlackServer() as server:
            yield server
        assert server.violations == []

    @pytest.fixture
    def slack(self, workspace, connect):
        workspace.bot_token = "xoxb-stand-in"
        return connect(workspace.base_url)

    async def test_among_more_messages_than_one_page_holds(self, workspace, slack, monkeypatch):
        monkeypatch.setattr("app.clients.slack.PAGE", 2)
        since = datetime.now(UTC)
        wanted = await slack.post_message("#ops", "it", mark="m")
        for number in range(5):
            await slack.post_message("#ops", f"later {number}", mark=f"{number}")
        assert await slack.find_marked(wanted.channel_id, "m", since) == wanted
        assert await slack.find_marked(wanted.channel_id, "n", since) is None
        assert len(workspace.calls["conversations.history"]) == 6

    async def test_only_what_was_posted_since(self, slack):
        earlier = await slack.post_message("#ops", "it", mark="m")
        since = datetime.now(UTC) + timedelta(seconds=120)
        assert await slack.find_marked(earlier.channel_id, "m", since) is None

    async def test_among_the_replies_to_a_message(self, slack):
        since = datetime.now(UTC)
        first = await slack.post_message("#ops", "ask", mark="a")
        reply = await slack.post_message("#ops", "remind", thread_ts=first.ts, mark="m")
        assert await slack.find_marked(first.channel_id, "m", since) is None
        assert await slack.find_marked(first.channel_id, "m", since, first.ts) == reply

    async def test_too_much_to_look_through_is_said(self, slack, monkeypatch):
        monkeypatch.setattr("app.clients.slack.PAGE", 1)
        monkeypatch.setattr("app.clients.slack.MAX_PAGES", 2)
        for number in range(3):
            message = await slack.post_message("#ops", f"{number}")
        with pytest.raises(PermanentError, match=r"^more than 2 messages were posted to C\d+ meanwhile$"):
            await slack.find_marked(message.channel_id, "m", datetime.now(UTC))
