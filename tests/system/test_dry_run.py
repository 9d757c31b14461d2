"""A dry run through the API: it says what would be done, names what is in the way, and sends nothing to anybody."""

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from processes import WorkerProcess


@pytest.fixture
async def without_slack(environment, api, tmp_path):
    """A worker that has no token for Slack."""
    del environment["RUNBOOKS_SLACK__BOT_TOKEN"]
    process = WorkerProcess(environment, tmp_path / "worker.log")
    await process.start()
    try:
        await process.ready(api)
        yield process
    finally:
        await process.end()


@pytest.fixture
async def untouched():
    """A server that nobody may call: its URL, and what was asked of it at the end."""
    calls = []

    async def answer(request: web.Request) -> web.Response:
        calls.append(request.path)
        return web.Response()

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        yield str(server.make_url("")).rstrip("/")
    assert calls == []


def http(url, **fields):
    return {"type": "http", "method": "POST", "url": url, **fields}


async def test_a_dry_run_names_what_would_be_done_and_what_is_in_the_way(without_slack, api, untouched, stand_ins):
    scale = {"type": "kubernetes", "action": "scale", "namespace": "production", "deployment": "payment-api"}
    later = "{{ steps[0].output.body.id }}"
    steps = [
        http(f"{untouched}/a?t=$PAGERDUTY_API_TOKEN", body={"region": "{{ context.region }}"}),
        {**scale, "replicas": 5},
        http(f"{untouched}/b/{later}"),
        {**scale, "replicas": later},
        http(f"{untouched}/c", when='context.region == "us"'),
        http(f"{untouched}/d", headers={"Authorization": "$NO_SUCH"}),
        http("http://169.254.169.254/latest/meta-data/"),
        http("https://10.1.2.3/"),
        http(f"{untouched}/e/{{{{ context.nope }}}}"),
        {"type": "slack", "channel": "#ops", "message": "hello"},
    ]
    await api.put_runbook({"name": "plan", "rollback_on_failure": True, "steps": steps})
    body = {"runbook_name": "plan", "dry_run": True, "context": {"region": "eu"}}
    status, plan = await api.call("POST", "/api/v1/runbooks/execute", body)
    assert (status, plan["status"]) == (200, "failed"), plan
    assert [(step["status"], step["summary"] or step["error"]) for step in plan["steps"]] == [
        ("planned", f"POST {untouched}/a?t=$PAGERDUTY_API_TOKEN"),
        ("planned", "Scale production/payment-api from 3 to 5"),
        ("planned", f"POST {untouched}/b/<<steps[0].output.body.id: known after it runs>>"),
        ("planned", "kubernetes scale: depends on what earlier steps give back"),
        ("skipped", '`context.region == "us"` is false'),
        ("failed", plan["steps"][5]["error"]),
        ("failed", "169.254.169.254 is refused: link-local and metadata addresses are never reached"),
        ("failed", "10.1.2.3 is refused: private addresses are not allowed (RUNBOOKS_NETWORK__ALLOW_PRIVATE)"),
        ("failed", "url: 'dict object' has no attribute 'nope'"),
        ("failed", "Slack is not configured: set RUNBOOKS_SLACK__BOT_TOKEN"),
    ]
    assert plan["steps"][5]["error"].startswith("the secret $NO_SUCH is missing: put it into default/NO_SUCH")
    assert plan["reason"] == "step 6, 7, 8, 9, 10 cannot run"
    first, second = plan["steps"][0]["plan"], plan["steps"][1]["plan"]
    assert (first["inverse"], first["manual_reason"]) == (None, "an HTTP call cannot be taken back")
    assert (second["before"], second["after"], second["inverse"]) == (
        {"replicas": 3},
        {"replicas": 5},
        {**scale, "replicas": 3},
    )
    assert (stand_ins.scalings, stand_ins.messages, stand_ins.incidents) == ([], [], {})
