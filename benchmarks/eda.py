"""ansible-rulebook, run beside us: installed outside the tree by `make bench-peers`, with rules of one shape."""

import asyncio
import contextlib
import json
import os
import re
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import psutil
import yaml
from flow import METRIC

from app.broker.jars import default_cache_dir

HOME = default_cache_dir() / "ansible-rulebook"
MISSING = "ansible-rulebook is not installed: make bench-peers"
SOURCES = Path(__file__).parent / "peers"
CONNECTIONS = 8
Phase = tuple[str, float, int]
"""service_id, score, how many events."""


def is_installed() -> bool:
    return (HOME / "bin" / "ansible-rulebook").exists()


@dataclass(frozen=True)
class Source:
    """Where a ruleset's events come from: in process, or from a webhook, under `payload`."""

    definition: dict
    fields: str


def in_process(plan: list[Phase], services: int, folder: Path) -> Source:
    """The source of benchmarks/peers; phases begin with `Rulebook.go`."""
    (folder / "plan.json").write_text(json.dumps(plan))
    arguments = {"plan": str(folder / "plan.json"), "folder": str(folder), "services": services}
    return Source({"rulebook_source": arguments}, "event")


def webhook(port: int) -> Source:
    """The source that ships with it."""
    return Source({"eda.builtin.webhook": {"host": "127.0.0.1", "port": port}}, "event.payload")


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def ruleset(name: str, source: Source, rules: int, action: dict) -> dict:
    """So many rules of the shape `svc`."""
    where = source.fields
    return {
        "name": name,
        "hosts": "all",
        "sources": [{"name": name, **source.definition}],
        "rules": [
            {
                "name": f"{name} svc-{number}",
                "condition": f'{where}.service_id == "svc-{number}" and {where}.metric_name == "{METRIC}" '
                f"and {where}.anomaly_score > 0.7",
                "action": action,
            }
            for number in range(rules)
        ],
    }


def says(source: Source, word: str) -> dict:
    """The action that prints `word` and the event's `seq`."""
    return {"debug": {"msg": f"{word} {{{{ {source.fields}.seq }}}} of the benchmark"}}


class Rulebook:
    """One that runs."""

    def __init__(self, process: asyncio.subprocess.Process, folder: Path) -> None:
        self._process = process
        self._folder = folder
        self._said = ""

    async def go(self, phase: int) -> float:
        """Let a phase of its source begin, and wait until it has printed the phase's mark; processor seconds used."""
        before = self.cpu_s()
        (self._folder / f"go-{phase}").touch()
        await self.until(f"mark {phase} of the benchmark")
        return self.cpu_s() - before

    async def until(self, text: str) -> None:
        """Wait until it has printed this."""
        assert self._process.stdout is not None
        while text not in self._said:
            line = (await self._process.stdout.readline()).decode()
            assert line, f"ansible-rulebook ended: {self._said[-2000:]}"
            self._said += re.sub(r"\s+", " ", line)

    def cpu_s(self) -> float:
        """What it has used of the processor, its Java included: that runs in the same process."""
        times = psutil.Process(self._process.pid).cpu_times()
        return times.user + times.system


@contextlib.asynccontextmanager
async def running(folder: Path, rulesets: list[dict], strategy: str = "sequential") -> AsyncIterator[Rulebook]:
    """Start it; what it started is ended with it."""
    rulebook, inventory = folder / "rulebook.yml", folder / "inventory.yml"
    rulebook.write_text(yaml.safe_dump([{**one, "execution_strategy": strategy} for one in rulesets], sort_keys=False))
    local = {"ansible_connection": "local", "ansible_python_interpreter": str(HOME / "bin" / "python")}
    inventory.write_text(yaml.safe_dump({"all": {"hosts": {"localhost": local}}}))
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment |= {"PATH": f"{HOME / 'bin'}{os.pathsep}{os.environ['PATH']}", "PYTHONUNBUFFERED": "1"}
    process = await asyncio.create_subprocess_exec(
        *(str(HOME / "bin" / "ansible-rulebook"), "-r", str(rulebook), "-S", str(SOURCES), "-i", str(inventory)),
        env=environment,
        cwd=folder,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        yield Rulebook(process, folder)
    finally:
        with contextlib.suppress(psutil.NoSuchProcess):
            for one in psutil.Process(process.pid).children(recursive=True):
                one.kill()
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def posted(port: int, count: int, event_of: Callable[[int], dict]) -> None:
    """Post so many events to a webhook over a few connections that are kept."""
    numbers = iter(range(count))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS)) as session:

        async def some() -> None:
            for number in numbers:
                await post(session, port, event_of(number))

        await asyncio.gather(*(some() for _ in range(CONNECTIONS)))


async def post(session: aiohttp.ClientSession, port: int, event: dict) -> None:
    async with session.post(f"http://127.0.0.1:{port}/endpoint", json=event) as answer:
        assert answer.status == 200, await answer.text()


async def listening(port: int) -> None:
    """Wait until something listens there."""
    while True:
        with contextlib.suppress(ConnectionRefusedError):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.close()
            return
        await asyncio.sleep(0.02)


async def timed(work: Awaitable[object]) -> float:
    """Seconds that it takes."""
    begun = time.monotonic()
    await work
    return time.monotonic() - begun
