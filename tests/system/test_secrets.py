"""Secrets are sent, come back from the servers in every form, and are found nowhere but on the wire."""

import base64
import html
import json
from pathlib import Path
from urllib.parse import parse_qsl, quote, quote_plus

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from aiokafka.admin import AIOKafkaAdminClient
from processes import WorkerProcess, run_command
from waiting import until

FOLDER_SECRET = 'fo/ld+er "sécret" & 100%'
QUERY_SECRET = "query-token_7f3a.9c"
ENVIRONMENT_SECRET = "environment-Secret-55aa"
PIN = "8675309442"
VALUES = [FOLDER_SECRET, QUERY_SECRET, ENVIRONMENT_SECRET, PIN]


def forms(value: str) -> set[str]:
    """How a value would show, were it to leak."""
    json_text = json.dumps(value)[1:-1]
    in_base64 = {base64.b64encode(value.encode()).decode()[:-4], base64.urlsafe_b64encode(value.encode()).decode()[:-4]}
    plain = {value, json_text, json.dumps(value, ensure_ascii=False)[1:-1], json.dumps(json_text)[1:-1]}
    return plain | in_base64 | {quote(value), quote(value, safe=""), quote_plus(value), html.escape(value)}


def leaks(place: str, content: bytes) -> list[str]:
    """What is found there, named for a person."""
    return [f"{form!r} in {place}" for value in VALUES for form in forms(value) if form.encode() in content]


@pytest.fixture
async def echo():
    """A server that says everything it was sent, in its body, its keys, its headers and its reason; sent holds it."""
    sent: list[dict] = []

    async def answer(request: web.Request) -> web.Response:
        text = await request.text()
        query = dict(request.query)
        got = {"headers": dict(request.headers), "query": query, "text": text, "form": dict(parse_qsl(text))}
        sent.append({"path": request.path, **got})
        token = request.headers.get("X-Token", "none")
        if request.path == "/broken":
            request.transport.write(f"HTTP/1.1 {token} {request.path_qs}\r\n\r\n".encode())
            request.transport.close()
            return web.Response()
        body = {
            **got,
            "url": str(request.url),
            "raw": request.raw_path,
            token: [1, {token: token}],
            "number": int(PIN),
            "packed": base64.b64encode(f"user:{token}".encode()).decode(),
        }
        headers = {"X-Request-Id": quote(token), "Location": f"/next?{request.query_string}"}
        if request.path == "/cut":
            return web.Response(text=json.dumps(body) + "-" * 65_000 + token * 40, headers=headers)
        status = 200 if request.path == "/fine" else 422
        return web.json_response(body, status=status, reason=quote(token), headers=headers)

    application = web.Application()
    application.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(application) as server:
        server.sent = sent
        server.base = str(server.make_url("")).rstrip("/")
        yield server


@pytest.fixture
async def planted(environment, api, tmp_path):
    """A worker that knows the secrets: three in the folder, one in a listed variable."""
    mine = tmp_path / "secrets" / "default"
    for name, value in (("FOLDER", FOLDER_SECRET), ("QUERY", QUERY_SECRET), ("PIN", PIN)):
        (mine / name).write_text(value, encoding="utf-8")
    environment |= {
        "RUNBOOKS_SECRETS__ENVIRONMENT": '["FROM_ENVIRONMENT"]',
        "FROM_ENVIRONMENT": ENVIRONMENT_SECRET,
        "UNLISTED": "never-to-be-read",
        "RUNBOOKS_LOG_LEVEL": "DEBUG",
    }
    process = WorkerProcess(environment, tmp_path / "worker.log")
    await process.start()
    try:
        await process.ready(api)
        yield process
    finally:
        await process.end()


def http(url: str, **fields):
    return {"type": "http", "method": "POST", "url": url, **fields}


