"""What the benchmarks share: a worker process on the embedded Kafka, a paced load, and how figures are printed."""

import asyncio
import contextlib
import os
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web

from app.development import make_token

SECRET = "a secret of the benchmarks, long enough"


def shown(name: str, seconds: list[float]) -> dict[str, float]:
    """Print and return count, p50, p99 and max of some durations, in milliseconds."""
    ordered = sorted(value * 1000 for value in seconds)
    row = {
        "n": len(ordered),
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1], 2),
        "max_ms": round(ordered[-1], 2),
    }
    print(f"{name:48} {row}", flush=True)
    return row


async def paced(count: int, per_second: float):
    """Count at a steady rate."""
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        yield number


@contextlib.asynccontextmanager
async def target() -> AsyncIterator[str]:
    """The URL of an HTTP server that answers every POST with an empty object."""

    async def ok(_: web.Request) -> web.Response:
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/", ok)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


@contextlib.asynccontextmanager
async def worker(
    servers: str, folder: Path, *, code: Path | None = None, **settings: str
) -> AsyncIterator[aiohttp.ClientSession]:
    """A worker process, ready, and a client of its API with an admin's token; code: a checkout, None for this one."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = os.environ | {
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": servers,
        "RUNBOOKS_DATA_DIR": str(folder / "worker"),
        "RUNBOOKS_RUNBOOKS_DIR": str(folder / "none"),
        "RUNBOOKS_API__PORT": str(port),
        "RUNBOOKS_API__JWT_SECRET": SECRET,
        "RUNBOOKS_NETWORK__ALLOW_LOOPBACK": "true",
        **settings,
    }
    begun = time.monotonic()
    with (folder / "worker.log").open("w") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "app.cli", "worker", env=environment, stderr=log, cwd=code
        )
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'bench', ['admin'])}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session:
        await _ready_unless_ended(session, process, folder / "worker.log")
        memory = psutil.Process(process.pid).memory_info().rss / 1e6
        print(f"{'worker ready after':48} {time.monotonic() - begun:.2f} s, {memory:.0f} MB resident", flush=True)
        try:
            yield session
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            raise
    print(f"{'worker afterwards':48} {psutil.Process(process.pid).memory_info().rss / 1e6:.0f} MB resident", flush=True)
    process.terminate()
    await process.wait()


def cpu_s() -> float:
    """What our child processes but Java's have used of the processor so far, in seconds: the worker."""
    mine = [one for one in psutil.Process().children() if one.name() != "java"]
    return sum(one.cpu_times().user + one.cpu_times().system for one in mine)


async def _ready_unless_ended(session: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path) -> None:
    getting_ready, ending = asyncio.create_task(ready(session)), asyncio.create_task(process.wait())
    await asyncio.wait((getting_ready, ending), return_when=asyncio.FIRST_COMPLETED)
    getting_ready.cancel()
    ending.cancel()
    assert process.returncode is None, f"the worker ended: {await asyncio.to_thread(log.read_text)}"[-4000:]


async def ready(session: aiohttp.ClientSession) -> None:
    """Wait until the worker says that it can do work."""
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get("/readyz") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.02)


async def put_runbook(session: aiohttp.ClientSession, runbook: dict, tenant: str = "default") -> None:
    """Bring a definition into force."""
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'bench', ['admin'], tenant)}"}
    async with session.put(f"/api/v1/runbooks/{runbook['name']}", json=runbook, headers=headers) as answer:
        assert answer.status in (200, 201), await answer.text()
