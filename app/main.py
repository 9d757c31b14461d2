"""The composition root: settings in, a running worker out."""

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import yaml
from aiohttp import web
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from app.actions.notices import NoticeSender
from app.actions.runner import Runner
from app.actions.scene import Clients
from app.clients.http import HttpClient
from app.clients.kubernetes import KubernetesClient
from app.clients.network import NetworkPolicy, trust_in
from app.clients.secrets import Secrets
from app.clients.slack import SlackClient
from app.clients.ssh import SshClient
from app.core.catalog import RunbookPut
from app.core.commands import STEP_KINDS
from app.core.errors import ConfigurationError, RunbookRefused
from app.core.events import Limits
from app.core.people import SlackUsers, read_slack_users
from app.core.runbook import Runbook, read_runbook
from app.history.database import open_database
from app.history.projector import Projector
from app.history.queries import HistoryQueries
from app.history.store import Store
from app.settings import KafkaSettings, Settings
from app.streams.advancing import Advancer
from app.streams.app import Agents, Parts, StreamSettings, add_agents, build_app, declare_table
from app.streams.approvals import ApprovalRecorder
from app.streams.connection import KafkaConnection
from app.streams.definitions import Definitions
from app.streams.executing import Ledger, MetricChecker, StepExecutor
from app.streams.figures import Figures, IndexFigures
from app.streams.log import Log
from app.streams.matching import AnomalyMatcher
from app.streams.publisher import Publisher
from app.streams.topics import EXECUTION_EVENTS, ensure_topics, read_topics
from app.streams.trail import Trail
from app.web.app import build_web
from app.web.parts import SlackRules, TokenRules, WebParts

DEFAULT_TENANT = "default"
SEED_SUBJECT = "runbooks folder"
SEED_TIMEOUT_S = 30.0
WEB_GRACE_S = 5.0
"""How long a stopping worker waits for requests under way: what it is given to do waits meanwhile, too."""
logger = logging.getLogger(__name__)


def now() -> datetime:
    """The wall clock, aware UTC."""
    return datetime.now(UTC)


def connection_of(kafka: KafkaSettings) -> KafkaConnection:
    """How the settings say to reach Kafka.

    Raises ConfigurationError when they name no broker.
    """
    if kafka.bootstrap_servers is None:
        raise ConfigurationError("no Kafka broker is named: set RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS")
    return KafkaConnection(
        bootstrap_servers=kafka.bootstrap_servers,
        protocol=kafka.security_protocol,
        sasl_mechanism=kafka.sasl_mechanism,
        username=kafka.sasl_username,
        password=kafka.sasl_password.get_secret_value() if kafka.sasl_password else None,
        ssl_ca_file=kafka.ssl_ca_file,
    )


def clients_of(settings: Settings, secrets: Secrets) -> Clients:
    """The clients that the settings describe.

    Raises ConfigurationError when the SSH inventory or the CA file is not as it must be.
    """
    network, slack, kubernetes = settings.network, settings.slack, settings.kubernetes
    return Clients(
        http=HttpClient(NetworkPolicy(network.allow_loopback, network.allow_private), trust=trust_in(network.ca_file)),
        slack=SlackClient(slack.bot_token.get_secret_value() if slack.bot_token else None, slack.base_url),
        kubernetes=KubernetesClient(
            kubeconfig=kubernetes.kubeconfig,
            context=kubernetes.context,
            in_cluster=kubernetes.in_cluster,
            timeout_s=kubernetes.request_timeout_s,
        ),
        secrets=secrets,
        ssh=SshClient(settings.ssh.inventory),
    )


def read_definitions(folder: Path) -> list[Runbook]:
    """The definitions in a folder's ``*.json``, ``*.yaml`` and ``*.yml`` files, by file name.

    Raises ConfigurationError naming the file and every problem in it.
    """
    found = sorted(path for path in folder.iterdir() if path.suffix in {".json", ".yaml", ".yml"})
    return [read_definition(path) for path in found]


