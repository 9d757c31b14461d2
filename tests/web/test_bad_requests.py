"""Requests that no client of ours makes: the API answers each with a 4xx of its own words, and goes on."""

import asyncio
import gzip
import hashlib
import hmac
import importlib.util
import json
import time
import tracemalloc
import zlib
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import quote_plus

import orjson
import pytest
from building import T0, slack, story
from waiting import until

from app.actions.approval_message import APPROVE, REASON_BLOCK, REASON_INPUT, REASON_VIEW
from app.core.people import SlackUsers
from app.main import serve
from app.settings import ApiSettings
from app.web.app import build_web
from app.web.parts import Patience, SlackRules
from app.web.routes import ROUTES

DEEP = b"[" * 100_000 + b"]" * 100_000
REFERENCE = json.dumps({"tenant": "default", "execution_id": "e", "run": 1, "step": 0, "request": 1, "digest": "d"})
BODIES = {
    "nothing": b"",
    "deep": DEEP,
    "deep inside": b'{"context":' + DEEP + b"}",
    "deeper than a reader goes": b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    "deep enough for a reader": b'{"context":' + b"[" * 900 + b"]" * 900 + b"}",
    "not closed": b'{"a":' * 1000,
    "a long number": b'{"runbook_name":' + b"9" * 500_000 + b"}",
    "a large number": b'{"runbook_name":"x","version":' + b"9" * 400 + b"}",
    "not finite": b'{"anomaly_score":NaN,"alerts":Infinity}',
    "no character": b'{"runbook_name":"\\ud800"}',
    "no text": b'{"runbook_name":"\xff\xfe"}',
    "a zero": b"\x00",
    "another encoding": '{"runbook_name":"x"}'.encode("utf-16"),
    "no object": b'"text"',
    "many members": b"{" + b",".join(b'"%d":0' % one for one in range(60_000)) + b"}",
    "a field twice": b'{"runbook_name":"x","runbook_name":"y","decision":"approve","decision":"reject"}',
    "many lists": b'{"alerts":[' + b"[]," * 200_000 + b"[]]}",
    "too many alerts": b'{"alerts":[' + b"{}," * 600 + b"{}]}",
    "odd alerts": json.dumps(
        {"alerts": [None, {}, {"labels": 1}, {"labels": {"job": "\x00", "alertname": []}, "startsAt": 1e300}]}
    ).encode(),
    "odd anomalies": json.dumps(
        {"events": [None, [], {"service_id": {}}, {"timestamp": "0001-01-01T00:00:00+23:59"}]}
    ).encode(),
}
WRITING = [route for route in ROUTES if route.method in {"POST", "PUT"}]
PATHS = {"execution_id": "e", "name": "scale-out-payment-api"}


def path_of(route) -> str:
    return route.path.format(**PATHS)


@pytest.fixture
async def api(world, web):
    """An execution waits, so that routes come as far as their bodies."""
    world.history.executions["e"] = story(slack(require_approval=True)).prepared().state
    return web


