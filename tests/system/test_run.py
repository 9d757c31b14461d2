"""``runbooks run`` on a machine with nothing: broker, worker, demo, and the product page's calls with curl itself."""

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import psutil
import pytest
from parts import missing_part
from waiting import until

README = Path("README.md").read_text()


def curl_calls() -> list[str]:
    """The curl calls of the README, which are the product page's, as a person would paste them."""
    blocks = re.findall(r"```bash\n(curl .*?)```", README, flags=re.DOTALL)
    assert len(blocks) == 2
    return blocks


class Run:
    """``runbooks run`` as a process, and what it has printed."""

    def __init__(self, folder: Path, port: int, **environment: str) -> None:
        self.folder = folder
        self.port = port
        self.environment = {"RUNBOOKS_DATA_DIR": str(folder), "RUNBOOKS_API__PORT": str(port), **environment}
        self.process: asyncio.subprocess.Process | None = None
        self.printed = ""

    async def start(self) -> None:
        self.process = await asyncio.create_subprocess_exec(
            shutil.which("runbooks", path=".venv/bin") or "runbooks",
            "run",
            env=os.environ | self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )

    async def until_printed(self, text: str, timeout_s: float = 120.0) -> None:
        assert self.process is not None
        assert self.process.stdout is not None
        async with asyncio.timeout(timeout_s):
            while text not in self.printed:
                line = await self.process.stdout.readline()
                assert line, f"it ended before it printed {text!r}:\n{self.printed}"
                self.printed += line.decode()

    def variables(self) -> dict[str, str]:
        return dict(line.split("=", 1) for line in (self.folder / "env").read_text().splitlines())

    def java(self) -> list[psutil.Process]:
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            return [one for one in psutil.Process(self.process.pid).children(recursive=True) if "java" in one.name()]
        return []

    async def stop(self, number: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        if self.process.returncode is None:
            self.process.send_signal(number)
        return await self.process.wait()


@pytest.fixture
async def running(tmp_path, unused_tcp_port):
    run = Run(tmp_path / "run", unused_tcp_port)
    await run.start()
    yield run
    await run.stop(signal.SIGKILL)


async def gone(processes: list[psutil.Process]) -> None:
    async def none_left() -> bool:
        return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)

    await until(none_left, 30)


async def test_one_command_shows_the_demo_and_the_products_calls_work_with_curl(running):
    if shutil.which("curl") is None:
        missing_part("curl")
    await running.until_printed("Ctrl-C stops it")
    for text in (
        "[Slack stand-in: #alerts: Scaling payment-api from 3 to 5 pods due to CPU anomaly]",
        "[Slack stand-in: #approvals: Action: Scale production/payment-api from 3 to 5]",
        "… 2. Scale production/payment-api from 3 to 5: awaiting_approval",
    ):
        assert text in running.printed
    (approve,) = re.findall(
        r"^    (RUNBOOKS_DATA_DIR=\S+ .venv/bin/runbooks approve \S+ --digest [0-9a-f]{64})$",
        running.printed,
        re.MULTILINE,
    )
    assert b"approved by approver" in await shell(approve, os.environ)
    await running.until_printed("  succeeded in ")
    for text in (
        "[Kubernetes stand-in: production/payment-api now has 5 replicas]",
        "[PagerDuty stand-in: incident Q1: payment-api scaled",
        "2. Scale production/payment-api from 3 to 5: succeeded",
        "approved by approver",
    ):
        assert text in running.printed
    variables = running.variables()
    assert set(variables) == {
        "API_URL",
        "KAFKA_BOOTSTRAP_SERVERS",
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS",
        "OPERATOR_JWT",
        "VIEWER_JWT",
        "APPROVER_JWT",
        "ADMIN_JWT",
    }
    environment = os.environ | variables | {"YOUR_JWT": variables["VIEWER_JWT"]}
    execute, history = [
        json.loads(await shell(call.replace("localhost:8080", f"localhost:{running.port}"), environment))
        for call in curl_calls()
    ]
    assert (execute["status"], execute["dry_run"]) == ("succeeded", True)
    assert [step["status"] for step in execute["steps"]] == ["planned"] * 3
    assert execute["steps"][1]["summary"] == "production/payment-api is already at 5"
    assert execute["trigger"] == {"matched": True, "reason": None}
    assert [item["status"] for item in history["items"]] == ["succeeded", "succeeded"]
    assert {item["service_id"] for item in history["items"]} == {"payment-api"}

    data = {"RUNBOOKS_DATA_DIR": str(running.folder)}
    for command in ("runbooks publish-anomaly examples/demo/anomaly.json", "runbooks audit verify"):
        assert f"\n    {command}\n" in README
        await shell(f".venv/bin/{command}", os.environ | data)  # the audit ends with 0 where nothing differs

    java = running.java()
    assert java
    assert await running.stop() == 0
    await gone(java)


async def shell(call: str, environment: Mapping[str, str]) -> bytes:
    process = await asyncio.create_subprocess_shell(
        call, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out


async def test_killed_it_leaves_no_kafka_behind_and_starts_again_on_its_data(running):
    await running.until_printed("Ctrl-C stops it")
    java = running.java()
    await running.stop(signal.SIGKILL)
    await gone(java)
    again = Run(running.folder, running.port, DEMO="0", **running.variables())  # from a shell that has read it
    await again.start()
    try:
        await again.until_printed("Ctrl-C stops it")
        headers = {"Authorization": f"Bearer {again.variables()['VIEWER_JWT']}"}
        url = f"{again.variables()['API_URL']}/api/v1/runbooks/history"
        async with aiohttp.ClientSession() as session, session.get(url, headers=headers) as answer:
            items = (await answer.json())["items"]
        assert [item["status"] for item in items] == ["awaiting_approval"]
    finally:
        await again.stop()


async def test_a_taken_port_is_one_clear_sentence(running, tmp_path):
    await running.until_printed("starting the worker")
    kafka_port = (running.folder / "kafka" / "port").read_text()
    other = Run(tmp_path / "other", running.port, RUNBOOKS_KAFKA__PORT=kafka_port)
    await other.start()
    await other.until_printed("is taken")
    assert other.process is not None
    assert await other.process.wait() == 1
    said = f"runbooks: port {kafka_port} is taken: stop what listens there, or set RUNBOOKS_KAFKA__PORT\n"
    assert other.printed.endswith(said)
