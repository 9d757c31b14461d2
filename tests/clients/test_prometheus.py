"""The client towards servers that say what real ones rarely do; the real ones are in tests/actions."""

import asyncio
import json
from datetime import UTC, datetime

import pytest
from aiohttp import web
from certificates import self_signed

from app.clients.network import trust_in
from app.clients.prometheus import MetricServer, PrometheusClient
from app.core.errors import PermanentError, TemporaryError

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
async def client():
    client = PrometheusClient(timeout_s=5.0)
    yield client
    await client.close()


@pytest.fixture
async def server(aiohttp_server):
    """A server whose answer a test sets: ``status``, ``body``, ``headers``; asked holds the requests."""

    class Server:
        def __init__(self):
            self.status, self.body, self.headers, self.asked = 200, b"", {}, []

        async def answer(self, request):
            self.asked.append((request.path, dict(request.headers), dict(await request.post())))
            body = self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()
            return web.Response(status=self.status, body=body, headers=self.headers)

    server = Server()
    application = web.Application()
    application.router.add_post("/{path:.*}", server.answer)
    running = await aiohttp_server(application)
    server.url = str(running.make_url("")).rstrip("/")
    return server


def vector(*values, **more):
    result = [{"metric": {"__name__": "m", "pod": str(n)}, "value": [1.5, value]} for n, value in enumerate(values)]
    return {"status": "success", "data": {"resultType": "vector", "result": result}, **more}


async def test_it_asks_as_the_api_says(client, server, tmp_path):
    server.body = vector("1e+03", "NaN", infos=["a metric might be no counter"])
    (tmp_path / "token").write_text("a token of ours\n")
    there = MetricServer(server.url + "/prometheus/", {"X-Scope-OrgID": "acme"}, bearer_token_file=tmp_path / "token")
    answer = await client.query(there, "m{a='b'}", NOW)
    path, headers, form = server.asked[0]
    assert path == "/prometheus/api/v1/query"
    assert form == {"query": "m{a='b'}", "time": "1767225600.000", "timeout": "5", "nocache": "1"}
    assert (headers["X-Scope-OrgID"], headers["Authorization"]) == ("acme", "Bearer a token of ours")
    assert [str(one.value) for one in answer.series] == ["1000.0", "nan"]
    assert (answer.series[0].labels, answer.doubt, answer.raw) == ({"__name__": "m", "pod": "0"}, "", False)


async def test_credentials_are_read_for_every_query(client, server, tmp_path):
    server.body = vector()
    there = MetricServer(server.url, username="ann", password_file=tmp_path / "password")
    with pytest.raises(PermanentError, match="the credentials of the metric server cannot be read: FileNotFoundError"):
        await client.query(there, "m", NOW)
    (tmp_path / "password").write_text("geheim")
    await client.query(there, "m", NOW)
    (tmp_path / "password").write_text("anders")
    await client.query(there, "m", NOW)
    assert [asked[1]["Authorization"] for asked in server.asked] == ["Basic YW5uOmdlaGVpbQ==", "Basic YW5uOmFuZGVycw=="]


@pytest.mark.parametrize(
    ("more", "doubt"),
    [
        ({"warnings": ["store 10.0.0.7 is\naway", "x"]}, "the answer may not be complete: store 10.0.0.7 is away; x"),
        ({"isPartial": True}, "the answer may not be complete: a part of the storage did not answer"),
        ({"warnings": [], "isPartial": False}, ""),
        ({"warnings": None}, ""),
    ],
)
async def test_an_answer_that_may_not_be_complete_says_so(client, server, more, doubt):
    server.body = vector("1", **more)
    assert (await client.query(MetricServer(server.url), "m", NOW)).doubt == doubt


def success(kind, result):
    return {"status": "success", "data": {"resultType": kind, "result": result}}


