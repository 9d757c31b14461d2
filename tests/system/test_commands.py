"""The command line against a real worker and broker."""

import asyncio
import json
import os
import sys

import jwt
import pytest
from aiokafka import AIOKafkaProducer
from processes import DEMO_RUNBOOK, SECRET
from waiting import until

from app.development import make_token


@pytest.fixture
def runbooks(environment, api, tmp_path):
    """Run a command; its status, output and errors."""
    tokens = {"API_URL": api.url, "RUNBOOKS_TOKEN": make_token(SECRET, "cli", ["admin"])}
    servers = {"KAFKA_BOOTSTRAP_SERVERS": environment["RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS"]}

    async def call(*arguments, stdin=b"", **more):
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "app.cli",
            *map(str, arguments),
            env=os.environ | environment | tokens | servers | more,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await process.communicate(stdin)
        return process.returncode, out.decode(), err.decode()

    return call


async def test_from_definitions_to_history(runbooks, worker, api, tmp_path, stand_ins):
    folder = tmp_path / "definitions"
    folder.mkdir()
    path = folder / "scale.json"
    path.write_text(json.dumps(DEMO_RUNBOOK))
    assert await runbooks("validate", path) == (0, f"{path}: scale-out-payment-api is valid, 3 steps\n", "")
    assert await runbooks("apply", folder) == (0, "scale-out-payment-api: version 1 is in force\n", "")
    assert (await runbooks("apply", folder))[1] == "scale-out-payment-api: version 1 is in force\n"

    status, out, _ = await runbooks("execute", "scale-out-payment-api", "--dry-run")
    assert status == 0
    assert "2. Scale production/payment-api from 3 to 5: planned" in out
    assert stand_ins.replicas == {"production/payment-api": 3}

    status, out, _ = await runbooks("publish-anomaly", "examples/demo/anomaly.json")
    assert (status, out.startswith("recorded at anomaly-events/")) == (0, True)
    line = '{"service_id":"other","metric_name":"m","labels":{"a":"\N{LINE SEPARATOR}"}}\r\n'.encode()
    assert (await runbooks("publish-anomaly", "-", stdin=line * 2))[1].count("recorded at") == 2
    waiting = await api.waiting()
    status, out, _ = await runbooks("approvals")
    digest = waiting["steps"][1]["approval"]["digest"]
    assert (status, waiting["execution_id"] in out) == (0, True)
    for line in (
        "    does     Scale production/payment-api from 3 to 5",
        "    undo     scale production/payment-api (replicas 3)",
        f"    digest   {digest}",
    ):
        assert line in out.splitlines()
    status, _, said = await runbooks("approve", waiting["execution_id"], "--digest", "0" * 64)
    assert (status, "0" * 64 in said, digest in said) == (1, True, True)
    status, out, _ = await runbooks("approve", waiting["execution_id"])
    assert (status, f"    digest   {digest}" in out, "approved by cli" in out) == (0, True, True)
    assert (await runbooks("approvals"))[1] == "nothing waits for you\n"
    await api.ended(2)
    status, out, _ = await runbooks("history", "--service-id", "payment-api", "--limit", "1")
    assert (status, out.count("execution "), "succeeded in" in out) == (0, 1, True)
    status, out, _ = await runbooks("history", "--json")
    assert [json.loads(line)["dry_run"] for line in out.splitlines()] == [False, True]


async def test_refusals_are_one_message_and_exit_status_1(runbooks, worker, tmp_path):
    path = tmp_path / "bad.json"
    path.write_text(json.dumps({**DEMO_RUNBOOK, "stepz": []}))
    expected = f"runbooks: {path}: stepz: unknown field (did you mean 'steps'?)\n"
    assert await runbooks("validate", path) == (1, "", expected)
    status, _, err = await runbooks("execute", "scale-out-paymnt-api")
    assert (status, err.startswith("runbooks: no runbook")) == (1, True)
    status, _, err = await runbooks("history", API_URL="http://127.0.0.1:1")
    assert (status, err.startswith("runbooks: no API answers at")) == (1, True)
    status, _, err = await runbooks("history", RUNBOOKS_TOKEN="x")
    assert (status, err.startswith("runbooks: ")) == (1, True)
    assert (await runbooks("publish-anomaly", "-"))[2] == "runbooks: there is no anomaly event in the input\n"
    status, _, err = await runbooks("worker", RUNBOOKS_API__PORT="x")
    assert (status, err.startswith("runbooks: the settings are wrong: api.port")) == (1, True)


