"""What the commands ask the API for, on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, unquote

import pytest
from aiohttp import web
from command_line import run_main


class Server:
    """An HTTP server that keeps what it was asked for, and answers all of it alike."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], dict[str, str]]] = []
        self.url = ""

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        named = {name: value for name, (value,) in parse_qs(query).items()}
        self.asked.append((request.method, [unquote(one) for one in path.split("/")[1:]], named))
        return web.json_response({"detail": "asked for"}, status=404)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server = Server()
    runner = web.ServerRunner(web.Server(server.answer))
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    yield server
    await runner.cleanup()


NAMES = ["a+b", "a&b=c", "a#b", "a%41", "a b", "é", "a/../b", "..", "a?b", "../pauses/freeze"]
IN_A_PATH = [
    (("rollback", "NAME"), "POST", ["executions", "NAME", "rollback"]),
    (("approve", "NAME", "--digest", "0"), "POST", ["executions", "NAME", "approvals"]),
    (("reject", "NAME", "--digest", "0"), "POST", ["executions", "NAME", "approvals"]),
    (("pause", "NAME"), "PUT", ["pauses", "NAME"]),
    (("resume", "NAME"), "DELETE", ["pauses", "NAME"]),
    (("explain", "NAME"), "GET", ["anomalies", "NAME", "decisions"]),
]


async def ask(server, folder, *arguments):
    """What a command asks a server for first."""
    tokens = {"RUNBOOKS_TOKEN": "x", "API_URL": server.url}
    assert await asyncio.to_thread(run_main, folder, *arguments, **tokens) == (1, "", "runbooks: asked for\n")
    return server.asked.pop(0)


@pytest.mark.parametrize(("arguments", "method", "segments"), IN_A_PATH, ids=[one[0][0] for one in IN_A_PATH])
async def test_a_name_stays_one_segment_of_the_path(server, tmp_path, arguments, method, segments):
    for name in NAMES:
        given, path = ([name if one == "NAME" else one for one in parts] for parts in (arguments, segments))
        assert await ask(server, tmp_path, *given) == (method, ["api", "v1", *path], {})


@pytest.mark.parametrize("name", NAMES)
async def test_a_value_stays_one_of_the_query(server, tmp_path, name):
    _, path, query = await ask(server, tmp_path, "history", "--service-id", name)
    assert (path[-1], query) == ("history", {"limit": "20", "service_id": name})
    _, path, query = await ask(server, tmp_path, "approve", name)
    assert (path[-1], query) == ("approvals", {"limit": "200", "all": "true", "execution_id": name})
    _, path, query = await ask(server, tmp_path, "coverage", "--since", "2026-01-01T00:00:00+02:00")
    assert (path[-1], query) == ("coverage", {"since": "2026-01-01T00:00:00+02:00"})


async def test_bytes_that_are_no_text_are_sent_as_they_were_given(server, tmp_path):
    _, path, _ = await ask(server, tmp_path, "resume", b"a\xff".decode(errors="surrogateescape"))
    assert path[-1] == unquote("a%ff")


async def test_the_address_of_the_api_may_end_with_a_slash(server, tmp_path):
    server.url += "/"
    assert await ask(server, tmp_path, "pauses") == ("GET", ["api", "v1", "pauses"], {})
