"""The composition root: settings in, a running worker out."""

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from aiohttp import web
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from app.actions.notices import NoticeSender
from app.actions.runner import Runner
from app.actions.scene import Clients
from app.clients.secrets import Secrets
from app.core.anomaly import DEFAULT_TENANT
from app.core.catalog import RunbookPut
from app.core.commands import STEP_KINDS
from app.core.errors import ConfigurationError
from app.core.people import SlackUsers
from app.ending import cancelled
from app.history.database import open_database
from app.history.decisions import DecisionQueries
from app.history.ledger import LedgerProjection
from app.history.news import News
from app.history.projection import Projection
from app.history.projector import Projector
from app.history.queries import HistoryQueries
from app.history.store import Store
from app.metric_readers import metric_agents
from app.settings import ApiSettings, Settings
from app.streams.advancing import Advancer
from app.streams.app import (
    Agents,
    Executors,
    Parts,
    add_agents,
    add_executors,
    build_app,
    declare_table,
    membership_of,
)
from app.streams.approvals import ApprovalRecorder
from app.streams.backtesting import Backtester
from app.streams.connection import KafkaConnection
from app.streams.covering import CoverageReader
from app.streams.definitions import Definitions
from app.streams.executing import StepExecutor
from app.streams.figures import Figures, IndexFigures
from app.streams.groups import refuse_other_readers
from app.streams.index import is_newer_row, outline_of_row
from app.streams.ledger import TABLE, Ledger, is_newer_claim, outline_of_claim
from app.streams.log import Log
from app.streams.matching import AnomalyMatcher
from app.streams.publisher import Publisher
from app.streams.tables import DeferredTable
from app.streams.taking_over import take_over
from app.streams.topics import EXECUTION_EVENTS, MATCH_DECISIONS, TopicSpec, ensure_topics, read_topics, record_limits
from app.streams.trail import Trail
from app.tracing import start_traces
from app.watching import Health, watch_backlog
from app.web.app import build_web
from app.web.parts import DecisionPorts, TokenRules, WebParts
from app.wiring import (
    clients_of,
    command_topics,
    connection_of,
    limits_of,
    now,
    read_definitions,
    read_users,
    signer_of,
    signing_keys,
    slack_rules,
    stream_settings,
    topics_of_kinds,
)

SEED_SUBJECT = "runbooks folder"
SEED_TIMEOUT_S = 30.0
WEB_GRACE_S = 5.0
"""How long a stopping worker waits for requests under way: what it is given to do waits meanwhile, too."""
WEB_IDLE_S = 75.0  # aiohttp allows an hour, for a head that never ends too; load balancers keep theirs for 60 s
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Running:
    """A running worker.

    port: where the API listens. failure: done with what made an agent stop.
    """

    port: int
    failure: asyncio.Future[BaseException]
    log: Log
    readiness: Callable[[], list[str]]


def executors_of(
    settings: Settings, clients: Clients, users: SlackUsers, ledger: Ledger, log: Log, figures: Figures
) -> Executors:
    """What carries out the commands of this worker's kinds."""
    worker = settings.worker
    runner = Runner(
        clients=clients,
        worker=ledger.incarnation,
        lease_s=worker.lease_s,
        heartbeat_s=worker.heartbeat_s,
        now=now,
        monotonic=time.monotonic,
    )
    clickable = slack_rules(settings, users) is not None
    notices = NoticeSender(clients.slack, users, now, clickable, channels=ledger.channels)
    steps = (
        StepExecutor(kind, runner, ledger, log, figures, concurrency=worker.concurrency, notices=notices)
        for kind in STEP_KINDS
        if kind in worker.kinds
    )
    return Executors(steps=tuple(steps), ledger=ledger)


async def start_streams(
    stack: contextlib.AsyncExitStack,
    agents: Agents,
    executors: Executors,
    ledger_table: DeferredTable,
    shutdown_grace_s: float,
) -> asyncio.Event:
    """Start the agents; when the stack unwinds, the executors end first and the streams after them.

    What is given is set once the ledger is recovered.
    """
    recovered = asyncio.Event()

    def owned(partitions: set[int]) -> None:
        executors.ledger.recover()
        for executor in executors.steps:
            executor.on_partitions(partitions)
        recovered.set()

    def shared_out() -> None:
        for executor in executors.steps:
            executor.on_partitions(set())

    ledger_table.on_owned = owned
    ledger_table.on_failure = agents.fail
    membership_of(agents.app).on_shared_out.append(shared_out)
    stack.push_async_callback(agents.stop)
    await agents.start()
    stack.push_async_callback(executors.stop, shutdown_grace_s)
    return recovered