@pytest.mark.parametrize(
    ("status", "body", "error", "said"),
    [
        (
            400,
            {"status": "error", "error": "parse\nerror", "errorType": "bad_data"},
            PermanentError,
            "400: parse error",
        ),
        (422, {"status": "error", "error": "many-to-many"}, PermanentError, "answered 422: many-to-many"),
        (401, b"<html>a token of ours</html>", PermanentError, "the metric server answered 401"),
        (302, b"", PermanentError, "answered 302"),
        (404, b"404 page not found", PermanentError, "answered 404"),
        (500, b"<html>oops</html>", TemporaryError, "answered 500"),
        (503, {"status": "error", "error": "query timed out"}, TemporaryError, "answered 503: query timed out"),
        (200, {"status": "error", "error": "told a token of ours"}, PermanentError, "refuses the query: told ***"),
        (200, b"<html>a login page</html>", PermanentError, "is not the API of a metric server: check its url"),
        (200, b"", PermanentError, "is not the API"),
        (200, [], PermanentError, "is not the API"),
        (200, {"status": "success"}, PermanentError, "is not the API"),
        (200, success("vector", [{"metric": {}}]), PermanentError, "is not the API"),
        (200, success("matrix", [{"metric": {}, "values": []}]), PermanentError, "is not the API"),
        (200, success("string", [1, "a"]), PermanentError, "gives a text, not a number"),
        (200, success("vector", [{"metric": {}, "histogram": [1, {}]}]), PermanentError, "gives a histogram"),
        (200, vector("many"), PermanentError, "holds a value that is no number or no time"),
        (200, success("scalar", [1e300, "1"]), PermanentError, "holds a value that is no number or no time"),
        (200, vector(*["1"] * 3000), PermanentError, "is larger than 64 KiB: aggregate the query"),
    ],
)
async def test_what_is_no_answer_is_an_error_that_says_why(client, server, tmp_path, status, body, error, said):
    server.status, server.body = status, body
    server.headers = {"Location": "/elsewhere"}
    (tmp_path / "token").write_text("a token of ours")
    with pytest.raises(error) as raised:
        await client.query(MetricServer(server.url, bearer_token_file=tmp_path / "token"), "m", NOW)
    assert said in str(raised.value)
    assert "a token of ours" not in str(raised.value)
    assert len(server.asked) == 1


async def test_a_server_that_asks_for_time_is_given_it(client, server):
    server.status, server.headers = 429, {"Retry-After": "7"}
    with pytest.raises(TemporaryError) as raised:
        await client.query(MetricServer(server.url), "m", NOW)
    assert raised.value.delay_s == 7


async def test_an_answer_that_never_comes_or_breaks_off_is_temporary(hanging, raw, scripts):
    client = PrometheusClient(timeout_s=0.1)
    try:
        with pytest.raises(TemporaryError, match=r"no answer within 0\.1 s"):
            await client.query(MetricServer(hanging.url), "m", NOW)
        async with raw(scripts["reset"]) as broken:
            with pytest.raises(TemporaryError, match="the connection broke"):
                await client.query(MetricServer(broken.url), "m", NOW)
    finally:
        await client.close()


async def test_endless_answers_are_not_read_on(client, raw):
    gone = asyncio.Event()

    async def endless(_reader, writer):
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n" + b'{"status": "success", "data": "')
        try:
            while True:
                writer.write(b"x" * 65536)
                await writer.drain()
        finally:
            gone.set()

    async with raw(endless) as server:
        with pytest.raises(PermanentError, match="larger than 64 KiB"):
            await client.query(MetricServer(server.url), "m", NOW)
        async with asyncio.timeout(5):
            await gone.wait()


@pytest.mark.parametrize("address", ["169.254.169.254", "[fd00:ec2::254]"])
async def test_addresses_where_clouds_keep_credentials_are_refused_here_too(client, address):
    with pytest.raises(PermanentError, match="are never reached"):
        await client.query(MetricServer(f"http://{address}"), "m", NOW)


async def test_a_private_authority_is_trusted_where_it_is_configured(aiohttp_server, client, tmp_path):
    async def answer(_request):
        return web.json_response(vector("1"))

    application = web.Application()
    application.router.add_post("/api/v1/query", answer)
    running = await aiohttp_server(application, ssl=self_signed(tmp_path))
    there = MetricServer(f"https://localhost:{running.port}")
    with pytest.raises(PermanentError, match="certificate does not hold"):
        await client.query(there, "m", NOW)
    trusting = PrometheusClient(trust_in(tmp_path / "server.pem", "RUNBOOKS_METRICS__CA_FILE"))
    try:
        assert (await trusting.query(there, "m", NOW)).series[0].value == 1
    finally:
        await trusting.close()