def read_definition(path: Path) -> Runbook:
    """The definition in one JSON or YAML file.

    Raises ConfigurationError naming the file and every problem in it.
    """
    try:
        text = path.read_text()
        content = orjson.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if not isinstance(content, dict):
            raise ConfigurationError(f"{path}: must be an object with the fields of a runbook")
        return read_runbook(content)
    except RunbookRefused as error:
        raise ConfigurationError("\n".join(f"{path}: {problem}" for problem in error.problems)) from error
    except (OSError, orjson.JSONDecodeError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error


@dataclass(frozen=True, slots=True)
class Running:
    """A running worker.

    port: where the API listens. failure: done with what made an agent stop.
    """

    port: int
    failure: asyncio.Future[BaseException]
    log: Log
    readiness: Callable[[], list[str]]


class Worker:
    """One worker: agents, projector and API in one process."""

    def __init__(self, settings: Settings) -> None:
        """Nothing is started yet."""
        self._settings = settings
        self.secrets = Secrets(settings.secrets.folder, settings.secrets.environment)
        self._registry = CollectorRegistry()
        self._slack_users = _read_slack_users(settings.slack.users_file)
        self._recovered = False

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[Running]:
        """Start all of it in order, and stop it in the opposite one."""
        settings = self._settings
        connection = connection_of(settings.kafka)
        topics = read_topics(settings.kafka.topics_file, settings.kafka.group_id)
        await ensure_topics(connection, topics)
        shared = next(topic.partitions for topic in topics if topic.name == EXECUTION_EVENTS)
        incarnation = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        async with contextlib.AsyncExitStack() as stack:
            publisher = Publisher(connection, incarnation)
            await publisher.start()
            stack.push_async_callback(publisher.stop)
            log = Log(publisher)
            definitions = Definitions(connection)
            stack.push_async_callback(definitions.stop)
            await definitions.start()
            await self._seed(definitions, log)
            engine = await open_database(settings.history_url)
            stack.push_async_callback(engine.dispose)
            projecting = await self._start_projector(stack, engine, connection)
            agents, parts = await self._start_agents(
                stack, connection, shared, publisher, log, definitions, incarnation
            )

            def readiness() -> list[str]:
                return self._why_not_ready(agents, projecting)

            port = await self._start_web(stack, engine, log, definitions, Trail(connection, shared), readiness)
            self._registry.register(IndexFigures(parts.advancer.index))
            yield Running(port=port, failure=agents.failure, log=log, readiness=readiness)

    async def _seed(self, definitions: Definitions, log: Log) -> None:
        """Bring the definitions of the folder into force where they differ from what is."""
        folder = self._settings.runbooks_dir
        if folder is None or not folder.is_dir():
            return
        for runbook in read_definitions(folder):
            tenant = runbook.tenant or DEFAULT_TENANT
            plain = runbook.model_copy(update={"tenant": None})
            current = definitions.catalog.get(tenant, runbook.name)
            if current is None or current.digest != plain.digest():
                change = RunbookPut(tenant=tenant, runbook=plain, by=SEED_SUBJECT, at=now())
                await definitions.verdict(await log.publish_change(change), SEED_TIMEOUT_S)

    async def _start_projector(
        self, stack: contextlib.AsyncExitStack, engine: AsyncEngine, connection: KafkaConnection
    ) -> "asyncio.Task[None]":
        group = f"{self._settings.kafka.group_id}-history"
        store = Store(engine, EXECUTION_EVENTS)
        projector = Projector(store, EXECUTION_EVENTS, connection.client_arguments(), group, self._registry)
        projecting = asyncio.create_task(projector.run())
        stack.push_async_callback(_cancelled, projecting)
        return projecting

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
        faust_app = build_app(
            connection,
            StreamSettings(
                group_id=settings.kafka.group_id,
                data_dir=settings.data_dir / "faust",
                store=settings.worker.store,
                session_timeout_s=settings.worker.session_timeout_s,
                partitions=shared,
            ),
        )
        agents = Agents(faust_app)
        figures = Figures(self._registry)
        executions = declare_table(faust_app, "executions", shared)
        ledger_table = declare_table(faust_app, "step_ledger", shared)
        ledger = Ledger(ledger_table, publisher, incarnation)
        runner = Runner(
            clients=clients,
            worker=incarnation,
            lease_s=settings.worker.lease_s,
            heartbeat_s=settings.worker.heartbeat_s,
            now=now,
            monotonic=time.monotonic,
        )
        notices = NoticeSender(clients.slack, self._slack_users, now)
        parts = Parts(
            matcher=AnomalyMatcher(definitions.catalog, log, _limits(settings), now, figures),
            advancer=Advancer(executions, log, publisher, now, figures),
            recorder=ApprovalRecorder(
                log, _signing_keys(settings), figures, trust_topic=settings.approvals.trust_topic
            ),
            executors=tuple(
                StepExecutor(
                    kind, runner, ledger, log, figures, concurrency=settings.worker.concurrency, notices=notices
                )
                for kind in STEP_KINDS
            ),
            checker=MetricChecker(log, now),
            ledger=ledger,
        )
        add_agents(agents, parts)

        def owned(partitions: set[int]) -> None:
            parts.advancer.recover(partitions)
            for executor in parts.executors:
                executor.on_partitions(partitions)
            self._recovered = True

        executions.on_owned = owned
        ledger_table.on_owned = lambda _: ledger.recover()
        await faust_app.start()
        stack.push_async_callback(faust_app.stop)
        for executor in parts.executors:
            stack.push_async_callback(executor.stop, settings.worker.shutdown_grace_s)
        firing = asyncio.create_task(parts.advancer.timers.run())
        firing.add_done_callback(agents.fail_with)
        stack.push_async_callback(_cancelled, firing)
        return agents, parts

    async def _start_web(
        self,
        stack: contextlib.AsyncExitStack,
        engine: AsyncEngine,
        log: Log,
        definitions: Definitions,
        trail: Trail,
        readiness: Callable[[], list[str]],
    ) -> int:
        settings = self._settings
        keys = _signing_keys(settings)
        first = next(iter(keys.items()), None)
        secret = settings.api.jwt_secret
        if secret is None and settings.api.jwks_url is None:
            raise ConfigurationError("nobody could use the API: set RUNBOOKS_API__JWT_SECRET or RUNBOOKS_API__JWKS_URL")
        parts = WebParts(
            log=log,
            definitions=definitions,
            history=HistoryQueries(engine),
            projection=Store(engine, EXECUTION_EVENTS),
            trail=trail,
            tokens=TokenRules(
                secret=secret.get_secret_value() if secret else None,
                jwks_url=settings.api.jwks_url,
                audience=settings.api.jwt_audience,
                issuer=settings.api.jwt_issuer,
                leeway_s=settings.api.jwt_leeway_s,
            ),
            limits=_limits(settings),
            readiness=readiness,
            clock=now,
            new_id=lambda: str(uuid.uuid4()),
            registry=self._registry,
            signing=first,
            max_body_bytes=settings.api.max_body_bytes,
            slack=_slack_rules(settings, self._slack_users),
        )
        runner = web.AppRunner(build_web(parts), access_log=None, shutdown_timeout=WEB_GRACE_S)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        site = web.TCPSite(runner, settings.api.host, settings.api.port)
        try:
            await site.start()
        except OSError as error:
            raise ConfigurationError(
                f"port {settings.api.port} is taken: stop what listens there, or set RUNBOOKS_API__PORT"
            ) from error
        address: Any = runner.addresses[0]
        return int(address[1])

    def _why_not_ready(self, agents: Agents, projecting: "asyncio.Task[None]") -> list[str]:
        reasons = []
        if agents.failure.done():
            reasons.append(f"an agent failed: {agents.failure.result()!r}")
        if not self._recovered or agents.app.rebalancing:
            reasons.append("the tables are being recovered")
        if projecting.done():
            reasons.append("the projector has stopped")
        return reasons


def _limits(settings: Settings) -> Limits:
    limits = settings.limits
    return Limits(
        max_concurrent_runbooks=limits.max_concurrent_runbooks,
        dedup_window_s=limits.dedup_window_s,
        approval_channel=settings.slack.approval_channel,
    )


def _slack_rules(settings: Settings, users: SlackUsers) -> SlackRules | None:
    """How people may answer in Slack; None where they may not."""
    slack = settings.slack
    if slack.bot_token is None or (slack.signing_secret is None and slack.app_token is None):
        return None
    return SlackRules(
        users=users,
        bot_token=slack.bot_token.get_secret_value(),
        base_url=slack.base_url,
        signing_secret=slack.signing_secret.get_secret_value() if slack.signing_secret else None,
        app_token=slack.app_token.get_secret_value() if slack.app_token else None,
    )


def _read_slack_users(path: Path | None) -> SlackUsers:
    """Who Slack's people are; nobody where no file is named. Raises ConfigurationError."""
    if path is None:
        return SlackUsers()
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, yaml.YAMLError) as error:
        raise ConfigurationError(f"{path}: cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path}: must be an object with the field users")
    return read_slack_users(content, str(path))


def _signing_keys(settings: Settings) -> Mapping[str, bytes]:
    """The configured keys; without any, one derived from the API's secret, so that one worker can approve."""
    given = settings.approvals.signing_keys
    if given:
        return {name: key.get_secret_value().encode() for name, key in given.items()}
    secret = settings.api.jwt_secret
    if secret is None:
        return {}
    return {"api": b"approval decisions\x00" + secret.get_secret_value().encode()}


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task
