"""What all tests share: one real Kafka for the session, emptied of our topics between tests."""

import asyncio
import contextlib
import os
import socket
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from metric_servers import Exporter, MetricServer, running_metric_server
from parts import MISSING
from pydantic import SecretStr
from sshd import Sshd, running_sshd
from waiting import until

from app.broker.kafka import EmbeddedKafka
from app.settings import ApiSettings, KafkaSettings, NetworkSettings, Settings
from app.streams.connection import KafkaConnection
from app.streams.topics import read_topics

pytest_plugins = ("cluster_fixtures", "database_fixtures")
SECRET = "a secret of the tests that is long enough"
PORTS_EACH = 2_000


def pytest_addoption(parser):
    parser.addoption("--broker", choices=("embedded", "docker"), default="embedded", help="Which Kafka the tests use.")


def pytest_xdist_auto_num_workers(config):
    """One more than there are cores, since tests mostly wait; a broker that was named can serve only one at a time."""
    if os.environ.get("KAFKA_BOOTSTRAP_SERVERS"):
        return 0
    return min(4, 1 + (os.cpu_count() or 1))


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["missing"] = sorted(MISSING)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    MISSING.update(getattr(node, "workeroutput", {}).get("missing", ()))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logreport(report):
    """What was captured can hold half a character, which cannot go from one process to another."""
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]


def pytest_terminal_summary(terminalreporter):
    for name in sorted(MISSING):
        terminalreporter.write_line(f"MISSING PART: {name}: its tests did not run", red=True, bold=True)


@pytest.fixture(scope="session")
def unused_tcp_port_factory(worker_id):
    """Ports that nobody listens on, another one each time, and never those of another process of this run.

    From below those that the kernel gives out: one of these may be taken, by a test or a connection, until a worker
    that is being started listens, and the test would talk to somebody else's.
    """
    number = int(worker_id.removeprefix("gw")) if worker_id.startswith("gw") else 5
    begin = 20_000 + PORTS_EACH * number
    ports = cycle(range(begin, begin + PORTS_EACH))

    def free_port() -> int:
        for port in islice(ports, PORTS_EACH):
            with contextlib.suppress(OSError), socket.socket() as tried:
                tried.bind(("127.0.0.1", port))
                return port
        raise RuntimeError(f"no port from {begin} on is free")

    return free_port


@contextmanager
def loop_in_a_thread() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that outlives the tests' own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@pytest.fixture(scope="session")
def kafka(request, tmp_path_factory) -> Iterator[str]:
    """The bootstrap servers of a real Apache Kafka: a named one, a container, or the embedded one."""
    named = os.environ.get("KAFKA_BOOTSTRAP_SERVERS")
    if named:
        yield named
    elif request.config.getoption("--broker") == "docker":
        from testcontainers.community.kafka import KafkaContainer

        with KafkaContainer() as container:
            yield container.get_bootstrap_server()
    else:
        broker = EmbeddedKafka(data_dir=tmp_path_factory.mktemp("kafka"), progress=print)
        with loop_in_a_thread() as loop:
            asyncio.run_coroutine_threadsafe(broker.start(), loop).result(180)
            yield broker.bootstrap_servers
            asyncio.run_coroutine_threadsafe(broker.stop(), loop).result(60)


async def drop_topics(servers: str) -> None:
    """Delete every topic of ours, and wait until the broker has none."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    try:
        ours = {topic.name for topic in read_topics(Path("topics.yaml"), "any")}

        async def left() -> list[str]:
            return [name for name in await admin.list_topics() if name in ours or name.endswith("-changelog")]

        found = await left()
        if found:
            await admin.delete_topics(found)

            async def gone() -> bool:
                return not await left()

            await until(gone)
    finally:
        await admin.close()


@pytest.fixture
async def broker(kafka) -> str:
    """The session's broker without any topic of ours."""
    await drop_topics(kafka)
    return kafka


@pytest.fixture
def connection(broker) -> KafkaConnection:
    return KafkaConnection(bootstrap_servers=broker)


@pytest.fixture
def settings(broker, tmp_path) -> Settings:
    """A worker's settings on the session's broker, apart from every other test's."""
    return Settings(
        data_dir=tmp_path / "run",
        runbooks_dir=None,
        kafka=KafkaSettings(bootstrap_servers=broker, group_id=f"test-{uuid.uuid4().hex[:8]}"),
        api=ApiSettings(port=0, jwt_secret=SecretStr(SECRET)),
        network=NetworkSettings(allow_loopback=True),
    )


@pytest.fixture(scope="session")
def sshd() -> Iterator[Sshd]:
    """A real OpenSSH server that root and an account of its own may log in to."""
    with running_sshd() as server:
        yield server


@pytest.fixture(scope="session")
def exporter() -> Iterator[Exporter]:
    """What the metric servers scrape."""
    with Exporter() as exporter:
        yield exporter


@pytest.fixture(scope="session")
def prometheus(exporter) -> Iterator[MetricServer]:
    """A real Prometheus."""
    with running_metric_server("prometheus", exporter.target) as server:
        yield server


@pytest.fixture(scope="session")
def victoria_metrics(exporter) -> Iterator[MetricServer]:
    """A real VictoriaMetrics."""
    with running_metric_server("victoria-metrics", exporter.target) as server:
        yield server
