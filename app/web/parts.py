"""What the API works with: ports to the log, the definitions and the history."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from aiohttp import web
from prometheus_client import CollectorRegistry

from app.core.catalog import Catalog, Change, Verdict
from app.core.decisions import ApprovalDecision
from app.core.events import Event, Limits
from app.core.execution import Execution
from app.history.queries import HistoryFilter, Page


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

    async def publish_event(self, event: Event) -> Recorded:
        """Append to a tenant's log."""

    async def publish_change(self, change: Change) -> Recorded:
        """Append a change of the definitions."""

    async def publish_anomaly(self, body: bytes, key: str | None) -> Recorded:
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
        """One page."""

    async def get(self, tenant: str, execution_id: str) -> Execution | None:
        """The latest run of an execution."""


class ProjectionPort(Protocol):
    """How far the read model is."""

    async def projected(self, partition: int, offset: int, timeout_s: float) -> bool:
        """Whether a record of the log is folded, waiting at most that long."""


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Who is let in: an HS256 secret, or the URL of a JWKS; audience and issuer are checked where given."""

    secret: str | None = None
    jwks_url: str | None = None
    audience: str | None = None
    issuer: str | None = None


@dataclass(frozen=True, slots=True)
class WebParts:
    """All that the routes need.

    signing: key id and key for approval decisions; None where nobody can approve through the API. readiness: the
    reasons why the worker is not ready, empty when it is.
    """

    log: LogPort
    definitions: DefinitionsPort
    history: HistoryPort
    projection: ProjectionPort
    tokens: TokenRules
    limits: Limits
    readiness: Callable[[], list[str]]
    clock: Callable[[], datetime]
    new_id: Callable[[], str]
    registry: CollectorRegistry
    signing: tuple[str, bytes] | None = None
    max_body_bytes: int = 1024 * 1024


PARTS: web.AppKey[WebParts] = web.AppKey("parts", WebParts)


def parts_of(request: web.Request) -> WebParts:
    """The parts behind a request."""
    return request.app[PARTS]
