"""What the API works with: ports to the log, the definitions and the history."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from app.core.backtest_report import Question
from app.core.catalog import Catalog, Change, Verdict
from app.core.coverage import RunbookFigures, ShadowRun
from app.core.decisions import ApprovalDecision
from app.core.errors import ConfigurationError
from app.core.events import Event, Limits
from app.core.execution import Execution
from app.core.model import JsonObject
from app.core.people import SlackUsers
from app.core.spans import SpanContext
from app.history.decisions import Answered, Unhandled
from app.history.queries import HistoryFilter, Page, WaitingPage

MIN_SECRET_BYTES = 32  # RFC 7518 section 3.2: an HS256 key is at least as long as its hash


class Recorded(Protocol):
    """Where a record stands in the log."""

    @property
    def partition(self) -> int:
        """Its partition."""

    @property
    def offset(self) -> int:
        """Its offset."""


class LogPort(Protocol):
    """Writing to the topics: each returns once the broker has it, or raises TemporaryError."""

    async def publish_event(self, event: Event, came_from: SpanContext | None = None) -> Recorded:
        """Append to a tenant's log; came_from: the span of whoever asked."""

    async def publish_change(self, change: Change) -> Recorded:
        """Append a change of the definitions."""

    async def publish_anomaly(self, body: bytes, key: str | None, came_from: SpanContext | None = None) -> Recorded:
        """Append an anomaly event."""

    async def publish_decision(self, decision: ApprovalDecision) -> Recorded:
        """Append an approval decision."""


class DefinitionsPort(Protocol):
    """The definitions in force on this worker."""

    @property
    def catalog(self) -> Catalog:
        """All of them."""

    async def verdict(self, recorded: Recorded, timeout_s: float) -> Verdict:
        """What a change led to, once it is folded here; raises TimeoutError."""


class HistoryPort(Protocol):
    """Questions to the read model."""

    async def page(self, tenant: str, wanted: HistoryFilter, *, limit: int, cursor: str | None = None) -> Page:
        """One page; raises Refused when the cursor is not one of ours."""

    async def get(self, tenant: str, execution_id: str) -> Execution | None:
        """The latest run of an execution; None when the tenant has no such one."""

    async def in_the_way(self, execution: Execution) -> Execution | None:
        """Who holds a target that an execution waits for; None when nobody is known to."""

    async def waiting(self, tenant: str, *, limit: int, cursor: str | None = None) -> WaitingPage:
        """One page of those that wait for approval; raises Refused when the cursor is not one of ours."""


class TrailPort(Protocol):
    """Reading the log back."""

    async def read(
        self, tenant: str, execution_id: str, first: int, last: int
    ) -> tuple[Sequence[tuple[int, JsonObject]], bool]:
        """Offset and event of an execution's records, and whether these are all; raises TemporaryError."""


class BacktestPort(Protocol):
    """Running a definition over what was recorded."""

    async def bounded(self, question: Question) -> Mapping[str, Any]:
        """The report; raises Refused, or TemporaryError, also while enough are being run."""


class LedgerPort(Protocol):
    """Questions to the why-not ledger."""

    async def of_anomaly(self, tenant: str, anomaly_id: str) -> list[Answered]:
        """What every candidate said of an anomaly."""

    async def figures(self, tenant: str, since: datetime) -> dict[str, RunbookFigures]:
        """What each runbook came to."""

    async def shadow_runs(self, tenant: str, runbook: str, since: datetime) -> list[ShadowRun]:
        """What a shadow would have begun."""

    async def unhandled(self, tenant: str, since: datetime) -> list[Unhandled]:
        """Anomalies that had candidates and started none."""


class Uncovered(Protocol):
    """Anomalies that no runbook is about, by service and metric."""

    @property
    def anomalies(self) -> int:
        """How many were read."""

    @property
    def places(self) -> Counter[tuple[str, str]]:
        """How many no runbook is about."""

    @property
    def others(self) -> int:
        """How many of further services and metrics."""

    @property
    def complete(self) -> bool:
        """Whether all were read."""


