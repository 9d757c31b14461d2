"""A worker that carries out steps of some kinds and nothing else, for instance near a network."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

from prometheus_client import CollectorRegistry

from app.clients.secrets import Secrets
from app.main import Running, executors_of, new_incarnation, serve, start_publisher, start_streams
from app.metric_readers import metric_agents
from app.settings import Settings
from app.streams.app import Agents, add_executors, build_app, declare_table, membership_of
from app.streams.figures import Figures
from app.streams.groups import group_of, refuse_other_readers
from app.streams.ledger import TABLE, Ledger, is_newer_claim, outline_of_claim
from app.streams.log import Log
from app.streams.taking_over import take_over
from app.streams.topics import EXECUTION_EVENTS, ensure_topics, read_topics
from app.tracing import start_traces
from app.watching import watch_backlog
from app.web.app import build_probes
from app.wiring import (
    clients_of,
    command_topics,
    connection_of,
    now,
    read_users,
    stream_settings,
    topics_of_kinds,
)


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
        family = settings.kafka.group_id
        group_id = group_of(family, settings.worker.kinds)
        topics = read_topics(settings.kafka.topics_file, family, frozenset({TABLE}))
        await ensure_topics(connection, topics)
        await refuse_other_readers(connection, command_topics(settings), group_id, family)
        shared = next(topic.partitions for topic in topics if topic.name == EXECUTION_EVENTS)
        incarnation = new_incarnation()
        async with contextlib.AsyncExitStack() as stack:
            publisher = await start_publisher(stack, connection, incarnation, topics)
            await take_over(connection, publisher, topics_of_kinds(settings), group_id, family, now())
            clients = clients_of(settings, self.secrets)
            stack.push_async_callback(clients.close)
            agents = Agents(build_app(connection, stream_settings(settings, group_id, shared)))
            publisher.on_failure = agents.fail
            table = declare_table(agents.app, TABLE, shared, is_newer_claim, outline_of_claim, family)
            log, figures = Log(publisher), Figures(self._registry)
            ledger = Ledger(table, publisher, incarnation, membership_of(agents.app))
            executors = executors_of(settings, clients, self._users, ledger, log, figures)
            checker, inspector = await metric_agents(stack, agents, settings, connection, shared, log, figures)
            executors = replace(executors, checker=checker, inspector=inspector)
            start_traces(stack, settings.traces, incarnation, executors)
            add_executors(agents, executors)
            recovered = await start_streams(stack, agents, executors, table, settings.worker.shutdown_grace_s)

            def readiness() -> list[str]:
                failed = [f"an agent failed: {agents.failure.result()!r}"] if agents.failure.done() else []
                recovering = agents.app.rebalancing or not recovered.is_set()
                return [*failed, *(["the tables are being recovered"] if recovering else [])]

            warnings = await watch_backlog(stack, connection, agents, self._registry)
            port = await serve(stack, build_probes(readiness, self._registry, warnings), settings.api)
            yield Running(port=port, failure=agents.failure, log=log, readiness=readiness)
