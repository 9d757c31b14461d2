"""Fakes of what the product talks to: one each, small, its state in plain attributes that tests set and read."""

import asyncio
import importlib.util
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from app.actions.scene import Clients
from app.clients.http import HttpClient
from app.clients.kubernetes import KubernetesClient
from app.clients.network import NetworkPolicy
from app.clients.secrets import Secrets
from app.clients.slack import SlackClient
from app.clients.ssh import SshClient
from app.core.anomaly import Anomaly
from app.core.catalog import Catalog, Change, Verdict
from app.core.commands import StepCommand
from app.core.decisions import ApprovalDecision, why_not_signed
from app.core.errors import Problem, Refused
from app.core.events import Event, ExecutionRequested, StepPrepared
from app.core.execution import Execution
from app.core.lifecycle import decide, evolve
from app.core.planning import Prepared
from app.core.spans import SpanContext
from app.history.items import written_item
from app.history.queries import HistoryFilter, Page, WaitingPage


class RecordedAt(NamedTuple):
    """Where a fake log has put a record."""

    partition: int
    offset: int


class FakeHistory:
    """The read model, folded by the real fold; while it lags it shows nothing new."""

    def __init__(self) -> None:
        self.executions: dict[str, Execution] = {}
        self.lags = False
        self.wanted: HistoryFilter | None = None

    def fold(self, event: Event, offset: int) -> None:
        after, refusal = evolve(self.executions.get(event.execution_id), event, offset)
        if refusal is None and not self.lags:
            self.executions[event.execution_id] = after

    async def page(self, tenant: str, wanted: HistoryFilter, *, limit: int, cursor: str | None = None) -> Page:
        self.wanted = wanted
        mine = [one for one in self.executions.values() if one.tenant == tenant]
        if wanted.service_id is not None:
            mine = [one for one in mine if one.service_id == wanted.service_id]
        start = _start(cursor)
        mine = sorted(mine, key=lambda one: one.run, reverse=True)[start:]
        following = str(start + limit) if len(mine) > limit else None
        return Page([written_item(one) for one in mine[:limit]], following)

    async def waiting(self, tenant: str, *, limit: int, cursor: str | None = None) -> WaitingPage:
        mine = [one for one in self.executions.values() if one.tenant == tenant and one.waiting is not None]
        start = _start(cursor)
        mine = sorted(mine, key=lambda one: one.waiting.deadline)[start:]
        following = str(start + limit) if len(mine) > limit else None
        return WaitingPage(mine[:limit], following)

    async def in_the_way(self, execution: Execution) -> Execution | None:
        return next((one for one in self.executions.values() if one.is_in_the_way_of(execution)), None)

    async def get(self, tenant: str, execution_id: str) -> Execution | None:
        found = self.executions.get(execution_id)
        return found if found is not None and found.tenant == tenant else None


def _start(cursor: str | None) -> int:
    if cursor is not None and not (cursor.isascii() and cursor.isdigit() and len(cursor) < 9):
        raise Refused([Problem("cursor", "is none of this API's")])
    return int(cursor or 0)


class FakeProjection:
    """How far the read model is: always there, or never; and who waits for what it shows."""

    def __init__(self, history: FakeHistory) -> None:
        self.history = history
        self.there = True

    async def projected(self, partition: int, offset: int, timeout_s: float) -> bool:
        return self.there

    async def until(self, tenant: str, execution_id: str, wanted, timeout_s: float, known=None) -> Execution | None:
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = await self.history.get(tenant, execution_id)
            if found is not None and wanted(found):
                return found
            await asyncio.sleep(0.005)
        return None


class FakeDefinitions:
    """The definitions in force; while it is behind, no verdict is known in time."""

    def __init__(self) -> None:
        self.catalog = Catalog()
        self.behind = False
        self.verdicts: dict[int, Verdict] = {}

    async def verdict(self, recorded: RecordedAt, timeout_s: float) -> Verdict:
        if self.behind:
            raise TimeoutError
        return self.verdicts[recorded.offset]


