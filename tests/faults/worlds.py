"""All that a run takes place in: a broker behind proxies, workers that are started again, a database, a disk."""

import asyncio
import contextlib
import importlib.util
import os
import resource
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from faults.loads import write_runbooks
from faults.plans import WORKERS, Plan
from faults.proxies import Proxy
from faults.recorder import Effect, Recorder
from postgresql import PostgreSQL, programs
from processes import SECRET, Api
from sshd import Sshd, inventory
from waiting import until

from app.broker.kafka import EmbeddedKafka

DISK_BYTES = 512 * 1024 * 1024  # half an hour of a soak has 100 MB of rows and history
RESTART_S = 1.0
STOP_TIMEOUT_S = 60.0
LOCK_TIMEOUT_S = 60.0  # a worker that stands still may hold it for half of that
ALL_WORKERS = WORKERS + 1
"""The last one only comes and goes."""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ProxiedKafka(EmbeddedKafka):
    """The embedded broker with one more listener for each worker, each advertised at the worker's proxy.

    It stamps every record when it appends it, so that "in the log before the side effect" can be told.
    """

    def __init__(self, data_dir: Path, proxies: dict[int, int]) -> None:
        """proxies: the port of each proxy, by the port that it forwards to."""
        super().__init__(data_dir=data_dir)
        self._proxies = proxies

    def _write_configuration(self) -> None:
        super()._write_configuration()
        path = self._dir / "server.properties"
        lines = dict(line.split("=", 1) for line in path.read_text().splitlines())
        for number, (listening, proxy) in enumerate(self._proxies.items()):
            lines["listeners"] += f",WORKER{number}://127.0.0.1:{listening}"
            lines["advertised.listeners"] += f",WORKER{number}://127.0.0.1:{proxy}"
            lines["listener.security.protocol.map"] += f",WORKER{number}:PLAINTEXT"
        lines["log.message.timestamp.type"] = "LogAppendTime"
        lines["broker.session.timeout.ms"] = "3000"  # a broker that was killed is let in again only after it
        lines["broker.heartbeat.interval.ms"] = "1000"
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))


class SupervisedWorker:
    """``runbooks worker``, started again whenever it ends by itself, as systemd or a cluster would."""

    def __init__(self, number: int, environment: dict[str, str], log: Path, api: Api) -> None:
        """Nothing runs yet."""
        self.number = number
        self.environment = environment
        self.log = log
        self.api = api
        self.ended: list[str] = []
        self.lock = asyncio.Lock()
        self._wanted = False
        self._process: asyncio.subprocess.Process | None = None
        self._watching: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """Of the running process; None while there is none."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if running and self._process is not None else None

    async def start(self) -> None:
        """Start it, and again each time it ends without having been told to."""
        self._wanted = True
        await self._spawn()
        self._watching = asyncio.create_task(self._watch())

    async def _spawn(self) -> None:
        tied = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        command = [*tied, sys.executable, "-m", "app.cli", "worker"]
        with self.log.open("ab") as output:
            self._process = await asyncio.create_subprocess_exec(
                *command, env=self.environment, stdout=output, stderr=output
            )

    async def _watch(self) -> None:
        while True:
            assert self._process is not None
            status = await self._process.wait()
            if not self._wanted:
                return
            self.ended.append(f"worker {self.number}, status {status}: {self._last_words()}")
            await asyncio.sleep(RESTART_S)
            if not self._wanted:
                return
            await self._spawn()

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()
        return lines[-1][:300] if lines else "nothing"

    async def end(self, number: signal.Signals) -> int | None:
        """Send it a signal that ends it; its exit status, None when it had to be killed after a minute."""
        self._wanted = False
        self.send(number)
        try:
            async with asyncio.timeout(STOP_TIMEOUT_S):
                status = None if self._process is None else await self._process.wait()
        except TimeoutError:
            status = None
            self.send(signal.SIGUSR2)
            await asyncio.sleep(2)
            self.send(signal.SIGKILL)
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        if self.pid is not None:  # started again at the last moment
            self.send(signal.SIGKILL)
            assert self._process is not None
            await self._process.wait()
        return status

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens when it does not run."""
        if self.pid is not None:
            os.kill(self.pid, number)

    async def ready(self, timeout_s: float = 90.0) -> None:
        """Wait until it can do work."""

        async def answers() -> bool:
            with contextlib.suppress(aiohttp.ClientError, OSError, ValueError, TimeoutError):
                async with asyncio.timeout(2):
                    status, _ = await self.api.call("GET", "/readyz")
                return bool(status == 200)
            return False

        await until(answers, timeout_s)


