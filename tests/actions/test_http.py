import asyncio
import json
from dataclasses import replace

import pytest
from aiohttp import web
from building import T0, http, story
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from app.actions.http import HttpAction
from app.clients.http import HttpClient
from app.clients.network import NetworkPolicy
from app.clients.opentelemetry_export import exported
from app.clients.traces import Attempt
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.model import canonical
from app.core.planning import OUTPUT_LIMIT
from app.core.spans import sending
from app.core.steps import HttpStep

ACTION = HttpAction()
INCIDENT = HttpStep(
    type="http",
    method="POST",
    url="$PAGERDUTY_URL/incidents",
    headers={"Authorization": "Token $PAGERDUTY_API_TOKEN"},
    body={"type": "incident", "title": "payment-api scaled — monitoring"},
)


def step(**fields) -> HttpStep:
    return HttpStep(**{"type": "http", "method": "POST", "url": "http://8.8.8.8/", **fields})


async def applied(one: HttpStep, scene):
    return await ACTION.apply(one, await ACTION.prepare(one, scene), scene)


@pytest.fixture
async def answering(aiohttp_server):
    """A server with one answer; seen holds the requests."""

    async def start(make_answer):
        seen = []

        async def handler(request: web.Request) -> web.Response:
            seen.append((request.method, dict(request.headers), await request.text()))
            return make_answer(request)

        application = web.Application()
        application.router.add_route("*", "/{path:.*}", handler)
        return str((await aiohttp_server(application)).make_url("/")), seen

    return start


async def test_the_plan_holds_secrets_by_name_only(scene, stand_ins):
    plan = await ACTION.prepare(INCIDENT, scene)
    assert plan.summary == "POST $PAGERDUTY_URL/incidents"
    assert (plan.inverse, plan.manual_reason) == (None, "an HTTP call cannot be taken back")
    assert plan.params["headers"] == {"Authorization": "Token $PAGERDUTY_API_TOKEN"}
    assert plan.params["body"] == INCIDENT.body
    assert "pagerduty-stand-in" not in plan.model_dump_json()
    assert str(stand_ins.port) not in plan.model_dump_json()
    assert stand_ins.incidents == {}


async def test_the_same_step_gives_the_same_digest_and_another_one_another(scene):
    first, again = [await ACTION.prepare(INCIDENT, scene) for _ in range(2)]
    other = await ACTION.prepare(INCIDENT.model_copy(update={"method": "PUT"}), scene)
    assert first == again
    assert len({first.digest, again.digest, other.digest}) == 2


@pytest.mark.parametrize(
    "fields", [{"url": "http://$NOWHERE/"}, {"headers": {"X": "$NOWHERE"}}, {"body": {"a": ["$NOWHERE"]}}]
)
async def test_a_missing_secret_is_found_out_when_planning(scene, fields):
    with pytest.raises(PermanentError, match=r"\$NOWHERE is missing"):
        await ACTION.prepare(step(**fields), scene)


@pytest.mark.parametrize("url", ["http://169.254.169.254/latest", "http://10.0.0.1/", "http://[::ffff:a9fe:a9fe]/"])
async def test_a_refused_address_is_found_out_when_planning(scene, url):
    with pytest.raises(PermanentError, match="is refused"):
        await ACTION.prepare(step(url=url), scene)


async def test_an_incident_is_made_once_however_often_its_command_is_applied(scene, stand_ins):
    first, again = await applied(INCIDENT, scene), await applied(INCIDENT, scene)
    assert (first.outcome, first.error, first.truncated) == ("succeeded", None, False)
    assert first.output["status"] == 201
    assert first.output["body"] == {"incident": {"id": "Q1", "title": "payment-api scaled — monitoring"}}
    assert first.output["headers"]["X-Stand-In"] == "infrasage-demo"
    assert first == again
    assert list(stand_ins.incidents) == [scene.command_id]


async def test_every_attempt_at_a_step_sends_the_same_key(scene, stand_ins):
    again = replace(scene, command_id="execution/7/2/apply/2")
    other = replace(scene, command_id="execution/7/3/apply/1")
    outcomes = [await applied(INCIDENT, one) for one in (scene, again, other)]
    assert [one.output["body"]["incident"]["id"] for one in outcomes] == ["Q1", "Q1", "Q2"]


@pytest.mark.parametrize("name", ["Idempotency-Key", "idempotency-key"])
async def test_a_key_that_the_step_gives_is_the_one_that_is_sent(scene, answering, name):
    url, seen = await answering(lambda _request: web.Response())
    await applied(step(url=url, headers={name: "mine"}), scene)
    assert [value for header, value in seen[0][1].items() if header.lower() == "idempotency-key"] == ["mine"]


