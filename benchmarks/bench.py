"""What the benchmarks share: worker processes on the embedded Kafka, a paced load, and how figures are printed."""

import asyncio
import contextlib
import logging
import math
import os
import shutil
import signal
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import IO, Any

import aiohttp
import psutil
import uvloop
from aiohttp import web

from app.development import make_token

SECRET = "a secret of the benchmarks, long enough"


def run(work: Coroutine[Any, Any, Any]) -> Any:
    """Run a part to its end; one that is asked to stop ends what it has started."""

    logging.getLogger("aiokafka").setLevel(logging.ERROR)  # what it tries again is no news of a topic just made

    async def stoppable() -> Any:
        doing = asyncio.ensure_future(work)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, doing.cancel)
        return await doing

    return uvloop.run(stoppable())


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so many of them are not above; share: 0 to 1."""
    return sorted(values)[max(0, math.ceil(len(values) * share) - 1)]


def shown(name: str, seconds: list[float]) -> dict[str, float]:
    """Print and return count, p50, p99 and max of some durations, in milliseconds."""
    row = {
        "n": len(seconds),
        "p50_ms": round(statistics.median(seconds) * 1e3, 2),
        "p99_ms": round(percentile(seconds, 0.99) * 1e3, 2),
        "max_ms": round(max(seconds) * 1e3, 2),
    }
    said(name, row)
    return row


def said(name: str, what: object) -> None:
    """Print one line of what was found, as it is found."""
    print(f"{name:48} {what}", flush=True)


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
    tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []  # nothing of it is left behind
    with log_file(folder) as log:
        process = await asyncio.create_subprocess_exec(
            *tied, sys.executable, "-m", "app.cli", "worker", env=environment, stderr=log, cwd=code
        )
    try:
        headers = {"Authorization": f"Bearer {make_token(SECRET, 'bench', ['admin'])}"}
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}", headers=headers) as session:
            await ready(session, process, folder / "worker.log")
            mb = psutil.Process(process.pid).memory_info().rss / 1e6
            said("worker ready after", f"{time.monotonic() - begun:.2f} s, {mb:.0f} MB resident")
            yield session
            said("worker afterwards", f"{psutil.Process(process.pid).memory_info().rss / 1e6:.0f} MB resident")
            process.terminate()
            await process.wait()
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def log_file(folder: Path) -> IO[str]:
    """Where a worker tells what it does."""
    folder.mkdir(parents=True, exist_ok=True)
    return (folder / "worker.log").open("w")


def workers() -> list[psutil.Process]:
    """The worker processes that we have started and not ended."""
    return [one for one in psutil.Process().children() if "app.cli" in one.cmdline()]


def cpu_s(*processes: psutil.Process) -> float:
    """What these processes have used of the processor so far, in seconds; the workers, when none are given."""
    return sum(one.cpu_times().user + one.cpu_times().system for one in processes or workers())


async def ready(session: aiohttp.ClientSession, process: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the worker says that it can do work; raises with the end of its log when it has ended instead."""
    while process.returncode is None:
        with contextlib.suppress(aiohttp.ClientError):
            async with session.get("/readyz") as answer:
                if answer.status == 200:
                    return
        await asyncio.sleep(0.02)
    raise RuntimeError(f"the worker ended: {await asyncio.to_thread(log.read_text)}"[-4000:])


async def put_runbook(session: aiohttp.ClientSession, runbook: dict, tenant: str = "default") -> None:
    """Bring a definition into force."""
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'bench', ['admin'], tenant)}"}
    async with session.put(f"/api/v1/runbooks/{runbook['name']}", json=runbook, headers=headers) as answer:
        assert answer.status in (200, 201), await answer.text()