async def serve(stack: contextlib.AsyncExitStack, application: web.Application, api: ApiSettings) -> int:
    """Listen until the stack unwinds; the port.

    Raises ConfigurationError when the port is taken.
    """
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=WEB_GRACE_S, keepalive_timeout=WEB_IDLE_S)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    try:
        await web.TCPSite(runner, api.host, api.port).start()
    except OSError as error:
        said = f"port {api.port} is taken: stop what listens there, or set RUNBOOKS_API__PORT"
        raise ConfigurationError(said) from error
    address: Any = runner.addresses[0]
    return int(address[1])


async def start_publisher(
    stack: contextlib.AsyncExitStack, connection: KafkaConnection, incarnation: str, topics: tuple[TopicSpec, ...]
) -> Publisher:
    """The worker's one producer, which knows how much each topic takes in a record."""
    publisher = Publisher(connection, incarnation, await record_limits(connection, topics))
    await publisher.start()
    stack.push_async_callback(publisher.stop)
    return publisher


def new_incarnation() -> str:
    """A name for this run of this process, which no other has."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


class Worker:
    """One worker: agents, projector and API in one process."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started yet."""
        self._settings = settings
        self.secrets = Secrets(settings.secrets.folder, settings.secrets.environment)
        self._registry = CollectorRegistry()
        self._slack_users = read_users(settings.slack.users_file)
        self._recovered = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """Start all of it in order, and stop it in the opposite one."""
        settings = self._settings
        connection, group = connection_of(settings.kafka), settings.kafka.group_id
        topics = read_topics(settings.kafka.topics_file, group)
        await ensure_topics(connection, topics)
        await refuse_other_readers(connection, command_topics(settings), group, group)
        shared = next(topic.partitions for topic in topics if topic.name == EXECUTION_EVENTS)
        incarnation = new_incarnation()
        async with contextlib.AsyncExitStack() as stack:
            publisher = await start_publisher(stack, connection, incarnation, topics)
            await take_over(connection, publisher, topics_of_kinds(settings), group, group, now())
            log = Log(publisher)
            definitions = Definitions(connection)
            stack.push_async_callback(definitions.stop)
            await definitions.start()
            await self._seed(definitions, log)
            engine = await open_database(settings.history_url)
            stack.push_async_callback(engine.dispose)
            news = News(Store(engine, EXECUTION_EVENTS))
            projectors, projecting = await self._start_projector(stack, engine, connection, news)
            agents, parts = await self._start_agents(
                stack, connection, shared, publisher, log, definitions, incarnation
            )
            agents.run_beside(stack, news.run())

            def readiness() -> list[str]:
                return self._why_not_ready(agents, projecting)

            warnings = await watch_backlog(stack, connection, agents, self._registry, projectors)
            self._registry.register(IndexFigures(parts.advancer.index, parts.advancer.markers, now))
            trail = Trail(connection, shared)
            health = Health(readiness, warnings)
            port = await self._start_web(stack, engine, news, log, definitions, trail, health)
            yield Running(port=port, failure=agents.failure, log=log, readiness=readiness)

    async def _seed(self, definitions: Definitions, log: Log) -> None:
        """Bring the definitions of the folder into force where they differ from what is."""
        folder = self._settings.runbooks_dir
        if folder is None or not folder.is_dir():
            return
        changes = []
        for runbook in read_definitions(folder):
            tenant = runbook.tenant or DEFAULT_TENANT
            plain = runbook.model_copy(update={"tenant": None})
            current = definitions.catalog.get(tenant, runbook.name)
            if current is None or current.digest != plain.digest():
                changes.append(RunbookPut(tenant=tenant, runbook=plain, by=SEED_SUBJECT, at=now()))
        recorded = await asyncio.gather(*map(log.publish_change, changes))
        if recorded:
            await definitions.verdict(max(recorded, key=lambda one: one.offset), SEED_TIMEOUT_S)

    async def _start_projector(
        self, stack: contextlib.AsyncExitStack, engine: AsyncEngine, connection: KafkaConnection, news: News
    ) -> tuple[list[Projector], tuple["asyncio.Task[None]", ...]]:
        group, settings = self._settings.kafka.group_id, self._settings.history
        keep, store = timedelta(days=settings.decisions_kept_days), Store(engine, EXECUTION_EVENTS)
        signer = signer_of(settings, store, EXECUTION_EVENTS)
        history = Projection(store, self._registry, news.told, signer, settings.anchor_records)
        ledger = LedgerProjection(engine, MATCH_DECISIONS, self._registry, now, keep)
        projections = (
            (EXECUTION_EVENTS, "history", history, news.awaited),
            (MATCH_DECISIONS, "ledger", ledger, None),
        )
        arguments = connection.client_arguments()
        projectors = [
            Projector(projection, topic, arguments, f"{group}-{name}", awaited)
            for topic, name, projection, awaited in projections
        ]
        running = tuple(asyncio.create_task(projector.run()) for projector in projectors)
        for one in running:
            stack.push_async_callback(cancelled, one)
        return projectors, running

    async def _start_agents(
        self,
        stack: contextlib.AsyncExitStack,
        connection: KafkaConnection,
        shared: int,
        publisher: Publisher,
        log: Log,
        definitions: Definitions,
        incarnation: str,
    ) -> tuple[Agents, Parts]:
        settings = self._settings
        clients = clients_of(settings, self.secrets)
        stack.push_async_callback(clients.close)
        faust_app = build_app(connection, stream_settings(settings, settings.kafka.group_id, shared))
        agents = Agents(faust_app)
        publisher.on_failure = agents.fail
        definitions.on_end(agents.fail_with)
        figures = Figures(self._registry)
        executions = declare_table(faust_app, "executions", shared, is_newer_row, outline_of_row)
        ledger_table = declare_table(faust_app, TABLE, shared, is_newer_claim, outline_of_claim)
        parts = Parts(
            matcher=AnomalyMatcher(definitions.catalog, log, limits_of(settings), now, figures),
            advancer=Advancer(executions, log, publisher, now, figures, definitions.pauses),
            recorder=ApprovalRecorder(log, signing_keys(settings), figures, trust_topic=settings.approvals.trust_topic),
        )
        ledger = Ledger(ledger_table, publisher, incarnation, membership_of(faust_app))
        executors = executors_of(settings, clients, self._slack_users, ledger, log, figures)
        checker, inspector = await metric_agents(stack, agents, settings, connection, shared, log, figures)
        executors = replace(executors, checker=checker, inspector=inspector)
        start_traces(stack, settings.traces, incarnation, executors, parts)
        add_agents(agents, parts)
        add_executors(agents, executors)

        def owned(partitions: set[int]) -> None:
            parts.advancer.recover(partitions)
            self._recovered = True

        executions.on_owned = owned
        executions.on_failure = agents.fail
        parts.advancer.on_requested = parts.matcher.pace.folded
        parts.matcher.pace.waiting = parts.advancer.index.waiting
        membership_of(faust_app).on_shared_out.append(parts.matcher.forget)
        await start_streams(stack, agents, executors, ledger_table, settings.worker.shutdown_grace_s)
        for work in (parts.advancer.timers.run(), parts.advancer.watch_pauses()):
            agents.run_beside(stack, work)
        return agents, parts

    async def _start_web(
        self,
        stack: contextlib.AsyncExitStack,
        engine: AsyncEngine,
        news: News,
        log: Log,
        definitions: Definitions,
        trail: Trail,
        health: Health,
    ) -> int:
        settings = self._settings
        connection = connection_of(settings.kafka)
        keys = signing_keys(settings)
        first = next(iter(keys.items()), None)
        secret = settings.api.jwt_secret
        if secret is None and settings.api.jwks_url is None:
            raise ConfigurationError("nobody could use the API: set RUNBOOKS_API__JWT_SECRET or RUNBOOKS_API__JWKS_URL")
        parts = WebParts(
            log=log,
            definitions=definitions,
            history=HistoryQueries(engine),
            projection=news,
            trail=trail,
            tokens=TokenRules(
                secret=secret.get_secret_value() if secret else None,
                jwks_url=settings.api.jwks_url,
                audience=settings.api.jwt_audience,
                issuer=settings.api.jwt_issuer,
                leeway_s=settings.api.jwt_leeway_s,
            ),
            limits=limits_of(settings),
            readiness=health.reasons,
            warnings=health.warnings,
            clock=now,
            new_id=lambda: str(uuid.uuid4()),
            registry=self._registry,
            signing=first,
            max_body_bytes=settings.api.max_body_bytes,
            traced=settings.traces.enabled,
            slack=slack_rules(settings, self._slack_users),
            backtests=Backtester(connection, limits_of(settings), settings.kafka.group_id),
            decisions=DecisionPorts(DecisionQueries(engine), CoverageReader(connection, definitions.catalog)),
        )
        return await serve(stack, build_web(parts), settings.api)

    def _why_not_ready(self, agents: Agents, projecting: tuple["asyncio.Task[None]", ...]) -> list[str]:
        reasons = []
        if agents.failure.done():
            reasons.append(f"an agent failed: {agents.failure.result()!r}")
        if not self._recovered or agents.app.rebalancing:
            reasons.append("the tables are being recovered")
        if any(one.done() for one in projecting):
            reasons.append("the projector has stopped")
        return reasons