class Disk:
    """The file system of the workers' data folders and of the SQLite history; it can be full.

    A small tmpfs where mounting is allowed, else a limit on the size of the files that workers write.
    """

    def __init__(self, path: Path) -> None:
        """Nothing is mounted yet."""
        self.path = path
        self.mounted = False

    def make(self) -> None:
        """Mount it, or make a plain folder."""
        self.path.mkdir(parents=True)
        command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=0777", "tmpfs", str(self.path)]
        self.mounted = subprocess.run(command, check=False, capture_output=True).returncode == 0

    def fill(self, pids: list[int]) -> str:
        """Leave no room; says how."""
        if not self.mounted:
            for pid in pids:
                psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (4096, resource.RLIM_INFINITY))
            return "RLIMIT_FSIZE"
        with (self.path / "filler").open("wb", buffering=0) as filler:
            for size in (1024 * 1024, 4096):
                with contextlib.suppress(OSError):
                    while True:
                        filler.write(b"\0" * size)
        return "ENOSPC"

    def clear(self, pids: list[int]) -> None:
        """Make room again."""
        (self.path / "filler").unlink(missing_ok=True)
        if not self.mounted:
            for pid in pids:
                with contextlib.suppress(psutil.NoSuchProcess):
                    limits = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
                    psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, limits)

    def remove(self) -> None:
        """Unmount."""
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.path)], check=False)


class World:
    """A started broker, workers, targets and a database; see ``world``."""

    def __init__(self, folder: Path, plan: Plan, sshd: Sshd | None, say: Callable[[str], None]) -> None:
        """Nothing is started yet."""
        self.folder, self.plan, self.sshd, self.say = folder, plan, sshd, say
        self.disk = Disk(folder / "disk")
        self.recorder = Recorder()
        ports = [(free_port(), free_port()) for _ in range(ALL_WORKERS)]
        self.proxies = [Proxy(proxy, listening) for listening, proxy in ports]
        self.broker = ProxiedKafka(folder / "kafka", dict(ports))
        self.broker_lock = asyncio.Lock()
        self.database: PostgreSQL | Path = folder / "disk" / "history.db"
        self.workers: list[SupervisedWorker] = []
        self.stand_ins: Any = None
        self.runbooks: dict[str, dict[str, Any]] = {}
        self.effects_file: Path | None = None
        self.notes: list[str] = []

    @property
    def apis(self) -> list[Api]:
        """Of the workers that stay."""
        return [worker.api for worker in self.workers[:WORKERS]]

    def effects(self) -> list[Effect]:
        """All side effects so far: the recorder's, the shell's and the cluster's."""
        found = list(self.recorder.effects)
        if self.effects_file is not None and self.effects_file.exists():
            for line in self.effects_file.read_text().splitlines():
                execution_id, at = line.split()
                found.append(Effect((execution_id, 0, "apply"), float(at)))
        return found

    def pids(self) -> list[int]:
        """Of all workers that run."""
        return [worker.pid for worker in self.workers if worker.pid is not None]

    async def history_url(self) -> str:
        """Where the history is kept, shared by all workers."""
        if self.plan.database != "postgresql":
            return f"sqlite:///{self.database}"
        found = programs()
        assert found is not None, "PostgreSQL is not on this machine: choose DATABASE=sqlite"
        self.database = await asyncio.to_thread(PostgreSQL, found)
        await asyncio.to_thread(self.database.start)
        return await self.database.new_database()

    async def environment(self, number: int, history: str) -> dict[str, str]:
        """A worker's settings."""
        profile = self.plan.profile
        data = self.disk.path / f"worker-{number}"
        named = {
            "DATA_DIR": data,
            "RUNBOOKS_DIR": self.folder / "runbooks",
            "KAFKA__BOOTSTRAP_SERVERS": f"127.0.0.1:{self.proxies[number].port}",
            "KAFKA__GROUP_ID": "faults",
            "API__PORT": free_port(),
            "API__JWT_SECRET": SECRET,
            "NETWORK__ALLOW_LOOPBACK": "true",
            "HISTORY__URL": history,
            "KUBERNETES__KUBECONFIG": self.folder / "kubeconfig",
            "LIMITS__MAX_CONCURRENT_RUNBOOKS": 20,
            "WORKER__LEASE_S": profile.lease_s,
            "WORKER__HEARTBEAT_S": profile.heartbeat_s,
            "WORKER__SESSION_TIMEOUT_S": profile.session_timeout_s,
            "WORKER__SHUTDOWN_GRACE_S": 5,
        }
        if self.effects_file is not None:
            named["SSH__INVENTORY"] = self.folder / "inventory.yaml"
        python = f"{Path.cwd()}:{Path(__file__).with_name('stacks')}"
        return {**os.environ, "PYTHONPATH": python, **{f"RUNBOOKS_{name}": str(value) for name, value in named.items()}}

    async def lock_database(self, for_s: float) -> None:
        """Take the database away for a while."""
        if isinstance(self.database, PostgreSQL):
            await asyncio.to_thread(self.database.stop)
            await asyncio.sleep(for_s)
            await asyncio.to_thread(self.database.start)
            return
        connection = sqlite3.connect(
            self.database, isolation_level=None, timeout=LOCK_TIMEOUT_S, check_same_thread=False
        )
        try:
            # in a thread: a worker that stands still may hold the lock, and is to be waked meanwhile
            await asyncio.to_thread(connection.execute, "BEGIN EXCLUSIVE")
            await asyncio.sleep(for_s)
        finally:
            connection.close()


