"""The runner: one command in, events out, towards the stand-ins."""

import asyncio
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from aiohttp import web
from building import http, slack, story

from app.actions.runner import Claim, Runner
from app.clients.secrets import Secrets
from app.core.planning import OUTPUT_ALWAYS, OUTPUT_LIMIT, size_of

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def carry_out(clients):
    """Carry out one command; the events it was answered with."""

    async def run(command, **changed):
        told = []

        async def record(event):
            told.append(event)

        runner = Runner(replace(clients, **changed), "me", 15.0, 5.0, lambda: NOW, lambda: 0.0)
        await runner.run(command, Claim(until=60.0, held=lambda: True), record)
        return told

    return run


@pytest.mark.parametrize(
    ("seconds", "owned", "said"),
    [
        ([60.0], True, ["step_interrupted"]),
        ([60.0], False, []),
        ([0.0, 60.0], True, ["step_finished"]),
        ([0.0, 60.0], False, []),
    ],
)
async def test_a_worker_that_is_too_late_to_begin_starts_nothing_and_speaks_only_for_what_is_still_its_own(
    clients, seconds, owned, said
):
    """It was stopped after it took the command (the first two), or while it planned it."""
    told = []

    async def record(event):
        told.append(event.type)

    passed = iter(seconds)
    runner = Runner(clients, "me", 0.01, 5.0, lambda: NOW, lambda: next(passed))
    claim = Claim(until=60.0, held=lambda: True, owned=lambda: owned)
    await runner.run(story(http(url="http://127.0.0.1:1/")).command, claim, record)
    assert told == said


@pytest.fixture
async def silent():
    """A TCP server that accepts connections and says nothing, not even a TLS handshake."""
    released = asyncio.Event()

    async def hang(_reader, writer):
        await released.wait()
        writer.close()
        await writer.wait_closed()

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    released.set()
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    ("scheme", "outcome", "message"),
    [("https", "failed", "not connected in time"), ("http", "unknown", "no answer within 0.2 s")],
)
async def test_a_request_that_never_left_has_failed_even_when_its_time_is_over(
    carry_out, silent, scheme, outcome, message
):
    command = story(http(url=f"{scheme}://127.0.0.1:{silent}/", timeout_seconds=0.2)).command
    _, finished = await carry_out(command)
    assert (finished.outcome.outcome, finished.outcome.error.message) == (outcome, message)


@pytest.mark.parametrize(
    "body",
    [
        {"n": "{{ steps[0].output.body.n + 1 }}"},
        {"all": "{% for one in steps[0].output.body %}{% endfor %}"},
        {"all": "{{ steps[0].output.body | join(',') }}"},
        {"all": "{{ steps[0].output.body | tojson }}"},
    ],
)
async def test_a_dry_run_says_what_depends_on_earlier_steps(carry_out, body):
    told = story(http(), http(body=body), dry_run=True).prepared()
    (prepared,) = await carry_out(told.command)
    assert prepared.plan.summary == "http POST: depends on what earlier steps give back"


@pytest.mark.parametrize(
    ("when", "planned"),
    [
        ("steps[0].status == 'succeeded'", True),
        ("steps[0].output != null && steps[0].output.status == 201", True),
        ("steps[0].output.status == 201", True),
        ("steps[0].status == 'failed'", False),
        ("steps[1].status == 'succeeded'", False),
        ("context.n == 1", False),
    ],
)
async def test_a_dry_run_takes_what_is_planned_for_done(carry_out, when, planned):
    told = story(http(), http(when=when), dry_run=True, context={"n": 2}).prepared()
    (said,) = await carry_out(told.command)
    assert said.type == ("step_prepared" if planned else "step_skipped")


async def test_a_dry_run_still_finds_a_mistake(carry_out):
    told = story(http(), http(body="{{ nope }} {{ steps[0].output.n + 1 }}"), dry_run=True).prepared()
    (finished,) = await carry_out(told.command)
    assert (finished.outcome.outcome, finished.outcome.error.message) == ("failed", "body: 'nope' is undefined")


async def test_a_message_over_its_limit_once_rendered_is_refused_with_its_field(carry_out):
    (finished,) = await carry_out(story(slack(message="{{ 'a' * 16385 }}")).command)
    assert finished.outcome.error.message.startswith("message after rendering: String should have at most 16384")


async def test_what_another_worker_sent_is_masked_in_the_answer_to_a_later_step(carry_out, aiohttp_server, tmp_path):
    """The worker that sent the secret is gone; this one has never resolved it, and the answer holds it."""

    async def tell(_request):
        return web.json_response({"registered": "pagerduty-stand-in"})

    application = web.Application()
    application.router.add_get("/", tell)
    url = str((await aiohttp_server(application)).make_url("/"))
    told = story(http(url=url, headers={"X": "$PAGERDUTY_API_TOKEN"}), http(url=url, method="GET")).does()
    _, finished = await carry_out(told.command, secrets=Secrets(tmp_path / "secrets"))
    assert finished.outcome.output["body"] == {"registered": "***PAGERDUTY_API_TOKEN***"}


@pytest.mark.parametrize(("earlier", "room"), [(0, OUTPUT_LIMIT), (16, OUTPUT_LIMIT // 4), (40, OUTPUT_ALWAYS)])
async def test_an_output_gets_the_room_that_the_earlier_ones_left(carry_out, aiohttp_server, earlier, room):
    async def tell(_request):
        return web.json_response("x" * (OUTPUT_LIMIT - 500))

    application = web.Application()
    application.router.add_get("/", tell)
    url = str((await aiohttp_server(application)).make_url("/"))
    told = story(*[http(url=url, method="GET") for _ in range(earlier + 1)])
    for _ in range(earlier):
        told.does(output="y" * (OUTPUT_LIMIT - 1024))
    _, finished = await carry_out(told.command)
    assert finished.outcome.outcome == "succeeded"
    assert finished.outcome.truncated == (earlier > 0)
    assert room - 1024 <= size_of(finished.outcome.output) <= room


async def test_a_plan_too_large_for_the_log_is_refused_before_anything_is_done(carry_out):
    body = ["{{ 'a' * 40000 }}", "{{ 'b' * 40000 }}"]
    (finished,) = await carry_out(story(http(body=body)).command)
    assert finished.outcome.outcome == "failed"
    assert finished.outcome.error.message.endswith("bytes with all that its templates gave; 65536 at most")