async def test_no_secret_is_found_anywhere_but_on_the_wire(planted, api, echo, broker, read_topic, stand_ins, tmp_path):
    basic = echo.base.replace("http://", "http://user:${QUERY}@")
    steps = [
        http(
            f"{echo.base}/fine?token=$QUERY", headers={"X-Token": "$FROM_ENVIRONMENT"}, body={"a": ["$FOLDER", "$PIN"]}
        ),
        http(f"{echo.base}/fine", headers={"X-Token": "Bearer ${QUERY}"}, form={"key": "$FOLDER", "pin": "$PIN"}),
        http(f"{basic}/fine", body="text $FOLDER"),
        http(f"{echo.base}/cut", headers={"X-Token": "$FROM_ENVIRONMENT"}, body="$FOLDER"),
        {"type": "slack", "channel": "#ops", "message": "{{ steps[0].output.body }} {{ steps[3].output.body[-900:] }}"},
        http(f"{echo.base}/refused?t=$QUERY", headers={"X-Token": "$QUERY"}, body="$FOLDER", continue_on_failure=True),
        http(f"{echo.base}/broken?t=$FOLDER", headers={"X-Token": "$QUERY"}, on_unknown="fail"),
    ]
    await api.put_runbook({"name": "leaky", "steps": steps})
    plan = await dry_run(api, "leaky")
    assert [step["status"] for step in plan["steps"]] == ["planned"] * len(steps)
    assert echo.sent == []
    item = await executed(api, "leaky")
    assert [step["status"] for step in item["steps"]] == ["succeeded"] * 5 + ["failed", "unknown"], item
    assert echo.sent[0]["query"] == {"token": QUERY_SECRET}
    assert echo.sent[0]["headers"]["X-Token"] == ENVIRONMENT_SECRET
    assert json.loads(echo.sent[0]["text"]) == {"a": [FOLDER_SECRET, PIN]}
    assert echo.sent[1]["form"] == {"key": FOLDER_SECRET, "pin": PIN}
    assert item["steps"][0]["output"]["body"]["query"] == {"token": "***QUERY***"}

    found = []
    topics = await all_topics(broker)
    assert any(topic.endswith("executions-changelog") for topic in topics)
    for topic in topics:
        for record in await read_topic(topic):
            parts = [record.key, record.value, *(value for _, value in record.headers)]
            found += [leak for part in parts for leak in leaks(f"topic {topic}", part or b"")]
    data = Path(planted.environment["RUNBOOKS_DATA_DIR"])
    files = [path for path in data.rglob("*") if path.is_file()]
    assert data / "history.db" in files
    for path in [*files, tmp_path / "worker.log"]:
        found += leaks(str(path.relative_to(tmp_path)), path.read_bytes())
    path = f"/api/v1/executions/{item['execution_id']}"
    for answer in (plan, item, await api.history(), await api.get(path), await api.get(f"{path}/events")):
        found += leaks("an answer of the API", json.dumps(answer, ensure_ascii=False).encode())
    for form in ("jsonl", "csv", "report"):
        status, exported = await run_command(
            planted.environment, "audit", "export", item["execution_id"], f"--format={form}"
        )
        assert (status, "FOLDER" in exported) == (0, True)
        found += leaks(f"an export as {form}", exported.encode())
    async with api.session.get(f"{api.url}/metrics") as metrics:
        found += leaks("the metrics", await metrics.read())
    assert len(stand_ins.messages) == 1
    found += leaks("a Slack message", json.dumps(stand_ins.messages, ensure_ascii=False).encode())
    assert found == []


async def test_a_missing_secret_stops_the_execution_before_its_first_side_effect(planted, api, echo, stand_ins):
    steps = [
        {"type": "slack", "channel": "#ops", "message": "never said"},
        http(f"{echo.base}/fine", headers={"X-Token": "$QUERY"}),
        http(f"{echo.base}/fine", headers={"X-Token": "$UNLISTED"}),
    ]
    await api.put_runbook({"name": "incomplete", "steps": steps})
    item = await executed(api, "incomplete")
    assert (item["status"], [step["status"] for step in item["steps"]]) == ("failed", ["failed", "pending", "pending"])
    assert "the secret $UNLISTED is missing" in item["reason"]
    assert (echo.sent, stand_ins.messages) == ([], [])


async def dry_run(api, name):
    status, plan = await api.call("POST", "/api/v1/runbooks/execute", {"runbook_name": name, "dry_run": True})
    assert status == 200, plan
    return plan


async def executed(api, name):
    status, accepted = await api.call("POST", "/api/v1/runbooks/execute", {"runbook_name": name})
    assert status == 202, accepted

    async def over():
        item = await api.get(f"/api/v1/executions/{accepted['execution_id']}")
        return item if item["finished_at"] else None

    return await until(over, 60)


async def all_topics(servers: str) -> list[str]:
    """Every topic of the broker but Kafka's own."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        return sorted(name for name in await admin.list_topics() if not name.startswith("__"))
    finally:
        await admin.close()