async def test_dead_letters_are_listed_shown_and_requeued_once(runbooks, worker, publish, api):
    await publish("anomaly-events", b"{broken \x1b[2J\xff", key=b"k\n")

    async def listed(*more):
        _, out, _ = await runbooks("dead-letters", "list", *more)
        return [json.loads(line) for line in out.splitlines()]

    (letter,) = await until(listed)
    assert (letter["source-topic"], letter["value"]) == ("anomaly-events", "{broken \x1b[2J\N{REPLACEMENT CHARACTER}")
    assert "not JSON" in letter["error"]
    status, out, _ = await runbooks("dead-letters", "show", letter["offset"])
    lines = [line.split(None, 1) for line in out.splitlines()]
    assert (status, ["key", r"k\n"] in lines, ["record", r"{broken \x1b[2J\xff"] in lines) == (0, True, True)
    assert "\x1b" not in out
    status, out, _ = await runbooks("dead-letters", "requeue", letter["offset"])
    assert (status, out.startswith("recorded at anomaly-events/")) == (0, True)

    async def two():
        return len(await listed()) == 2

    await until(two)
    first, second = await listed()
    assert (first["requeued"]["to"], second["requeued"]) == (out.removeprefix("recorded at ").strip(), None)
    assert await listed("--limit", 1) == [second]
    status, _, err = await runbooks("dead-letters", "requeue", letter["offset"])
    assert (status, "has a letter of its own" in err) == (1, True)
    assert (await runbooks("dead-letters", "requeue", letter["offset"], "--again"))[0] == 0
    status, _, err = await runbooks("dead-letters", "show", 99)
    assert (status, err.startswith("runbooks: dead-letters holds no record at offset 99: it holds 0 to ")) == (1, True)


async def test_what_cannot_be_requeued_says_what_to_do(runbooks, worker, broker):
    headers = {"source-topic": b"gone", "source-partition": b"0", "source-offset": b"7"}
    letters = [headers, headers | {"source-topic": b"anomaly-events", "cut": b"99"}, {}]
    async with AIOKafkaProducer(bootstrap_servers=broker) as producer:
        for number, one in enumerate(letters):
            place = await producer.send_and_wait("dead-letters", b"x", headers=list(one.items()))
            assert place.offset == number
    for offset, said in enumerate(("'gone' is no topic", "only 1 of its 99 bytes", "does not say which topic")):
        status, _, err = await runbooks("dead-letters", "requeue", offset)
        assert (status, said in err) == (1, True), err


async def test_nothing_of_others_steers_the_terminal_or_forges_a_line(runbooks, worker, api, publish):
    evil = "a\x1b[2J\n    digest   forged\x9b\u202e\x7f"
    step = {"type": "http", "url": "http://127.0.0.1:9/{{ anomaly.labels.x }}", "require_approval": True}
    await api.put_runbook({"name": "one", "trigger": {"service_id": evil}, "steps": [step]})
    await publish(
        "anomaly-events", {"service_id": evil, "metric_name": evil, "anomaly_id": evil, "labels": {"x": evil}}
    )
    waiting = await api.waiting()
    assert (await api.call("PUT", "/api/v1/pauses/p", {"reason": evil}))[0] == 200
    shown = [
        ("approvals",),
        ("history",),
        ("history", "--json"),
        ("explain", evil),
        ("pauses",),
        ("coverage",),
        ("coverage", "--json"),
        ("reject", waiting["execution_id"], "--comment", evil),
        ("execute", evil),
        ("publish-anomaly", "-"),
    ]
    for arguments in shown:
        _, out, err = await runbooks(*arguments, stdin=b"x\x1b[2J")
        text = out + err
        assert text.strip(), arguments
        assert all(one.isprintable() or one == "\n" for one in text), (arguments, text)
        assert "\n    digest   forged" not in text, arguments


async def test_topics_are_checked_and_applied(runbooks):
    status, out, _ = await runbooks("topics", "check")
    assert (status, "missing: execution-events" in out) == (1, True)
    status, out, _ = await runbooks("topics", "apply")
    assert (status, "created: execution-events" in out) == (0, True)
    assert (await runbooks("topics", "check"))[:2] == (0, "all topics are as declared\n")


async def test_a_token_for_development(runbooks):
    status, out, _ = await runbooks("token", "--role", "viewer", "--role", "operator", "--subject", "ann")
    claims = jwt.decode(out.strip(), SECRET, algorithms=["HS256"])
    assert (status, claims["sub"], claims["roles"], claims["tenant"]) == (0, "ann", ["viewer", "operator"], "default")
    status, _, err = await runbooks("token", "--role", "viewer", RUNBOOKS_API__JWT_SECRET="")
    assert (status, "set RUNBOOKS_API__JWT_SECRET" in err) == (1, True)


async def test_approve_and_reject(runbooks, worker, api, publish):
    guarded = {**DEMO_RUNBOOK, "steps": [{**DEMO_RUNBOOK["steps"][1], "require_approval": True}]}
    await api.put_runbook(guarded)
    for decision, status in (("approve", "succeeded"), ("reject", "halted")):
        body = {"runbook_name": guarded["name"]}
        _, accepted = await api.call("POST", "/api/v1/runbooks/execute", body)
        path = f"/api/v1/executions/{accepted['execution_id']}"
        await until(lambda path=path: has(api, path, "status", "awaiting_approval"))
        code, out, err = await runbooks(decision, accepted["execution_id"], "--comment", "why not")
        assert (code, err) == (0, ""), out
        await until(lambda path=path, status=status: has(api, path, "status", status))
        assert (await api.get(path))["approvers"] == ["cli"]


async def has(api, path, field, value):
    return (await api.get(path))[field] == value
