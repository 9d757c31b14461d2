"""The two calls of the product page as they are printed there, by curl; only host and port are this server's."""

import asyncio
import json
import os
import shutil

import pytest
from parts import missing_part

EXECUTE = """curl -X POST http://localhost:8080/api/v1/runbooks/execute \\
  -H "Authorization: Bearer $OPERATOR_JWT" \\
  -d '{
    "runbook_name": "scale-out-payment-api",
    "dry_run": true,
    "context": { "service_id": "payment-api", "anomaly_score": 0.85 }
  }'
"""
HISTORY = """curl http://localhost:8080/api/v1/runbooks/history \\
  -H "Authorization: Bearer $YOUR_JWT" \\
  -G --data-urlencode "service_id=payment-api" \\
  --data-urlencode "limit=20"
"""


@pytest.fixture
def curl(web, token):
    if shutil.which("curl") is None:
        missing_part("curl")

    async def run(printed: str):
        here = f"http://127.0.0.1:{web.client.port}"
        script = printed.replace("http://localhost:8080", here).replace("curl ", "curl -sS --noproxy '*' ", 1)
        tokens = {"OPERATOR_JWT": token(roles=["operator"]), "YOUR_JWT": token(roles=["viewer"])}
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", script, env=os.environ | tokens, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert process.returncode == 0
        return json.loads(output)

    return run


async def test_a_dry_run_returns_what_would_have_been_executed(curl, world):
    answer = await curl(EXECUTE)
    assert (answer["runbook_name"], answer["dry_run"], answer["status"]) == ("scale-out-payment-api", True, "succeeded")
    assert answer["trigger"] == {"matched": True, "reason": None}
    assert [step["type"] for step in answer["plan"]] == ["slack", "kubernetes"]
    assert world.log.events[0].context == {"service_id": "payment-api", "anomaly_score": 0.85}


async def test_the_history_shows_every_promised_field(curl, world):
    await curl(EXECUTE)
    answer = await curl(HISTORY)
    (item,) = answer["items"]
    promised = {
        "runbook_name",
        "runbook_version",
        "trigger_anomaly_id",
        "steps",
        "approvers",
        "rollback",
        "duration_seconds",
    }
    assert promised <= item.keys()
    assert "output" in item["steps"][0]
    assert item["service_id"] == "payment-api"
    assert world.history.wanted.service_id == "payment-api"