class CoveragePort(Protocol):
    """Counting what no runbook is about."""

    async def uncovered(self, tenant: str, since: datetime) -> Uncovered:
        """Of all anomalies since then; raises TemporaryError."""


@dataclass(frozen=True, slots=True)
class DecisionPorts:
    """What is asked about decisions."""

    ledger: LedgerPort
    reader: CoveragePort


class ProjectionPort(Protocol):
    """How far the read model is."""

    async def projected(self, partition: int, offset: int, timeout_s: float) -> bool:
        """Whether a record of the log is folded, waiting at most that long."""

    async def until(
        self,
        tenant: str,
        execution_id: str,
        wanted: Callable[[Execution], bool],
        timeout_s: float,
        known: Execution | None = None,
    ) -> Execution | None:
        """The latest run of an execution once it is as wanted; None when that takes too long.

        known: a state that was read before and is not as wanted.
        """


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Who is let in: an HS256 secret, or the URL of a JWKS.

    secret: 32 bytes or more. audience: what a token's ``aud`` must be, or name among others; None refuses tokens that
    have an ``aud``, as nobody knows that they are for us (RFC 7519 section 4.1.3). issuer: what ``iss`` must be; None
    looks at none. leeway_s: how far the clocks of the issuer and of this machine may differ, in seconds.
    Raises ConfigurationError when neither or both are given, or when the secret is too short.
    """

    secret: str | None = field(default=None, repr=False)
    jwks_url: str | None = None
    audience: str | None = None
    issuer: str | None = None
    leeway_s: float = 30.0

    def __post_init__(self) -> None:
        """Refuse what would let in nobody, or anybody."""
        if (self.secret is None) == (self.jwks_url is None):
            raise ConfigurationError("tokens are checked with a secret or with a JWKS URL: give one of them")
        if self.secret is not None and len(self.secret.encode()) < MIN_SECRET_BYTES:
            raise ConfigurationError(f"the secret that tokens are signed with is shorter than {MIN_SECRET_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class SlackRules:
    """How people answer in Slack: signing_secret lets them in over HTTP, app_token through Socket Mode."""

    users: SlackUsers
    bot_token: str = field(repr=False)
    base_url: str
    signing_secret: str | None = field(default=None, repr=False)
    app_token: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Patience:
    """How long an answer waits for something to show, in seconds.

    seen_s: a record in the history. decided_s: a decision in the history. in_force_s: a definition on this worker.
    dry_run_s: a plan. body_s: the whole body of a request.
    """

    seen_s: float = 2.0
    decided_s: float = 5.0
    in_force_s: float = 10.0
    dry_run_s: float = 30.0
    body_s: float = 30.0


@dataclass(frozen=True, slots=True)
class WebParts:
    """All that the routes need.

    signing: key id and key for approval decisions; None where nobody can approve. slack: None where nobody can approve
    in Slack. backtests, decisions: None where they cannot be asked for. readiness: the
    reasons why the worker is not ready, empty when it is. warnings: what somebody should look at.
    """

    log: LogPort
    definitions: DefinitionsPort
    history: HistoryPort
    projection: ProjectionPort
    trail: TrailPort
    tokens: TokenRules
    limits: Limits
    readiness: Callable[[], list[str]]
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    registry: CollectorRegistry
    signing: tuple[str, bytes] | None = field(default=None, repr=False)
    max_body_bytes: int = 1024 * 1024
    patience: Patience = Patience()
    slack: SlackRules | None = None
    backtests: BacktestPort | None = None
    decisions: DecisionPorts | None = None
    warnings: Callable[[], list[str]] = list
    traced: bool = False


PARTS: web.AppKey[WebParts] = web.AppKey("parts", WebParts)


def parts_of(request: web.Request) -> WebParts:
    """The parts behind a request."""
    return request.app[PARTS]
