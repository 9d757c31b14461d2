"""Pauses: somebody keeps runbooks from starting, at once or in a window of time, for a tenant or for all."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from app.core.anomaly import TENANT_PATTERN, Name
from app.core.execution import Execution
from app.core.model import Frozen, Instant
from app.core.runbook import RunbookName

EVERYBODY = "*"
Scope = Annotated[str, Field(pattern=rf"{TENANT_PATTERN}|^\*$")]
PauseName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


class Pause(Frozen):
    """One pause.

    tenant: whose runbooks, ``*`` for everybody's. runbook, service_id: only this one, None for any. starts_at,
    ends_at: the window, ends_at None until somebody resumes.
    """

    tenant: Scope
    name: PauseName
    runbook: RunbookName | None = None
    service_id: Name | None = None
    starts_at: Instant
    ends_at: Instant | None = None
    by: str
    reason: Annotated[str, Field(max_length=1024)] = ""

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> Self:
        if self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValueError("ends_at must be later than starts_at")
        return self

    def holds(self, tenant: str, runbook: str, service_id: str | None, at: datetime) -> bool:
        """Whether it keeps this runbook from starting for this service at this time."""
        return (
            self.tenant in {tenant, EVERYBODY}
            and self.runbook in {None, runbook}
            and (self.service_id is None or self.service_id == service_id)
            and self.is_on(at)
        )

    def is_on(self, at: datetime) -> bool:
        """Whether it is in force at this time."""
        return self.starts_at <= at and not self.is_over(at)

    def is_over(self, at: datetime) -> bool:
        """Whether its window has passed."""
        return self.ends_at is not None and at >= self.ends_at

    def told(self) -> str:
        """``paused by ann: release freeze, until 2026-01-01T03:00:00+00:00``."""
        said = f"paused by {self.by}" + (f": {self.reason}" if self.reason else "")
        return said if self.ends_at is None else f"{said}, until {self.ends_at.isoformat(timespec='seconds')}"


class PausePut(Frozen):
    """Somebody pauses; a pause of the same tenant and name is replaced."""

    type: Literal["pause_put"] = "pause_put"
    pause: Pause
    at: Instant

    @property
    def tenant(self) -> str:
        """Whose runbooks."""
        return self.pause.tenant

    @property
    def name(self) -> str:
        """The pause's name."""
        return self.pause.name


class PauseEnded(Frozen):
    """Somebody resumes."""

    type: Literal["pause_ended"] = "pause_ended"
    tenant: Scope
    name: PauseName
    by: str
    at: Instant


class Pauses:
    """The pauses there are: a fold of the changes."""

    def __init__(self) -> None:
        """Start with none."""
        self._all: dict[tuple[str, str], Pause] = {}

    def apply(self, change: PausePut | PauseEnded) -> Pause | None:
        """Fold one change; the pause that it is about, None when there is no such one."""
        key = (change.tenant, change.name)
        if isinstance(change, PauseEnded):
            return self._all.pop(key, None)
        self._all[key] = change.pause
        return change.pause

    def of(self, tenant: str) -> tuple[Pause, ...]:
        """What concerns a tenant, its own first, by name."""
        return tuple(one for scope in (tenant, EVERYBODY) for one in self._of(scope))

    def why_paused(self, tenant: str, runbook: str, service_id: str | None, at: datetime) -> Pause | None:
        """The pause that keeps a runbook from starting; None when none does."""
        if not self._all:
            return None
        return next((one for one in self._all.values() if one.holds(tenant, runbook, service_id, at)), None)

    def pause_of(self, execution: Execution, at: datetime) -> Pause | None:
        """The pause that keeps an execution from going on; a dry run does nothing that could be kept from."""
        if not self._all or execution.terminal or execution.request.dry_run:
            return None
        return self.why_paused(execution.tenant, execution.runbook.name, execution.service_id, at)

    def next_change(self, at: datetime) -> datetime | None:
        """When the next window begins or ends; None when none does."""
        edges = (edge for one in self._all.values() for edge in (one.starts_at, one.ends_at))
        return min((edge for edge in edges if edge is not None and edge > at), default=None)

    def _of(self, scope: str) -> Iterator[Pause]:
        return (pause for (tenant, _), pause in sorted(self._all.items()) if tenant == scope)
