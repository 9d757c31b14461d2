import asyncio
import datetime as dt
import gzip
import json
import tracemalloc
import zlib

import pytest
from aiohttp import web
from certificates import self_signed

from app.clients.http import MAX_DELAY_S, HttpClient, retry_after_s
from app.clients.network import NetworkPolicy, trust_in
from app.clients.secrets import Secrets
from app.core.errors import ConfigurationError, OutcomeUnknown, PermanentError, TemporaryError
from app.core.planning import OUTPUT_LIMIT, Outcome
from app.settings import NetworkSettings, Settings
from app.wiring import clients_of

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


@pytest.fixture
async def client():
    client = HttpClient(NetworkPolicy(allow_loopback=True))
    yield client
    await client.close()


@pytest.fixture
def ask(client):
    async def send(url, method="GET", *, body=None, headers=None, timeout_s=5.0):
        return await client.request(method, url, headers=headers or {}, body=body, timeout_s=timeout_s)

    return send


@pytest.fixture
async def serve(aiohttp_server):
    """Serve one handler for every method and path; the answer is its URL."""

    async def start(handler):
        application = web.Application(client_max_size=1024**3)
        application.router.add_route("*", "/{path:.*}", handler)
        return str((await aiohttp_server(application)).make_url("/"))

    return start


async def _echo(request):
    content = await request.text()
    return web.json_response(
        {"method": request.method, "type": request.headers.get("Content-Type"), "content": content}
    )


@pytest.mark.parametrize(
    ("body", "kind", "content"),
    [
        ({"a": ["ü"]}, "application/json", '{"a": ["\\u00fc"]}'),
        ([1, None], "application/json", "[1, null]"),
        (5, "application/json", "5"),
        (False, "application/json", "false"),
        ("text ü", "text/plain; charset=utf-8", "text ü"),
        (None, None, ""),
    ],
)
async def test_json_is_sent_as_json_and_text_as_text(ask, serve, body, kind, content):
    answer = await ask(await serve(_echo), "POST", body=body)
    got = {key: answer.body[key] for key in ("method", "content")}
    assert got == {"method": "POST", "content": content}
    assert kind is None or answer.body["type"] == kind


async def test_a_content_type_that_is_given_stays(ask, serve):
    answer = await ask(await serve(_echo), "POST", body="a: 1", headers={"content-type": "application/yaml"})
    assert answer.body["type"] == "application/yaml"


def said(body: bytes, kind: str = "application/json"):
    async def handler(_request):
        return web.Response(body=body, content_type=kind)

    return handler


DEEP = b"[" * 70 + b"]" * 70


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b'{"a": 1.5}', {"a": 1.5}),
        (b"5", 5),
        (b"null", None),
        (b"", None),
        (b"plain", "plain"),
        (b"{broken", "{broken"),
        (b"\xff\xfe", "\ufffd\ufffd"),
        (b"[NaN]", ["NaN"]),
        (b"[1e999]", "[1e999]"),
        (b"[18446744073709551615]", [18446744073709551615]),
        (b"[18446744073709551616]", "[18446744073709551616]"),
        (b'["\\ud800"]', '["\\ud800"]'),
        (b"[" * 60 + b"]" * 60, json.loads(b"[" * 60 + b"]" * 60)),
        (DEEP, DEEP.decode()),
        (b"[" * 30_000, "[" * 30_000),
    ],
)
async def test_every_answer_becomes_something_the_log_can_hold(ask, serve, raw, body):
    answer = await ask(await serve(said(raw)))
    assert (answer.body, answer.truncated) == (body, False)
    kept = Outcome(outcome="succeeded", output={"status": 200, "body": answer.body})
    assert Outcome.model_validate_json(kept.model_dump_json()) == kept


async def test_headers_are_found_in_any_case_and_hold_no_odd_bytes(ask, raw, scripts):
    script = scripts["answer"](b"HTTP/1.1 200 OK\r\nretry-after: 7\r\nx-odd: \xff\r\nContent-Length: 0\r\n\r\n")
    async with raw(script) as server:
        answer = await ask(server.url)
    assert answer.retry_after_s(NOW) == 7.0
    answer.headers["X-Odd"].encode()


@pytest.mark.parametrize("status", [204, 301, 302, 307, 400, 404, 408, 429, 500, 503])
async def test_an_answer_is_an_answer_whatever_its_status(ask, serve, status):
    calls = []

    async def handler(request):
        calls.append(request.path)
        return web.Response(status=status, headers={"Location": "/elsewhere"})

    answer = await ask(await serve(handler), "POST")
    assert (answer.status, answer.headers["location"], calls) == (status, "/elsewhere", ["/"])