@contextlib.asynccontextmanager
async def world(folder: Path, plan: Plan, sshd: Sshd | None, say: Callable[[str], None]) -> AsyncIterator[World]:
    """Everything started, all workers but the last one ready."""
    one = World(folder, plan, sshd, say)
    async with contextlib.AsyncExitStack() as stack:
        one.disk.make()
        stack.callback(one.disk.remove)
        await one.recorder.start()
        stack.push_async_callback(one.recorder.stop)
        await one.broker.start()
        stack.push_async_callback(one.broker.stop)
        for proxy in one.proxies:
            await proxy.start()
            stack.push_async_callback(proxy.cut)
        session = await stack.enter_async_context(aiohttp.ClientSession())
        await _targets(one, stack)
        history = await one.history_url()
        if isinstance(one.database, PostgreSQL):
            stack.callback(one.database.remove)
        for number in range(ALL_WORKERS):
            environment = await one.environment(number, history)
            api = Api(f"http://127.0.0.1:{environment['RUNBOOKS_API__PORT']}", session)
            one.workers.append(SupervisedWorker(number, environment, folder / f"worker-{number}.log", api))
        for worker in one.workers[:WORKERS]:
            stack.push_async_callback(worker.end, signal.SIGKILL)
            await worker.start()
            await worker.ready()
        stack.push_async_callback(one.workers[WORKERS].end, signal.SIGKILL)
        yield one


async def _targets(one: World, stack: contextlib.AsyncExitStack) -> None:
    specification = importlib.util.spec_from_file_location("stand_ins", "examples/demo/stand_ins.py")
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    sys.modules["stand_ins"] = module
    specification.loader.exec_module(module)
    one.stand_ins = await module.start_stand_ins()
    stack.push_async_callback(one.stand_ins.stop)
    one.stand_ins.kubeconfig(one.folder / "kubeconfig")
    if one.sshd is not None:
        one.folder.chmod(0o755)
        shared = one.folder / "shell"
        shared.mkdir()
        shared.chmod(0o777)
        one.effects_file = shared / "effects"
        inventory(one.folder, target=one.sshd.entry())
    one.runbooks = write_runbooks(one.folder / "runbooks", one.recorder.url, one.effects_file)


def remove(folder: Path) -> None:
    """Forget a run's folder."""
    shutil.rmtree(folder, ignore_errors=True)
