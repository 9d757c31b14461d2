"""POST /slack/interactions as bytes on a socket: whatever is sent, it is no server error and decides nothing."""

import asyncio
import hashlib
import hmac
import json
import time
from urllib.parse import urlencode

import pytest

from app.core.people import SlackUsers
from app.web.parts import SlackRules

SECRET = "the signing secret of these tests"
FORM = "application/x-www-form-urlencoded"
PAYLOAD = {
    "type": "block_actions",
    "trigger_id": "t",
    "user": {"id": "U1"},
    "actions": [{"action_id": "nobody's", "block_id": "b", "type": "button"}],
}
GOOD = urlencode({"payload": json.dumps(PAYLOAD)}).encode()
UNKNOWN = 404  # what Bolt says of a signed interaction that is none of ours


def signature(body: bytes, at: int) -> str:
    return "v0=" + hmac.new(SECRET.encode(), f"v0:{at}:".encode() + body, hashlib.sha256).hexdigest()


@pytest.fixture
async def send(world, serve):
    """Sends raw header lines and a body, and gives the status; {signature} and {time} in a line are the right ones."""
    rules = SlackRules(SlackUsers(), "xoxb-1", "http://127.0.0.1:9/api/", signing_secret=SECRET)
    web = await serve(world.parts(slack=rules))
    url = web.client.make_url("/")

    async def status(lines: list[str], body: bytes) -> int:
        now = int(time.time())
        head = ["POST /slack/interactions HTTP/1.1", "Host: x", f"Content-Length: {len(body)}", "Connection: close"]
        filled = [line.format(signature=signature(body, now), time=now) for line in lines]
        reader, writer = await asyncio.open_connection(url.host, url.port)
        writer.write("\r\n".join([*head, *filled, "", ""]).encode("latin-1") + body)
        first = await reader.readline()
        await reader.read()
        writer.close()
        await writer.wait_closed()
        return int(first.split()[1])

    yield status
    assert world.log.decisions == []


SIGNED = ["X-Slack-Signature: {signature}", "X-Slack-Request-Timestamp: {time}"]


async def test_a_genuine_request_is_taken(send):
    assert await send([*SIGNED, f"Content-Type: {FORM}"], GOOD) == UNKNOWN
    assert await send([*SIGNED, f"Content-Type: {FORM}; charset=UTF-8"], GOOD) == UNKNOWN
    assert await send([*SIGNED, "Content-Type: application/json"], GOOD) == UNKNOWN


@pytest.mark.parametrize(
    ("lines", "body", "status"),
    [
        ([*SIGNED, SIGNED[0]], GOOD, 401),
        ([*SIGNED, "x-slack-signature: v0=" + "0" * 64], GOOD, 401),
        ([*SIGNED, SIGNED[1]], GOOD, 401),
        (["X-Slack-Signature: v0=\xe4", SIGNED[1]], GOOD, 401),
        (["X-Slack-Signature: {signature}, {signature}", SIGNED[1]], GOOD, 401),
        ([SIGNED[0], "X-Slack-Request-Timestamp: " + "9" * 5000], GOOD, 401),
        ([], GOOD, 401),
        ([], b"payload=nonsense", 401),
        ([], b'{"payload": 1', 401),
        ([*SIGNED, f"Content-Type: {FORM}; charset=no-such-thing"], GOOD, 400),
        ([*SIGNED, f"Content-Type: {FORM}; charset=utf-16"], GOOD, 400),
        ([f"Content-Type: {FORM}; charset=no-such-thing"], GOOD, 401),
        (SIGNED, b"payload=\xff\xfe", 401),
        (SIGNED, b"payload=nonsense", 400),
        (SIGNED, b"payload=[1]", 400),
        (SIGNED, b'payload={"type":"block_actions"}', 400),
        (SIGNED, b'payload={"type":"block_actions","user":{"id":"U1"},"actions":[]}', 400),
        (SIGNED, b"payload=" + b"[" * 100_000, 400),
        (SIGNED, b"payload", 400),
        (SIGNED, b"other=1", 400),
        (SIGNED, b'{"payload": 1', 400),
        (SIGNED, b"", 400),
        ([*SIGNED, "Content-Encoding: gzip"], GOOD, 400),
    ],
)
async def test_what_slack_never_sends_is_refused(send, lines, body, status):
    assert await send(lines, body) == status
