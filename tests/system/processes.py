"""The real worker process and its API, as tests see them."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
from waiting import until

from app.development import make_token

SECRET = "a secret of the tests that is long enough"
DEMO_RUNBOOK = json.loads(Path("examples/demo/runbooks/scale-out-payment-api.json").read_text())
ANOMALY = json.loads(Path("examples/demo/anomaly.json").read_text())


def incident(title: str = "{{ anomaly.anomaly_id }}") -> dict:
    """A step that leaves an incident with this title at the stand-in."""
    return {
        "type": "http",
        "method": "POST",
        "url": "$PAGERDUTY_URL/incidents",
        "headers": {"Authorization": "Token $PAGERDUTY_API_TOKEN"},
        "body": {"title": title},
    }


def on_cluster(cluster, user: str = "runbook-engine") -> dict[str, str]:
    """The settings of a worker that acts on the test cluster as one of its users."""
    return {"RUNBOOKS_KUBERNETES__KUBECONFIG": str(cluster.kubeconfig), "RUNBOOKS_KUBERNETES__CONTEXT": user}


class Api:
    """The API as a client with a token sees it."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        self.url = url
        self.session = session

    async def call(
        self, method: str, path: str, body=None, roles=("admin",), tenant="default", sub="tester", **headers
    ):
        token = make_token(SECRET, sub, list(roles), tenant)
        headers["Authorization"] = f"Bearer {token}"
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        async with self.session.request(method, self.url + path, json=body, headers=named) as answer:
            return answer.status, await answer.json(content_type=None)

    async def get(self, path: str, **fields):
        status, body = await self.call("GET", path, **fields)
        assert status == 200, body
        return body

    async def put_runbook(self, runbook: dict):
        status, body = await self.call("PUT", f"/api/v1/runbooks/{runbook['name']}", runbook)
        assert status in (200, 201), body
        return body

    async def history(self, query="limit=200", **fields):
        return (await self.get(f"/api/v1/runbooks/history?{query}", **fields))["items"]

    async def waiting(self):
        """The execution that waits for approval."""

        async def any_waits():
            items = await self.history("status=awaiting_approval")
            return items[0] if items else None

        return await until(any_waits)

    async def approve(self, sub="tester"):
        """Approve what waits, once it does."""
        path = f"/api/v1/executions/{(await self.waiting())['execution_id']}/approvals"
        status, body = await self.call("POST", path, {"decision": "approve"}, roles=["approver"], sub=sub)
        assert status == 200, body

    async def ended(self, count: int, query="limit=200", timeout_s=60.0):
        """The history once it holds this many executions, all of them ended."""

        async def all_ended():
            items = await self.history(query)
            return items if len(items) >= count and all(item["finished_at"] for item in items) else None

        return await until(all_ended, timeout_s)


class WorkerProcess:
    """``runbooks worker`` as a process; it can be killed and started again."""

    def __init__(self, environment: dict[str, str], log: Path) -> None:
        self.environment = environment
        self.log = log
        self.process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        with self.log.open("ab") as output:
            self.process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "app.cli",
                "worker",
                env=os.environ | self.environment,
                stdout=output,
                stderr=output,
            )

    async def ready(self, api: Api) -> None:
        async def answers():
            assert self.process is not None
            assert self.process.returncode is None, self.log.read_text()[-4000:]
            with contextlib.suppress(aiohttp.ClientError):
                status, _ = await api.call("GET", "/readyz")
                return status == 200
            return False

        await until(answers, 60)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


async def run_command(environment: dict[str, str], *arguments: str) -> tuple[int, str]:
    """``runbooks`` with these arguments: its exit status, and what it printed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "app.cli",
        *arguments,
        env=os.environ | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    printed, _ = await process.communicate()
    return process.returncode, printed.decode()


def http_worker(environment: dict[str, str], folder: Path, port: int) -> WorkerProcess:
    """A worker for http steps alone, with its own data folder and probes; not started."""
    own = {
        "RUNBOOKS_WORKER__ELSEWHERE": "",
        "RUNBOOKS_WORKER__ACTIONS": '["http"]',
        "RUNBOOKS_DATA_DIR": str(folder / "near"),
        "RUNBOOKS_API__PORT": str(port),
    }
    return WorkerProcess(environment | own, folder / "near.log")