@pytest.mark.parametrize("body", BODIES, ids=str)
@pytest.mark.parametrize("route", WRITING, ids=lambda route: route.name)
async def test_no_body_breaks_a_route(api, route, body, caplog):
    answer = await api.call(route.method, path_of(route), raw=BODIES[body])
    assert answer.status < 500, answer
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.fixture
def odd():
    """The odd values of the readers' own tests."""
    specification = importlib.util.spec_from_file_location("bad_input", "tests/core/test_bad_input.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["put_runbook", "validate", "publish", "execute", "decide", "alertmanager"])
async def test_no_odd_field_breaks_a_route(api, odd, name, caplog):
    route = next(route for route in ROUTES if route.name == name)
    alert = {"labels": {"job": "j", "alertname": "n", "anomaly_score": "0.9"}, "startsAt": "2026-01-01T00:00:00Z"}
    sample = {
        "put_runbook": odd.CONTENT | {"name": "scale-out-payment-api"},
        "validate": odd.CONTENT,
        "publish": orjson.loads(odd.ANOMALY),
        "execute": {"runbook_name": "scale-out-payment-api", "dry_run": True, "context": {"service_id": "s"}},
        "decide": {"step": 0, "decision": "reject", "comment": "c", "digest": "d"},
        "alertmanager": {"alerts": [alert, alert | {"annotations": {"value": "1"}, "status": "firing"}]},
    }[name]
    for seed in range(80):
        answer = await api.call(route.method, path_of(route), raw=odd.spoiled(orjson.dumps(sample), seed))
        assert answer.status < 500, (seed, answer)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


QUERIES = [
    *("limit=" + "9" * 5000, "cursor=%00", "cursor=" + "A" * 999, "limit=%FF", "a=" * 500),
    *("from=0001-01-01T00:00:00%2B23:59", "from=9999-12-31T23:59:59-23:59", "to=1e400", "status=%F0%9F%92%A9"),
    *("service_id=%00", "limit=1&limit=2", "dry_run=", "=", "%", "&" * 5000),
]


@pytest.mark.parametrize("query", QUERIES)
async def test_no_query_breaks_the_history(api, query):
    answer = await api.call("GET", f"/api/v1/runbooks/history?{query}")
    assert answer.status < 500, answer


@pytest.mark.parametrize("name", ["%00", "%FF%FE", "a" * 5000, "..%2f..%2fetc", "%0d%0aX: y", "%E2%80%AE"])
@pytest.mark.parametrize("path", ["/api/v1/executions/{}", "/api/v1/runbooks/{}", "/api/v1/executions/{}/events"])
async def test_no_name_breaks_a_route(api, path, name):
    async with api.client.request("GET", path.format(name), headers={"Authorization": "Bearer x"}) as answer:
        assert answer.status in {400, 401, 404}
    assert (await api.call("GET", path.format(name))).status in {400, 404}


async def exchange(api, raw: bytes) -> bytes:
    """The beginning of what comes back for these bytes; the connection may be closed at any time."""
    reader, writer = await asyncio.open_connection(api.client.host, api.client.port)
    try:
        writer.write(raw)
        await writer.drain()
        async with asyncio.timeout(10):
            return await reader.read(4096)
    except ConnectionError:
        return b""
    finally:
        writer.close()


RAW = [
    b"\x00\x01\x02\r\n\r\n",
    b"GET\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"A: b\r\n" * 50_000 + b"\r\n",
    b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
    b"POST /api/v1/anomalies HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    b"POST /api/v1/anomalies HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    b"POST /api/v1/anomalies HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nA\xff\xfe: \xff\r\n\r\n",
    b"GET /healthz HTTP/1.1\r\nHost: x\r\nA: b\rB: c\r\n\r\n",
    b"POST /slack/interactions HTTP/1.1\r\nHost: x\r\nX-Slack-Signature: \xff\xfe\r\nContent-Length: 0\r\n\r\n",
]


@pytest.mark.parametrize("raw", RAW, ids=range(len(RAW)))
async def test_bytes_that_are_no_request_of_ours(api, raw):
    said = await exchange(api, raw)
    assert said[8:10] != b" 5", said[:300]
    assert (await api.plain("GET", "/healthz")).status == 200


async def test_a_small_body_that_unpacks_to_a_huge_one_is_refused_before_it_is_unpacked(api):
    bomb = gzip.compress(b" " * 200_000_000, 9)
    assert len(bomb) < 300_000
    tracemalloc.start()
    try:
        answer = await api.call("POST", "/api/v1/anomalies", raw=bomb, headers={"Content-Encoding": "gzip"})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status == 413
    assert peak < 50_000_000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "nonsense"])
