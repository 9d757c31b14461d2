"""What ``runbooks run`` says of its demo when it does not go as planned: it never waits for what cannot come."""

import asyncio

import pytest
from aiohttp import web

from app import development as development_module
from app.development import Development, follow_demo, until_asked

ITEM = {
    "execution_id": "e",
    "runbook_name": "r",
    "runbook_version": 1,
    "trigger_anomaly_id": "a",
    "finished_at": None,
    "duration_seconds": None,
    "reason": None,
    "status": "running",
    "rollback": {"status": "none", "steps": []},
    "steps": [],
}
STEP = {"index": 1, "type": "kubernetes", "started_at": None, "finished_at": None, "summary": "Scale", "error": None}
ASKED = [{**STEP, "status": "awaiting_approval", "approval": {"digest": "d1", "by": [], "ended": None}}]


@pytest.fixture
def follow(aiohttp_server, tmp_path):
    """Follow a demo whose API takes the anomaly, or not, and shows these items one after the other."""

    async def run(*items, taken=202, failure=None):
        shown = iter(items)
        last = [None]

        async def publish(_):
            return web.json_response({"anomaly_ids": ["a"], "detail": "the log is away"}, status=taken)

        async def history(_):
            last[0] = next(shown, last[0])
            return web.json_response({"items": [last[0]] if last[0] else []})

        application = web.Application()
        application.router.add_post("/api/v1/anomalies", publish)
        application.router.add_get("/api/v1/runbooks/history", history)
        server = await aiohttp_server(application)
        failed = failure or asyncio.get_running_loop().create_future()
        development = Development(str(server.make_url("")), "kafka", "token", failed)
        said = []
        following = asyncio.create_task(follow_demo(development, tmp_path, said.append))
        await until_asked(following, development)
        if not following.done() and not development.asked.is_set():
            following.cancel()
            await asyncio.wait([following])
        else:
            await following
        return development, said

    return run


async def test_it_asks_with_the_digest_of_the_plan_and_shows_the_end(follow):
    ended = {**ITEM, "status": "succeeded", "finished_at": "2026-01-01T00:00:00Z", "duration_seconds": 1.0}
    development, said = await follow(ITEM, {**ITEM, "status": "awaiting_approval", "steps": ASKED}, ended)
    assert development.asked.is_set()
    assert any(line.endswith(".venv/bin/runbooks approve e --digest d1") for line in said)
    assert "  succeeded in 1.000 s" in said


@pytest.mark.parametrize(
    "change",
    [{"status": "failed", "finished_at": "2026-01-01T00:00:00Z", "duration_seconds": 1.0}, {"status": "attention"}],
)
async def test_an_execution_that_fails_before_it_asks_is_told(follow, change):
    development, said = await follow(ITEM, {**ITEM, **change, "reason": "step 1 failed: no Slack"})
    assert not development.asked.is_set()
    assert said[-1] == (
        f"the demo did not get as far as asking for approval: it is {change['status']} (step 1 failed: no Slack)"
    )


async def test_an_anomaly_that_is_not_taken_is_told(follow):
    _, said = await follow(taken=503)
    assert said[-1].startswith(
        "the demo stopped: its anomaly was not taken: the log is away; the log of the worker is "
    )


async def test_an_anomaly_that_starts_nothing_is_told(follow, monkeypatch):
    monkeypatch.setattr(development_module, "DEMO_START_S", 0.1)
    _, said = await follow()
    assert said[-1].startswith("the demo stopped: no execution of its anomaly showed within 0 s")


async def test_a_worker_that_fails_ends_the_waiting(follow):
    failure = asyncio.get_running_loop().create_future()
    failure.set_result(RuntimeError("an agent failed"))
    development, _ = await follow(ITEM, failure=failure)
    assert not development.asked.is_set()