async def test_a_huge_answer_is_cut_and_not_read_on(ask, serve):
    written = 0

    async def handler(request):
        nonlocal written
        response = web.StreamResponse()
        await response.prepare(request)
        try:
            while written < 500 * OUTPUT_LIMIT:
                await response.write(b"x" * OUTPUT_LIMIT)
                written += OUTPUT_LIMIT
        except ConnectionError:
            pass
        return response

    answer = await ask(await serve(handler))
    assert (len(answer.body), answer.truncated) == (OUTPUT_LIMIT, True)
    assert written < 500 * OUTPUT_LIMIT


async def test_exactly_the_limit_is_not_cut(ask, serve):
    answer = await ask(await serve(said(b"y" * OUTPUT_LIMIT, "text/plain")))
    assert (len(answer.body), answer.truncated) == (OUTPUT_LIMIT, False)


@pytest.mark.parametrize("coding", ["gzip", "deflate"])
async def test_a_small_answer_that_unpacks_to_a_huge_one_is_cut_and_never_unpacked_whole(ask, serve, coding):
    packed = (gzip.compress if coding == "gzip" else zlib.compress)(b"0" * 200_000_000)

    async def handler(_request):
        return web.Response(body=packed, headers={"Content-Encoding": coding})

    url = await serve(handler)
    tracemalloc.start()
    try:
        answer = await ask(url)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(answer.body), answer.truncated) == (OUTPUT_LIMIT, True)
    assert most < 10_000_000


async def test_a_character_that_the_cut_broke_is_dropped(ask, serve):
    answer = await ask(await serve(said(b"z" * (OUTPUT_LIMIT - 1) + "ü".encode() * 5, "text/plain")))
    assert answer.body == "z" * (OUTPUT_LIMIT - 1)


async def test_nothing_listens_then_nothing_was_sent(ask, unused_tcp_port):
    with pytest.raises(TemporaryError, match="not connected"):
        await ask(f"http://127.0.0.1:{unused_tcp_port}/", "POST")


async def test_no_answer_in_time_is_unknown(ask, hanging):
    with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.2 s"):
        await ask(hanging.url, "POST", timeout_s=0.2)
    assert len(hanging.seen) == 1


async def test_no_connection_in_time_was_never_sent(ask, hanging):
    with pytest.raises(TemporaryError, match="not connected in time"):
        await ask(hanging.url.replace("http://", "https://"), "POST", timeout_s=0.2)
    assert hanging.seen == []


@pytest.mark.parametrize(
    "begun",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf of it",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Le",
    ],
)
async def test_an_answer_that_stops_in_the_middle_is_unknown(ask, raw, begun):
    async def stop(_reader, writer):
        writer.write(begun)
        await server.released.wait()

    async with raw(stop) as server:
        with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.2 s"):
            await ask(server.url, "POST", timeout_s=0.2)
        server.released.set()


async def test_an_answer_that_drips_gets_no_more_time_for_every_drop(ask, raw):
    dripped = 0

    async def drip(_reader, writer):
        nonlocal dripped
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n")
        while not writer.transport.is_closing():
            writer.write(b"x")
            await writer.drain()
            dripped += 1
            await asyncio.sleep(0.02)

    async with raw(drip) as server:
        with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.3 s"):
            await ask(server.url, "POST", timeout_s=0.3)
    assert 0 < dripped < 1000


async def test_a_name_that_nobody_knows_was_never_asked(ask):
    with pytest.raises(TemporaryError, match="not connected"):
        await ask("http://nobody.invalid/", "POST")


async def test_a_redirect_to_where_credentials_lie_is_an_answer_and_nothing_more(ask, serve):
    where = "http://169.254.169.254/latest/meta-data/"

    async def handler(_request):
        return web.Response(status=302, headers={"Location": where})

    answer = await ask(await serve(handler))
    assert (answer.status, answer.headers["Location"], answer.body) == (302, where, None)


async def test_a_reset_before_the_request_was_read_is_unknown_too_because_it_may_have_been(ask, unused_tcp_port):
    def refuse(_reader, writer):
        writer.transport.abort()

    server = await asyncio.start_server(refuse, "127.0.0.1", unused_tcp_port)
    with pytest.raises(OutcomeUnknown, match="broke before the whole answer"):
        await ask(f"http://127.0.0.1:{unused_tcp_port}/", "POST", body="x" * 1_000_000)
    server.close()
    await server.wait_closed()


