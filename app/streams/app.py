"""The Faust application: its topics, its tables and its agents, put together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import faust
from faust.types import AgentT, EventT, StreamT

from app.clients.kafka import METADATA_AGE_MS
from app.core.commands import STEP_KINDS
from app.core.errors import RunbooksError
from app.core.model import JsonObject
from app.ending import cancelled, stopped, tell_failure
from app.streams.advancing import Advancer
from app.streams.approvals import ApprovalRecorder
from app.streams.connection import KafkaConnection
from app.streams.drawing import drawn
from app.streams.executing import StepExecutor
from app.streams.ledger import Ledger
from app.streams.matching import AnomalyMatcher
from app.streams.membership import Membership
from app.streams.metric_checking import MetricChecker
from app.streams.metric_samples import SampleInspector
from app.streams.receipts import Receipts
from app.streams.recovering import Recoveries, crash_when_late
from app.streams.rows import Outline
from app.streams.tables import DeferredTable, IsNewer
from app.streams.topics import ANOMALY_EVENTS, APPROVAL_DECISIONS, EXECUTION_EVENTS, METRIC_SAMPLES
from app.streams.transport import QuickTransport

UNSETTLED_LIMIT = 4000
SHARE_RECORDS = 500
"""Of what was fetched, so many are handed out before it is looked whether other partitions have something, too."""
COMMIT_INTERVAL_S = 1.0
Records = AsyncIterator[EventT[bytes]]
Handler = Callable[[Records, Receipts], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """What the Faust application needs to know.

    group_id: consumer group and prefix of its own changelogs. session_timeout_s: how long the broker waits for a lost
    worker.
    """

    group_id: str
    data_dir: Path
    session_timeout_s: float = 10.0
    partitions: int = 8


def build_app(connection: KafkaConnection, settings: StreamSettings) -> faust.App:
    """The application without agents; nothing connects before it is started.

    Makes the data folder: Faust makes only the last part of its path.
    """
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app = faust.App(
        settings.group_id,
        **connection.faust_arguments(),
        datadir=str(settings.data_dir),
        Table=DeferredTable,
        web_enabled=False,
        topic_allow_declare=False,
        topic_disable_leader=True,
        topic_partitions=settings.partitions,
        table_standby_replicas=0,  # Faust reads a promoted replica's changelog from the beginning: it is never of use
        broker_session_timeout=settings.session_timeout_s,
        broker_heartbeat_interval=min(3.0, settings.session_timeout_s / 3),
        broker_commit_interval=COMMIT_INTERVAL_S,
        broker_max_poll_interval=600.0,
        broker_max_poll_records=SHARE_RECORDS,
        consumer_auto_offset_reset="earliest",
        consumer_metadata_max_age_ms=METADATA_AGE_MS,
        stream_wait_empty=False,
        stream_recovery_delay=0.0,
        processing_guarantee="at_least_once",
    )
    app.transport = QuickTransport.of(app)
    return app


def membership_of(app: faust.App) -> Membership:
    """What the application knows of its place in the group."""
    transport = app.transport
    assert isinstance(transport, QuickTransport)
    return transport.membership


def declare_table(
    app: faust.App,
    name: str,
    partitions: int,
    is_newer: IsNewer,
    outline: Callable[[JsonObject], Outline],
    owner: str | None = None,
) -> DeferredTable:
    """A table with one row a key, recovered from its changelog; is_newer, outline, owner: see ``DeferredTable``."""
    table = app.Table(name, key_type=str, partitions=partitions, owner=owner)
    assert isinstance(table, DeferredTable)
    table.is_newer, table.outline = is_newer, outline
    return table


@dataclass(slots=True)
class Agents:
    """The agents of a worker, by name, and what failed first."""

    app: faust.App
    failure: asyncio.Future[BaseException] = field(init=False)
    by_name: dict[str, AgentT[bytes]] = field(init=False, default_factory=dict)
    _watching: "asyncio.Task[None] | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        """Nothing has failed yet."""
        self.failure = asyncio.get_running_loop().create_future()

    async def start(self) -> None:
        """Start them, which takes until the tables are recovered.

        A recovery that waits for the broker for longer than a request may take is a crash of Faust.
        When Faust crashes later, which ends the agents without a word, that is the failure.
        Raises RunbooksError with what failed meanwhile.
        """
        crash_when_late(self.app.tables.recovery)
        recoveries = Recoveries(membership_of(self.app))
        recoveries.watch(self.app.tables.recovery)
        for table in self.app.tables.values():
            table.is_current = recoveries.is_current
        starting = asyncio.ensure_future(self.app.start())
        try:
            await asyncio.wait({starting, self.failure}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not starting.done():
                await cancelled(starting)
        if self.app.crashed:
            self.fail(self.app.crash_reason)
        if self.failure.done():
            raise RunbooksError(f"the worker stopped: {self.failure.result()!r}")
        await starting
        self._watching = asyncio.create_task(self._watch())

    async def stop(self) -> None:
        """Stop them; also those whose start was given up."""
        if self._watching is not None:
            await cancelled(self._watching)
        await self.app.stop()

    async def _watch(self) -> None:
        await self.app.wait_until_stopped()
        if self.app.crashed:
            self.fail(self.app.crash_reason)

    def fail(self, error: BaseException) -> None:
        """Remember the first failure: the worker must stop, so that what was not acknowledged is read again."""
        if not self.failure.done():
            self.failure.set_result(error)

    def fail_with(self, task: "asyncio.Task[None]") -> None:
        """Take over what ended a task that must not end."""
        tell_failure(task, self.fail)

    def run_beside(self, stack: AsyncExitStack, work: Coroutine[Any, Any, None]) -> None:
        """Have it run until the stack unwinds; what ends it before that is a failure of the worker."""
        running = asyncio.create_task(work)
        running.add_done_callback(self.fail_with)
        stack.push_async_callback(stopped, running)

    def add(self, name: str, topic: str, handle: Handler) -> None:
        """Declare an agent: one stream, records in order, acknowledged by ``receipts``."""
        channel = self.app.topic(topic, value_type=bytes, key_type=bytes, value_serializer="raw", key_serializer="raw")
        receipts = Receipts(UNSETTLED_LIMIT, self.fail)

        async def run(stream: StreamT[bytes]) -> None:
            try:
                async with aclosing(drawn(stream)) as records:
                    await handle(records, receipts)
            except asyncio.CancelledError:
                raise
            except Exception as error:
                self.fail(error)
                raise

        self.by_name[name] = self.app.agent(channel, name=name, concurrency=1)(run)


@dataclass(frozen=True, slots=True)
class Parts:
    """What the agents do their work with; all workers of a group have the same: Faust shares out all topics alike."""

    matcher: AnomalyMatcher
    advancer: Advancer
    recorder: ApprovalRecorder


@dataclass(frozen=True, slots=True)
class Executors:
    """What carries out commands; checker is None where metric checks are left to other workers."""

    steps: tuple[StepExecutor, ...]
    ledger: Ledger
    checker: MetricChecker | None = None
    inspector: SampleInspector | None = None

    async def stop(self, grace_s: float) -> None:
        """Begin nothing more, of any kind, let what acts finish for grace_s seconds, then stop it."""
        readings = [] if self.checker is None else [self.checker.stop()]
        await asyncio.gather(*(executor.stop(grace_s) for executor in self.steps), *readings)


def add_agents(agents: Agents, parts: Parts) -> None:
    """The agents of design §1 that keep the log."""
    agents.add("match_anomalies", ANOMALY_EVENTS, parts.matcher.run)
    agents.add("advance_executions", EXECUTION_EVENTS, parts.advancer.run)
    agents.add("record_approvals", APPROVAL_DECISIONS, parts.recorder.run)


def add_executors(agents: Agents, executors: Executors) -> None:
    """The agents of design §1 that carry out commands."""
    for executor in executors.steps:
        agents.add(f"run_{executor.kind}_steps", f"step-commands.{executor.kind}", executor.run)
    if executors.checker is not None:
        agents.add("check_metrics", "step-commands.metric", executors.checker.run)
    if executors.inspector is not None:
        agents.add("inspect_samples", METRIC_SAMPLES, executors.inspector.run)


__all__ = [
    "STEP_KINDS",
    "Agents",
    "Executors",
    "Parts",
    "StreamSettings",
    "add_agents",
    "add_executors",
    "build_app",
    "declare_table",
    "membership_of",
]