class FakeLog:
    """The topics: what is written is kept, and shows at once in the history and the definitions.

    error: raised by every write. plans: dry runs are planned at once. records_decisions: what the agent would do.
    written: set once anything is.
    """

    def __init__(self, history: FakeHistory, definitions: FakeDefinitions, keys: dict[str, bytes]) -> None:
        self.history = history
        self.definitions = definitions
        self.keys = keys
        self.error: Exception | None = None
        self.plans = True
        self.records_decisions = True
        self.events: list[Event] = []
        self.changes: list[Change] = []
        self.anomalies: list[tuple[Anomaly, str | None]] = []
        self.decisions: list[ApprovalDecision] = []
        self.came_from: list[SpanContext | None] = []
        self.written = asyncio.Event()
        self._next = 100

    def _place(self) -> RecordedAt:
        if self.error is not None:
            raise self.error
        self._next += 1
        self.written.set()
        return RecordedAt(0, self._next)

    async def read(self, tenant: str, execution_id: str, first: int, last: int) -> Any:
        """The trail: the events written here, from the offset 101 on."""
        if self.error is not None:
            raise self.error
        numbered = enumerate(self.events, start=first)
        mine = [(offset, one.model_dump(mode="json")) for offset, one in numbered if one.execution_id == execution_id]
        return [entry for entry in mine if entry[0] <= last], True

    async def publish_event(self, event: Event, came_from: SpanContext | None = None) -> RecordedAt:
        place = self._place()
        self.came_from.append(came_from)
        self.events.append(event)
        self.history.fold(event, place.offset)
        if isinstance(event, ExecutionRequested) and event.dry_run and self.plans:
            self.plan(event.execution_id, event.at)
        return place

    def plan(self, execution_id: str, at: datetime) -> None:
        """What the executors answer to a dry run, as long as the history shows something to plan."""
        while (execution := self.history.executions.get(execution_id)) and (due := decide(execution)):
            plan = Prepared.of("Would do it", before=3, after=5, manual_reason="nothing to undo")
            self.history.fold(answer_to(due[0], plan, at), self._place().offset)

    async def publish_change(self, change: Change) -> RecordedAt:
        place = self._place()
        self.changes.append(change)
        self.definitions.verdicts[place.offset] = self.definitions.catalog.apply(change)
        return place

    async def publish_anomaly(self, body: bytes, key: str | None, came_from: SpanContext | None = None) -> RecordedAt:
        place = self._place()
        self.came_from.append(came_from)
        self.anomalies.append((Anomaly.model_validate_json(body), key))
        return place

    async def publish_decision(self, decision: ApprovalDecision) -> RecordedAt:
        place = self._place()
        self.decisions.append(decision)
        if self.records_decisions:
            self.history.fold(decision.event(why_not_signed(decision, self.keys)), place.offset)
        return place


def answer_to(command: StepCommand, plan: Prepared, at: datetime) -> StepPrepared:
    """The plan of a step, as the executor of its command answers it."""
    named = command.model_dump(include={"tenant", "execution_id", "command_id", "run", "phase", "attempt"})
    return StepPrepared(**named, step=command.step_index, plan=plan, at=at)


@asynccontextmanager
async def running_stand_ins() -> AsyncIterator[Any]:
    """The demo's stand-ins of Slack, Kubernetes and PagerDuty, listening on loopback."""
    specification = importlib.util.spec_from_file_location("stand_ins", "examples/demo/stand_ins.py")
    module = importlib.util.module_from_spec(specification)
    sys.modules["stand_ins"] = module  # dataclasses look their module up
    specification.loader.exec_module(module)
    running = await module.start_stand_ins()
    try:
        yield running
    finally:
        await running.stop()


@asynccontextmanager
async def clients_towards(stand_ins: Any, folder: Path) -> AsyncIterator[Clients]:
    """The real clients, led to the stand-ins; folder takes the kubeconfig and the secrets."""
    clients = Clients(
        http=HttpClient(NetworkPolicy(allow_loopback=True)),
        slack=SlackClient("xoxb-stand-in", stand_ins.slack_url),
        kubernetes=KubernetesClient(kubeconfig=stand_ins.kubeconfig(folder / "kubeconfig.json")),
        secrets=Secrets(stand_ins.secrets(folder / "secrets")),
        ssh=SshClient(),
    )
    try:
        yield clients
    finally:
        await clients.close()


class RefusedLate:
    """A part of the Kubernetes client whose writes are refused, which is told so many seconds later."""

    def __init__(self, inner, late_s, error) -> None:
        self._inner = inner
        self._late_s = late_s
        self._error = error

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def _refuse(self, *_, **__):
        await asyncio.sleep(self._late_s)
        raise self._error

    evict = mark = delete = restart = _refuse