async def test_the_message_about_a_broken_answer_leaves_the_url_out(ask, raw, scripts):
    async with raw(scripts["answer"](b"nonsense\r\n\r\n")) as server:
        with pytest.raises(OutcomeUnknown) as caught:
            await ask(server.url + "/?token=a+b/c", "POST")
    assert "token" not in str(caught.value)


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "GET"])
async def test_a_reset_after_sending_is_unknown_and_nothing_is_sent_again(ask, raw, scripts, method):
    async with raw(scripts["reset"]) as server:
        with pytest.raises(OutcomeUnknown, match="broke before the whole answer"):
            await ask(server.url, method, body={"a": 1})
    assert len(server.seen) == 1


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
        b"HTTP/1.1 \xff\xff nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX-Long: " + b"a" * 100_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"".join(b"X-%d: a\r\n" % number for number in range(100_000)) + b"\r\n",
        b"HTTP/1.1 99999 Huge\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhelloTOOLONG\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nnogz!",
    ],
)
async def test_a_malformed_answer_is_unknown_and_the_message_can_be_kept(ask, raw, scripts, bytes_sent):
    async with raw(scripts["answer"](bytes_sent)) as server:
        with pytest.raises(OutcomeUnknown) as caught:
            await ask(server.url, "POST")
    str(caught.value).encode()


async def test_a_request_is_sent_once_and_on_a_connection_of_its_own(ask, serve):
    ports = []

    async def handler(request):
        ports.append(request.transport.get_extra_info("peername")[1])
        return web.Response()

    url = await serve(handler)
    await ask(url)
    await ask(url)
    assert len(set(ports)) == 2


async def test_no_cookie_is_kept_for_the_next_request(ask, serve):
    cookies = []

    async def handler(request):
        cookies.append(request.headers.get("Cookie"))
        return web.Response(headers={"Set-Cookie": "session=1"})

    url = await serve(handler)
    await ask(url)
    await ask(url)
    assert cookies == [None, None]


@pytest.mark.parametrize("headers", [{"X-Bad": "a\r\nX-Injected: 1"}, {"X-Bad\n": "1"}])
async def test_a_header_that_cannot_be_is_never_sent(ask, raw, scripts, headers):
    async with raw(scripts["answer"](b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")) as server:
        with pytest.raises(PermanentError, match="cannot be sent"):
            await ask(server.url, headers=headers)
    assert server.seen == []


@pytest.fixture
async def private(aiohttp_server, tmp_path):
    """A server with a certificate that only ``server.pem`` vouches for."""
    application = web.Application()
    application.router.add_get("/", _echo)
    return await aiohttp_server(application, ssl=self_signed(tmp_path))


async def test_a_certificate_that_does_not_hold_is_refused(ask, private):
    with pytest.raises(PermanentError, match="certificate does not hold"):
        await ask(f"https://localhost:{private.port}/")


async def test_a_private_authority_is_trusted_for_its_own_names_only(private, tmp_path):
    network = NetworkSettings(allow_loopback=True, ca_file=tmp_path / "server.pem")
    client = clients_of(Settings(network=network), Secrets()).http
    try:
        answer = await client.request("GET", f"https://localhost:{private.port}/", headers={}, timeout_s=5)
        assert answer.status == 200
        with pytest.raises(PermanentError, match=r"certificate does not hold: .*127\.0\.0\.1"):
            await client.request("GET", f"https://127.0.0.1:{private.port}/", headers={}, timeout_s=5)
    finally:
        await client.close()


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_a_file_without_authorities_names_the_setting(tmp_path, content):
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"RUNBOOKS_NETWORK__CA_FILE: .*ca\.pem holds no PEM"):
        trust_in(path)


async def test_a_server_without_tls_was_not_reached(ask, serve):
    with pytest.raises(TemporaryError, match="not connected"):
        await ask((await serve(_echo)).replace("http://", "https://"))


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("0", 0.0),
        (" 120 ", 120.0),
        ("Thu, 01 Jan 2026 00:02:00 GMT", 120.0),
        ("Thu, 01 Jan 2026 00:02:00", 120.0),
        ("Wed, 31 Dec 2025 00:00:00 GMT", 0.0),
        ("Thu, 01 Jan 2099 00:00:00 GMT", MAX_DELAY_S),
        ("9" * 400, MAX_DELAY_S),
        ("-5", None),
        ("1.5", None),
        ("²", None),
        ("soon", None),
        ("Thu, 01 Jan 99999 00:00:00 GMT", None),
        ("", None),
    ],
)
def test_retry_after_in_both_forms(value, seconds):
    assert retry_after_s(value, NOW) == seconds


async def test_closing_twice_and_opening_again(client, ask, serve):
    url = await serve(_echo)
    await ask(url)
    await client.close()
    await client.close()
    assert (await ask(url)).status == 200
