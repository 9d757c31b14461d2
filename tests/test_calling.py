"""What the commands ask the API for, on a real socket."""

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import parse_qs, unquote

import pytest
from aiohttp import web
from command_line import run_main


async def refuse(_):
    return web.json_response({"detail": "asked for"}, status=404)


class Server:
    """An HTTP server that keeps what it was asked for, and answers all of it alike."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, list[str], dict[str, str]]] = []
        self.url = ""
        self.handler = refuse

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        path, _, query = request.raw_path.partition("?")
        named = {name: value for name, (value,) in parse_qs(query).items()}
        self.asked.append((request.method, [unquote(one) for one in path.split("/")[1:]], named))
        return await self.handler(request)


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


async def hang_up(request):
    request.transport.close()
    return web.Response()


async def hang_up_midway(request):
    answer = web.StreamResponse(headers={"Content-Length": "100"})
    await answer.prepare(request)
    await answer.write(b"{")
    request.transport.close()
    return answer


async def page_of_a_proxy(_):
    return web.Response(text="<html>\x1b[2JBad Gateway</html>", status=502, content_type="text/html")


async def nothing_of_a_proxy(_):
    return web.Response(status=502)


async def json_of_a_proxy(_):
    return web.json_response({"message": "no healthy upstream"}, status=503)


async def a_list(_):
    return web.json_response([1])


async def no_text(_):
    return web.Response(body=b'{"a": "\xff"}', content_type="application/json")


NOT_OURS = [
    (page_of_a_proxy, "answered 502, and not as this API does: <html>\\x1b[2JBad Gateway</html>\n"),
    (nothing_of_a_proxy, "answered 502, and not as this API does: with nothing\n"),
    (json_of_a_proxy, 'answered 503, and not as this API does: {"message": "no healthy upstream"}\n'),
    (a_list, "answered 200, and not as this API does: [1]\n"),
    (no_text, "answered 200, and not as this API does: "),
    (hang_up, "did not come, or not whole: ServerDisconnectedError"),
    (hang_up_midway, "did not come, or not whole: ClientPayloadError"),
]


@pytest.mark.parametrize(("handler", "said"), NOT_OURS, ids=[one[0].__name__ for one in NOT_OURS])
async def test_what_is_no_answer_of_the_api_is_one_sentence(server, tmp_path, handler, said):
    server.handler = handler
    for arguments in (("pauses",), ("resume", "freeze")):
        ended = await asyncio.to_thread(run_main, tmp_path, *arguments, RUNBOOKS_TOKEN="x", API_URL=server.url)
        assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
        assert ended.err.startswith("runbooks: ")
        assert said in ended.err


async def test_what_was_asked_for_may_be_done_where_the_answer_was_lost(server, tmp_path):
    server.handler = hang_up
    told = {}
    for name, arguments in {"read": ["pauses"], "write": ["resume", "freeze"]}.items():
        ended = await asyncio.to_thread(run_main, tmp_path, *arguments, RUNBOOKS_TOKEN="x", API_URL=server.url)
        told[name] = "perhaps what was asked for is done" in ended.err
    assert told == {"read": False, "write": True}


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://localhost", "http://", "http://[", "http://h:99999", "8080"])
def test_an_address_that_is_none_is_one_sentence_with_an_example(tmp_path, url):
    ended = run_main(tmp_path, "history", RUNBOOKS_TOKEN="x", API_URL=url)
    assert ended == (1, "", f"runbooks: API_URL, or --url, must be as http://localhost:8080, and it is {url!r}\n")


@pytest.mark.parametrize("token", ["a\nb", "é", b"\xff".decode(errors="surrogateescape")])
def test_a_token_that_cannot_be_one_is_sent_nowhere(tmp_path, token):
    ended = run_main(tmp_path, "history", RUNBOOKS_TOKEN=token, API_URL="http://127.0.0.1:1")
    assert ended == (1, "", "runbooks: the token holds a character that no JWT has, as a line break\n")


@pytest.mark.parametrize("context", ["not json", "{'a': 1}", "{", b"\xff".decode(errors="surrogateescape")])
def test_a_context_that_is_not_json_is_one_sentence(tmp_path, context):
    there = {"RUNBOOKS_TOKEN": "x", "API_URL": "http://127.0.0.1:1"}
    ended = run_main(tmp_path, "execute", "name", "--context", context, **there)
    assert (ended.status, ended.err.startswith("runbooks: --context is not JSON: ")) == (1, True)


async def test_an_answer_without_a_body_is_one(server, tmp_path):
    async def no_content(_):
        return web.Response(status=204)

    server.handler = no_content
    there = {"RUNBOOKS_TOKEN": "x", "API_URL": server.url}
    assert await asyncio.to_thread(run_main, tmp_path, "resume", "freeze", **there) == (0, "freeze: resumed\n", "")