@pytest.mark.parametrize("body", [b"{}", b"\x1f\x8b\x08nonsense", zlib.compress(b"{}")[:-3]])
async def test_a_body_that_does_not_unpack_is_the_senders_mistake(api, token, encoding, body):
    """Some of it is answered by aiohttp's own parser, before the API is asked."""
    head = f"POST /api/v1/anomalies HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token(roles=['admin'])}\r\n"
    head += f"Content-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    said = await exchange(api, head.encode() + body)
    assert said[8:10] == b" 4", said[:300]


ACTION = {
    "type": "block_actions",
    "team": {"id": "T1"},
    "user": {"id": "U1", "team_id": "T1"},
    "container": {"channel_id": "C1", "message_ts": "1.1"},
    "actions": [{"action_id": APPROVE, "block_id": "b", "type": "button", "value": REFERENCE}],
    "response_url": "http://127.0.0.1:9/x",
    "trigger_id": "t",
}
VIEW = {
    "type": "view_submission",
    "team": {"id": "T1"},
    "user": {"id": "U1"},
    "view": {
        "type": "modal",
        "callback_id": REASON_VIEW,
        "private_metadata": json.dumps({"value": REFERENCE, "channel": "C1", "ts": "1.1"}),
        "state": {"values": {REASON_BLOCK: {REASON_INPUT: {"value": "why"}}}},
    },
}
FORMS = [b"payload=", b"payload=%7B", b"payload=[]", b"payload=7", b"a=b", b"payload=%ff", b"payload={}&" * 50_000]
TYPES = ["application/x-www-form-urlencoded", "application/json", "x/y; charset=nonsense"]


