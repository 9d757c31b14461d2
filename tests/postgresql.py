"""A real PostgreSQL of the tests' own."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import uuid
from pathlib import Path

import asyncpg

READY_TIMEOUT_S = 30.0


class PostgreSQL:
    """A PostgreSQL of its own, as a child process on loopback; its data survives stop and start."""

    def __init__(self, programs: Path) -> None:
        self._programs = programs
        self._dir = Path(tempfile.mkdtemp(prefix="history-postgresql-"))
        if os.geteuid() == 0:  # it refuses to run as root
            shutil.chown(self._dir, "postgres")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = free.getsockname()[1]
        self._process: subprocess.Popen | None = None
        self._call("initdb", "-D", self._data, "-U", "runbooks", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")

    @property
    def _data(self) -> str:
        return str(self._dir / "data")

    def url(self, database: str) -> str:
        return f"postgresql://runbooks@127.0.0.1:{self._port}/{database}"

    def start(self) -> None:
        settings = ("listen_addresses=127.0.0.1", "fsync=off", f"unix_socket_directories={self._dir}")
        options = [part for setting in settings for part in ("-c", setting)]
        command = self._command("postgres", "-D", self._data, "-p", str(self._port), *options)
        with (self._dir / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._dir)
        deadline = time.monotonic() + READY_TIMEOUT_S
        ready = [self._programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self._port)]
        while subprocess.run(ready, check=False).returncode != 0:
            assert self._process.poll() is None, (self._dir / "log").read_text()
            assert time.monotonic() < deadline, "PostgreSQL did not get ready"
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop at once, its clients' connections with it."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(READY_TIMEOUT_S)
            self._process = None

    def remove(self) -> None:
        self.stop()
        shutil.rmtree(self._dir)

    async def new_database(self) -> str:
        """The URL of an empty database."""
        name = f"h{uuid.uuid4().hex}"
        connection = await asyncpg.connect(self.url("postgres"))
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()
        return self.url(name)

    def _call(self, program: str, *arguments: str) -> None:
        subprocess.run(self._command(program, *arguments), check=True, capture_output=True, cwd=self._dir)

    def _command(self, program: str, *arguments: str) -> list[str]:
        """Its end is tied to ours; as root it runs as the package's own user."""
        user = ["--reuid=postgres", "--regid=postgres", "--init-groups"] if os.geteuid() == 0 else []
        return ["setpriv", "--pdeathsig", "QUIT", *user, str(self._programs / program), *arguments]


def programs() -> Path | None:
    """The folder of the newest PostgreSQL on this machine; None where there is none."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found and shutil.which("setpriv") else None
