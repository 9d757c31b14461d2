"""The commands that check and ask the log, beside a real worker that goes on."""

import json
import sqlite3
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from processes import incident, run_command
from waiting import until

CALLS = {"steps": [{**incident("asked"), "require_approval": True}]}


@pytest.fixture
def environment(environment, tmp_path):
    """With anchors of two records each, signed."""
    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "anchors.key").write_bytes(secret)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "anchors.pub").write_bytes(public)
    return environment | {
        "RUNBOOKS_HISTORY__ANCHOR_RECORDS": "2",
        "RUNBOOKS_HISTORY__ANCHORS_FILE": str(tmp_path / "anchors.jsonl"),
        "RUNBOOKS_HISTORY__ANCHORS_KEY_FILE": str(tmp_path / "anchors.key"),
    }


async def executed(api):
    """An execution that ann approved; its entry in the history."""
    await api.put_runbook({"name": "asks", **CALLS})
    status, accepted = await api.call("POST", "/api/v1/runbooks/execute", {"runbook_name": "asks"})
    assert status == 202, accepted
    await api.approve(sub="ann")
    (item,) = await api.ended(1)
    return item


async def test_the_log_is_checked_asked_exported_and_rebuilt_from(worker, api, environment, tmp_path):
    item = await executed(api)
    name = item["execution_id"]
    signed = ("--anchors", str(tmp_path / "anchors.jsonl"), "--public-key", str(tmp_path / "anchors.pub"))

    async def is_signed():
        return (tmp_path / "anchors.jsonl").exists()

    await until(is_signed)

    status, printed = await run_command(environment, "audit", "verify", *signed, "--json")
    assert (status, json.loads(printed)["difference_count"]) == (0, 0), printed

    status, printed = await run_command(environment, "audit", "replay", "--as-of", item["requested_at"], "--json")
    (then,) = json.loads(printed)["executions"]
    assert (status, then["execution_id"], then["status"]) == (0, name, "queued")
    status, printed = await run_command(environment, "audit", "replay", "--as-of", "2020-01-01T00:00:00Z")
    assert (status, printed.startswith("0 executions in partition ")) == (1, True)

    status, printed = await run_command(environment, "audit", "export", name, "--format", "report")
    assert status == 0
    assert "approved step 0 through api, by ann" in printed
    assert "Token $PAGERDUTY_API_TOKEN" in (await run_command(environment, "audit", "export", name))[1]
    status, printed = await run_command(environment, "audit", "export", "nobody")
    assert (status, printed) == (1, "runbooks: the log has nothing of nobody\n")

    status, printed = await run_command(environment, "drill", "rebuild", "--folder", str(tmp_path / "drill"), "--json")
    drilled = json.loads(printed)
    assert (status, drilled["difference_count"]) == (0, 0), printed
    assert sum(one["rebuilt_rows"] for one in drilled["compared"] if one["same"]) == 1

    database = sqlite3.connect(Path(environment["RUNBOOKS_DATA_DIR"]) / "history.db")
    with database:
        database.execute("UPDATE executions SET status = 'failed'")
    database.close()
    status, printed = await run_command(environment, "drill", "rebuild", "--folder", str(tmp_path / "again"))
    assert status == 1
    assert "the row's status is 'failed', and its own state says 'succeeded'" in printed
