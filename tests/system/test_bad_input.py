"""A real worker whose topics hold what nobody should have written, and records that no topic takes."""

import importlib.util
import json
import random
from datetime import UTC, datetime
from pathlib import Path

import pytest
import yaml
from aiohttp import web
from building import T0, http, story
from test_commands import runbooks  # noqa: F401 - a fixture
from waiting import until

from app.core.catalog import RunbookPut
from app.core.commands import STEP_KINDS
from app.core.runbook import read_runbook

WATCHED = {
    "name": "watched",
    "trigger": {"service_id": "s"},
    "steps": [{"type": "http", "method": "GET", "url": "{{ anomaly.target }}"}] * 5,
}
LIMIT = 128 * 1024
ABSURD_MS = -(10**15)


def fuzz():
    """The odd messages of the readers' own tests."""
    specification = importlib.util.spec_from_file_location("bad_input", "tests/core/test_bad_input.py")
    module = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(module)
    return module


@pytest.fixture
async def target(aiohttp_server):
    """Answers with as much as it is asked for."""
    application = web.Application()

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"text": "x" * int(request.query["size"])})

    application.router.add_get("/", answer)
    return str((await aiohttp_server(application)).make_url("/"))


async def test_odd_records_on_every_topic_stop_nothing(worker, api, publish, read_topic, target):
    await api.put_runbook(WATCHED)
    odd, chance = fuzz(), random.Random(7)
    deep = b'{"type":"step","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    garbage = [b"", b"\xff\xfe", b"null", b"[]", b"{", deep, b'{"\\ud800": NaN}', b'{"at": 1e999}', bytes(range(256))]
    garbage += [b"[" * 900 + b"NaN" + b"]" * 900, b'{"x":' + b"9" * 100_000 + b"}", b'{"type":["x"]}']
    command = story(http(body={"a": 1})).command
    change = RunbookPut(tenant="default", runbook=read_runbook(odd.CONTENT), by="ann", at=T0)
    spoiled = {
        "anomaly-events": [odd.ANOMALY],
        "runbook-definitions": [change.model_dump_json().encode()],
        "execution-events": odd.EVENTS,
        "approval-decisions": [b'{"tenant":"default","execution_id":"e","step":0,"decision":"approve","by":"a"}'],
        **{f"step-commands.{kind}": [command.model_dump_json().encode()] for kind in (*STEP_KINDS, "metric")},
    }
    for topic, samples in spoiled.items():
        mutants = [odd.spoiled(chance.choice(samples), number) for number in range(60)]
        await publish(topic, *garbage, *mutants)
        await publish(topic, *garbage, key=b"default")
    event = {"service_id": "s", "metric_name": "m", "target": f"{target}?size=9"}
    await publish("anomaly-events", *({**event, "anomaly_id": f"good-{number}"} for number in range(8)))
    for number in range(8):
        await publish("anomaly-events", {**event, "anomaly_id": f"key-{number}"}, key=str(number).encode())

    items = await api.ended(16, "service_id=s&limit=200", 120)
    assert {one["status"] for one in items if one["trigger_anomaly_id"].startswith(("good-", "key-"))} == {"succeeded"}
    letters = await read_topic("dead-letters")
    assert {dict(one.headers)["source-topic"].decode() for one in letters} >= spoiled.keys() - {"runbook-definitions"}
    assert worker.process.returncode is None


async def test_a_record_whose_time_can_be_no_moment_stops_nothing(
    worker,
    api,
    publish,
    read_topic,
    target,
    runbooks,  # noqa: F811
):
    """Brokers take such a time; whoever reads the record must live with it, commands too."""
    await api.put_runbook(WATCHED)
    event = {"service_id": "s", "metric_name": "m", "value": 1, "target": f"{target}?size=9"}
    timed = event | {"timestamp": datetime.now(UTC).isoformat()}
    for topic in ("anomaly-events", "metric-samples"):
        await publish(topic, event | {"anomaly_id": "first"}, key=b"k")
        odd = [event | {"anomaly_id": "untimed"}, timed | {"anomaly_id": "timed"}]
        await publish(topic, *odd, key=b"k", timestamp_ms=ABSURD_MS)
        await publish(topic, event | {"anomaly_id": "last"}, key=b"k")
    for topic in ("execution-events", "match-decisions", "approval-decisions", "runbook-definitions", "dead-letters"):
        await publish(topic, b"odd", key=b"default", timestamp_ms=ABSURD_MS)
    items = await api.ended(3, "service_id=s", 60)
    assert {one["trigger_anomaly_id"] for one in items} == {"first", "timed", "last"}

    async def put_aside():
        letters = [(one.value, dict(one.headers)) for one in await read_topic("dead-letters") if one.headers]
        told = [(named["source-topic"], json.loads(raw), named["error"]) for raw, named in letters if raw != b"odd"]
        return told if len(told) == 3 else None

    told = await until(put_aside)
    ids = sorted((topic.decode(), body["anomaly_id"]) for topic, body, _ in told)
    assert ids == [("anomaly-events", "untimed"), ("metric-samples", "timed"), ("metric-samples", "untimed")]
    assert all(error.startswith(b"timestamp: ") and b"1900 to 8999" in error for _, _, error in told)
    assert (worker.process.returncode, (await api.get("/readyz"))["reasons"]) == (None, [])
    status, report = await api.call("POST", "/api/v1/runbooks/backtest", {"runbook": WATCHED})
    assert (status, report["complete"], report["anomalies_read"], report["same"]) == (200, True, 4, 3), report
    assert (await api.get("/api/v1/coverage"))["anomalies"] == 4
    for command in (["dead-letters", "list"], ["dead-letters", "show", "0"], ["audit", "verify"]):
        _, out, err = await runbooks(*command)
        assert out
        assert "Traceback" not in err


class TestRecordsThatNoTopicTakes:
    @pytest.fixture
    def environment(self, environment, tmp_path):
        declared = yaml.safe_load(Path("topics.yaml").read_text()) | {"max_record_bytes": LIMIT}
        path = tmp_path / "topics.yaml"
        path.write_text(yaml.safe_dump(declared))
        return environment | {"RUNBOOKS_KAFKA__TOPICS_FILE": str(path)}

    async def test_only_their_cause_ends(self, worker, api, publish, read_topic, target):
        await api.put_runbook(WATCHED)
        event = {"service_id": "s", "metric_name": "m", "target": f"{target}?size=9"}
        too_large = {**event, "anomaly_id": "large", "x": "x" * (LIMIT - 400)}
        grows = {**event, "anomaly_id": "grows", "target": f"{target}?size=40000"}
        await publish("anomaly-events", too_large, grows, {**event, "anomaly_id": "small"})
        items = {one["trigger_anomaly_id"]: one for one in await api.ended(2, "service_id=s")}
        assert items.keys() == {"grows", "small"}
        assert items["small"]["status"] == "succeeded"
        assert items["grows"]["status"] in {"failed", "cancelled"}, items["grows"]
        assert "at most" in items["grows"]["reason"] or "runbooks" in items["grows"]["reason"]
        letters = await read_topic("dead-letters")
        assert [dict(one.headers)["source-topic"] for one in letters] == [b"anomaly-events"]
        assert b"execution-events would have" in dict(letters[0].headers)["error"]
