"""A worker that carries out steps of some kinds and nothing else, for instance near a network."""

import contextlib
import os
import socket
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace

from aiohttp import web
from prometheus_client import CollectorRegistry

from app.clients.secrets import Secrets
from app.core.errors import ConfigurationError
from app.main import Running, executors_of, metric_agents, start_streams
from app.settings import Settings
from app.streams.app import Agents, add_executors, build_app, declare_table
from app.streams.figures import Figures
from app.streams.groups import group_of, refuse_other_readers
from app.streams.ledger import Ledger
from app.streams.log import Log
from app.streams.publisher import Publisher
from app.streams.topics import EXECUTION_EVENTS, ensure_topics, read_topics
from app.web.app import build_probes
from app.wiring import clients_of, command_topics, connection_of, read_users, stream_settings

TABLE = "step_ledger"


class StepWorker:
    """One such worker: its executors, and its probes over HTTP."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started yet."""
        self._settings = settings
        self.secrets = Secrets(settings.secrets.folder, settings.secrets.environment)
        self._registry = CollectorRegistry()
        self._users = read_users(settings.slack.users_file)

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """Start all of it in order, and stop it in the opposite one."""
        settings = self._settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        connection = connection_of(settings.kafka)
        group_id = group_of(settings.kafka.group_id, settings.worker.kinds)
        topics = read_topics(settings.kafka.topics_file, group_id, frozenset({TABLE}))
        await ensure_topics(connection, topics)
        await refuse_other_readers(connection, command_topics(settings), group_id, settings.kafka.group_id)
        shared = next(topic.partitions for topic in topics if topic.name == EXECUTION_EVENTS)
        incarnation = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        async with contextlib.AsyncExitStack() as stack:
            publisher = Publisher(connection, incarnation)
            await publisher.start()
            stack.push_async_callback(publisher.stop)
            clients = clients_of(settings, self.secrets)
            stack.push_async_callback(clients.close)
            agents = Agents(build_app(connection, stream_settings(settings, group_id, shared)))
            table = declare_table(agents.app, TABLE, shared)
            log, ledger, figures = Log(publisher), Ledger(table, publisher, incarnation), Figures(self._registry)
            executors = executors_of(settings, clients, self._users, ledger, log, figures)
            checker, inspector = await metric_agents(stack, settings, connection, shared, log, figures)
            executors = replace(executors, checker=checker, inspector=inspector)
            add_executors(agents, executors)
            recovered = await start_streams(stack, agents, executors, table, settings.worker.shutdown_grace_s)

            def readiness() -> list[str]:
                failed = [f"an agent failed: {agents.failure.result()!r}"] if agents.failure.done() else []
                recovering = agents.app.rebalancing or not recovered.is_set()
                return [*failed, *(["the tables are being recovered"] if recovering else [])]

            runner = web.AppRunner(build_probes(readiness, self._registry), access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            port = await _listen(runner, settings)
            yield Running(port=port, failure=agents.failure, log=log, readiness=readiness)


async def _listen(runner: web.AppRunner, settings: Settings) -> int:
    try:
        await web.TCPSite(runner, settings.api.host, settings.api.port).start()
    except OSError as error:
        said = f"port {settings.api.port} is taken: stop what listens there, or set RUNBOOKS_API__PORT"
        raise ConfigurationError(said) from error
    return int(runner.addresses[0][1])