class TestSlack:
    SECRET = "signed by slack"

    @pytest.fixture
    async def api(self, world, serve):
        world.history.executions["e"] = story(slack(require_approval=True)).prepared().state
        rules = SlackRules(
            users=SlackUsers(), bot_token="xoxb", base_url="http://127.0.0.1:9/api/", signing_secret=self.SECRET
        )
        return await serve(world.parts(slack=rules, clock=lambda: T0))

    async def send(self, api, body: bytes, content_type="application/x-www-form-urlencoded"):
        now = str(int(time.time()))
        signed = hmac.new(self.SECRET.encode(), f"v0:{now}:".encode() + body, hashlib.sha256).hexdigest()
        headers = {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": f"v0={signed}", "Content-Type": content_type}
        return await api.plain("POST", "/slack/interactions", headers, body)

    @pytest.mark.parametrize("content_type", TYPES)
    async def test_signed_nonsense(self, api, world, content_type):
        for body in [*BODIES.values(), *FORMS]:
            answer = await self.send(api, body, content_type)
            assert 400 <= answer.status < 500, body[:100]
        assert world.log.decisions == []

    @pytest.mark.parametrize("sample", [ACTION, VIEW], ids=["click", "dialog"])
    async def test_signed_odd_interactions(self, api, world, odd, sample):
        for seed in range(60):
            payload = odd.spoiled(orjson.dumps(sample), seed)
            answer = await self.send(api, b"payload=" + quote_plus(payload).encode())
            assert answer.status < 500, (seed, payload[:500])
        assert world.log.decisions
        assert all(decision.refusal for decision in world.log.decisions)

    @pytest.mark.parametrize(
        "headers",
        [
            {},
            {"X-Slack-Signature": "v0=" + "0" * 64},
            {"X-Slack-Signature": "v0=" + "0" * 64, "X-Slack-Request-Timestamp": "9" * 15},
            {"X-Slack-Signature": "v0=" + "0" * 64, "X-Slack-Request-Timestamp": "1e9"},
            {"X-Slack-Signature": "é" * 64, "X-Slack-Request-Timestamp": "1"},
            {"X-Slack-Signature": "v0=" + "0" * 5000, "X-Slack-Request-Timestamp": "-1"},
        ],
    )
    async def test_what_is_not_signed_is_not_read(self, api, headers):
        assert (await api.plain("POST", "/slack/interactions", headers, b"payload={}")).status == 401


HEAD = "POST {} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {}\r\nContent-Length: 500\r\n\r\n"
BODIES_OF = ["/api/v1/anomalies", "/api/v1/runbooks/execute", "/slack/interactions"]


class Served:
    """The API as a worker serves it: a handler goes on when its client hangs up, other than in aiohttp's own tests."""

    def __init__(self, port, registry, token):
        self.port, self.registry, self.token = port, registry, token

    @asynccontextmanager
    async def client(self, path, body):
        """One that says it will send 500 bytes, and has sent these."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(HEAD.format(path, self.token(roles=["admin"])).encode() + body)
        await writer.drain()
        yield reader, writer
        writer.close()

    async def answered(self, status):
        """Until a request is counted with this status."""

        async def counted():
            found = [
                sample.labels["status"] for one in self.registry.collect() for sample in one.samples if one.name == NAME
            ]
            return str(status) in found

        await until(counted)


NAME = "runbooks_http_requests"


@pytest.fixture
async def served(world, token):
    """With Slack's door open, and little patience."""
    rules = SlackRules(SlackUsers(), "xoxb-1", "http://127.0.0.1:9/api/", signing_secret="s" * 32)
    parts = world.parts(slack=rules, patience=Patience(seen_s=0.1, dry_run_s=0.5, body_s=0.3))
    async with AsyncExitStack() as stack:
        yield Served(await serve(stack, build_web(parts), ApiSettings(port=0)), parts.registry, token)


@pytest.mark.parametrize("path", BODIES_OF)
async def test_a_body_that_does_not_end_is_waited_for_no_longer_than_that(served, path):
    async with served.client(path, b'{"a":') as (reader, _):
        assert (await reader.readline()).startswith(b"HTTP/1.1 408 ")


async def test_after_that_the_connection_is_closed(served):
    async with served.client("/api/v1/anomalies", b'{"a":') as (reader, _):
        async with asyncio.timeout(60):
            said = await reader.read()
    assert b'"status":408' in said


@pytest.mark.parametrize("begun", [b"", b"GET / HTTP/1.1\r\n", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\nGET /h"])
async def test_a_head_that_never_ends_is_waited_for_no_longer_than_that(world, monkeypatch, begun):
    monkeypatch.setattr("app.main.WEB_IDLE_S", 0.5)
    async with AsyncExitStack() as stack:
        port = await serve(stack, build_web(world.parts()), ApiSettings(port=0))
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(begun)

        async def keep_on():
            while begun:
                writer.write(b"a")
                await asyncio.sleep(0.01)

        sending = asyncio.create_task(keep_on())
        async with asyncio.timeout(60):
            said = await reader.read()
        sending.cancel()
        writer.close()
    assert said.startswith(b"HTTP/1.1 200") or not said


async def test_who_sends_a_byte_now_and_then_gains_no_time(served):
    async with served.client("/api/v1/anomalies", b"{") as (reader, writer):
        answer = asyncio.ensure_future(reader.readline())
        while not answer.done():
            writer.write(b" ")
            await asyncio.sleep(0.01)
        assert (await answer).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("path", BODIES_OF)
async def test_a_client_that_hangs_up_within_its_body_is_no_failure_of_ours(served, path, caplog):
    async with served.client(path, b'{"a":'):
        pass
    await served.answered(400)
    assert [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}] == []


async def test_a_client_that_hangs_up_before_its_answer_is_no_failure_of_ours(served, world, caplog):
    world.log.plans = False  # the dry run's plan does not come, and is waited for
    body = b'{"runbook_name":"scale-out-payment-api","dry_run":true}'.ljust(500)
    async with served.client("/api/v1/runbooks/execute", body):
        await world.log.written.wait()
    await served.answered(202)
    assert [record for record in caplog.records if record.levelname in {"ERROR", "WARNING"}] == []