async def test_secrets_are_sent_in_url_headers_and_body_and_come_back_masked(scene, answering):
    def echo(request: web.Request) -> web.Response:
        got = {"said": request.headers["X-Token"], request.query["token"]: 1}
        return web.json_response(got, headers={"X-Request-Id": request.headers["X-Token"]})

    url, seen = await answering(echo)
    sent = {"url": url + "?token=$PAGERDUTY_API_TOKEN", "headers": {"X-Token": "${PAGERDUTY_API_TOKEN}"}}
    outcome = await applied(step(**sent, body={"t": "$PAGERDUTY_API_TOKEN", "price": "$$5"}), scene)
    assert json.loads(seen[0][2]) == {"t": "pagerduty-stand-in", "price": "$5"}
    mask = "***PAGERDUTY_API_TOKEN***"
    assert outcome.output["body"] == {"said": mask, mask: 1}
    assert outcome.output["headers"]["X-Request-Id"] == mask


@pytest.mark.parametrize(
    ("status", "headers", "temporary", "delay_s"),
    [
        (400, {}, False, None),
        (401, {"Retry-After": "9"}, False, None),
        (404, {}, False, None),
        (409, {}, False, None),
        (422, {}, False, None),
        (408, {}, True, None),
        (425, {}, True, None),
        (429, {"Retry-After": "9"}, True, 9.0),
        (429, {"retry-after": "Thu, 01 Jan 1970 00:00:00 GMT"}, True, 0.0),
        (500, {}, True, None),
        (503, {"Retry-After": "2"}, True, 2.0),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_what_is_no_success_failed_and_keeps_its_body(
    scene, answering, method, status, headers, temporary, delay_s
):
    url, _ = await answering(lambda _request: web.json_response({"why": "so"}, status=status, headers=headers))
    outcome = await applied(step(url=url, method=method), scene)
    assert outcome.outcome == "failed"
    assert outcome.output["body"] == {"why": "so"}
    assert outcome.error.message == f"the server answered {status}: not a success"
    assert (outcome.error.temporary, outcome.error.delay_s) == (temporary, delay_s)


@pytest.mark.parametrize("status", [502, 504, 520, 524])
async def test_a_gateway_without_an_answer_leaves_it_unknown(scene, answering, status):
    url, _ = await answering(lambda _request: web.json_response({"why": "so"}, status=status))
    outcome = await applied(step(url=url), scene)
    assert (outcome.outcome, outcome.output["body"]) == ("unknown", {"why": "so"})
    assert outcome.error.message == f"a gateway answered {status}: it has no answer from the server behind it"
    assert (await applied(step(url=url, expected_status=[status]), scene)).outcome == "succeeded"


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308, 304])
async def test_a_redirect_is_not_followed_and_says_so(scene, answering, status):
    url, seen = await answering(lambda _request: web.Response(status=status, headers={"Location": "/other"}))
    outcome = await applied(step(url=url), scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", False)
    assert outcome.error.message == f"the server answered {status}: redirects are not followed"
    assert outcome.output["headers"]["Location"] == "/other"
    assert len(seen) == 1


@pytest.mark.parametrize("status", [200, 500])
@pytest.mark.parametrize(
    "body",
    ["x" * 200_000, "\x01" * 60_000, json.dumps(["ü" * 5] * 7_000, ensure_ascii=False), json.dumps("\\" * 31_500)],
)
async def test_no_output_is_larger_than_the_limit(scene, answering, status, body):
    headers = {"X-Request-Id": "r" * 4000}
    url, _ = await answering(lambda _request: web.Response(text=body, status=status, headers=headers))
    outcome = await applied(step(url=url), scene)
    size = len(canonical(outcome.output).encode())
    assert size <= OUTPUT_LIMIT
    assert outcome.truncated
    assert size > OUTPUT_LIMIT - 100


async def test_an_output_within_the_limit_is_whole(scene, answering):
    body = ["ü" * 10] * 500
    url, _ = await answering(lambda _request: web.json_response(body))
    outcome = await applied(step(url=url), scene)
    assert (outcome.output["body"], outcome.truncated) == (body, False)


@pytest.mark.parametrize("kept", [1, 3, 199])
async def test_a_secret_that_the_cut_falls_into_does_not_show_its_beginning(scene, answering, tmp_path, kept):
    value = "".join(chr(65 + index % 26) for index in range(200))
    (tmp_path / "secrets" / "default" / "LONG").write_text(value)
    text = value * 5 + "-" * (OUTPUT_LIMIT - 5 * len(value) - kept) + value  # the masks make room for what is cut
    url, _ = await answering(lambda _request: web.Response(text=text))
    outcome = await applied(step(url=url, headers={"X": "$LONG"}), scene)
    assert outcome.truncated
    assert outcome.output["body"].removeprefix("***LONG***" * 5).strip("-") == ""


async def test_a_call_that_cannot_connect_is_temporary(scene, unused_tcp_port):
    with pytest.raises(TemporaryError, match="not connected"):
        await applied(step(url=f"http://127.0.0.1:{unused_tcp_port}/"), scene)


async def test_the_steps_own_time_limit_holds(scene, answering):
    released = asyncio.Event()

    async def hang(reader, writer):
        await released.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(OutcomeUnknown, match=r"no answer within 0\.2 s"):
        await applied(step(url=f"http://127.0.0.1:{port}/", timeout_seconds=0.2), scene)
    released.set()
    server.close()
    await server.wait_closed()


async def test_a_name_that_leads_inside_is_refused_when_it_connects(with_client, stand_ins):
    http = HttpClient(NetworkPolicy())
    closed = with_client(http=http)
    plan = await ACTION.prepare(step(url=f"http://localhost:{stand_ins.port}/"), closed)
    with pytest.raises(PermanentError, match="loopback addresses are not allowed"):
        await ACTION.apply(step(url=f"http://localhost:{stand_ins.port}/"), plan, closed)
    await http.close()


async def test_a_form_is_sent_as_one_with_its_secrets(scene, answering):
    url, seen = await answering(lambda _: web.Response(text="ok"))
    one = step(url=url, form={"key": "$PAGERDUTY_API_TOKEN", "a b": "c&d"})
    plan = await ACTION.prepare(one, scene)
    assert plan.params["form"] == {"key": "$PAGERDUTY_API_TOKEN", "a b": "c&d"}
    assert (await ACTION.apply(one, plan, scene)).outcome == "succeeded"
    ((_, headers, text),) = seen
    assert headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert text == "key=pagerduty-stand-in&a+b=c%26d"


async def test_a_form_with_a_missing_secret_is_not_planned(scene):
    with pytest.raises(PermanentError, match=r"\$NO_SUCH is missing"):
        await ACTION.prepare(step(form={"key": "$NO_SUCH"}), scene)


@pytest.mark.parametrize(("status", "outcome"), [(404, "succeeded"), (200, "succeeded"), (201, "failed")])
async def test_only_the_expected_statuses_are_a_success(scene, answering, status, outcome):
    url, _ = await answering(lambda _: web.Response(status=status))
    assert (await applied(step(url=url, expected_status=[200, 404]), scene)).outcome == outcome


class TestTraces:
    """A call as a span, and what its target is told of it."""

    def traced(self, scene, memory, *, to_targets):
        traces = exported("me", lambda: T0, to_targets=to_targets, processor=SimpleSpanProcessor(memory))
        command = story(http()).command
        attempt = Attempt.at(traces, command, sending(command), interrupted=False)
        return replace(scene, attempt=attempt)

    @pytest.fixture
    def memory(self):
        return InMemorySpanExporter()

    @pytest.mark.parametrize("to_targets", [True, False])
    async def test_targets_are_told_only_where_that_is_wanted(self, scene, answering, memory, to_targets):
        url, seen = await answering(lambda _: web.Response(status=503))
        await applied(step(url=f"{url}a?token=t"), self.traced(scene, memory, to_targets=to_targets))
        (call,) = memory.get_finished_spans()
        ((_, headers, _),) = seen
        given = f"00-{call.context.trace_id:032x}-{call.context.span_id:016x}-01"
        assert headers.get("traceparent") == (given if to_targets else None)
        port = int(url.rstrip("/").rpartition(":")[2])
        assert call.attributes == {
            "http.request.method": "POST",
            "server.address": "127.0.0.1",
            "server.port": port,
            "http.response.status_code": 503,
        }
        assert call.status.description == "503"

    async def test_a_steps_own_header_stays(self, scene, answering, memory):
        url, seen = await answering(lambda _: web.Response())
        own = step(url=url, headers={"Traceparent": "mine"})
        await applied(own, self.traced(scene, memory, to_targets=True))
        assert [value for name, value in seen[0][1].items() if name.lower() == "traceparent"] == ["mine"]

    async def test_a_call_without_an_answer_is_an_error(self, scene, memory):
        with pytest.raises(PermanentError):
            await ACTION.apply(step(url="http://169.254.169.254/"), None, self.traced(scene, memory, to_targets=False))
        (call,) = memory.get_finished_spans()
        assert (call.attributes["server.address"], call.status.description) == ("169.254.169.254", "no answer")

    @pytest.mark.parametrize("url", ["http://[::1", "http://x:port/", "nothing", "http://$HOST/"])
    async def test_an_odd_url_has_no_host_that_is_told(self, scene, memory, url):
        with self.traced(scene, memory, to_targets=False).attempt.calling("GET", url):
            pass
        assert set(memory.get_finished_spans()[0].attributes) == {"http.request.method"}
