"""The definitions in force: a fold of the topic ``runbook-definitions``."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, field_serializer

from app.core.anomaly import TenantId
from app.core.errors import Problem, RecordRefused
from app.core.model import Frozen, Instant, read_record
from app.core.pauses import Pause, PauseEnded, PausePut, Pauses
from app.core.runbook import MAX_RUNBOOK_BYTES, Runbook, RunbookName, too_large


class RunbookPut(Frozen):
    """Somebody wants this definition in force.

    expected_version: the version it replaces, 0 for none yet; None replaces whatever is there.
    """

    type: Literal["runbook_put"] = "runbook_put"
    tenant: TenantId
    runbook: Runbook
    by: str
    at: Instant
    expected_version: int | None = None

    @property
    def name(self) -> str:
        """The runbook's name."""
        return self.runbook.name

    @field_serializer("runbook")
    def _content(self, runbook: Runbook) -> dict[str, Any]:
        return runbook.content()


class RunbookDeleted(Frozen):
    """Somebody wants the definition gone; its versions stay readable."""

    type: Literal["runbook_deleted"] = "runbook_deleted"
    tenant: TenantId
    name: RunbookName
    by: str
    at: Instant
    expected_version: int | None = None


Change = RunbookPut | RunbookDeleted | PausePut | PauseEnded
CHANGES: TypeAdapter[Change] = TypeAdapter(Annotated[Change, Field(discriminator="type")])


def change_key(change: Change) -> str:
    """The record's key: tenant/name, of a pause tenant/pause/name."""
    middle = "pause/" if isinstance(change, PausePut | PauseEnded) else ""
    return f"{change.tenant}/{middle}{change.name}"


def read_change(raw: bytes | None) -> Change:
    """Read one record of the topic.

    Raises RecordRefused.
    """
    change: Change = read_record(raw, CHANGES)
    if isinstance(change, RunbookPut) and (size := change.runbook.size()) > MAX_RUNBOOK_BYTES:
        raise RecordRefused([Problem("runbook", too_large(size))])
    return change


class Definition(Frozen):
    """One version of a runbook as it came into force."""

    tenant: TenantId
    runbook: Runbook
    version: int
    digest: str
    by: str
    at: Instant

    @property
    def name(self) -> str:
        """The runbook's name."""
        return self.runbook.name


class Verdict(NamedTuple):
    """What a change led to: the definition in force after it, None when there is none; refusal says why not."""

    definition: Definition | None
    refusal: str | None = None
    pause: Pause | None = None


class Catalog:
    """The definitions of all tenants, indexed for matching.

    Folding the same records gives the same versions everywhere: a version is the count of changes to other content.
    """

    def __init__(self) -> None:
        """Start empty."""
        self._versions: dict[tuple[str, str], list[Definition]] = {}
        self._in_force: dict[tuple[str, str], Definition] = {}
        self._index: dict[tuple[str, str, str], dict[str, Definition]] = {}
        self.pauses = Pauses()

    def apply(self, change: Change) -> Verdict:
        """Fold one change."""
        if isinstance(change, PausePut | PauseEnded):
            pause = self.pauses.apply(change)
            return Verdict(None, None if pause else "no such pause", pause)
        key = (change.tenant, change.name)
        current = self._in_force.get(key)
        version = current.version if current else 0
        if change.expected_version is not None and change.expected_version != version:
            return Verdict(current, f"it is at version {version}, not {change.expected_version}")
        if isinstance(change, RunbookDeleted):
            if current is None:
                return Verdict(None, "no such runbook")
            self._withdraw(key)
            return Verdict(None)
        digest = change.runbook.digest()
        if current is not None and current.digest == digest:
            return Verdict(current)
        return Verdict(self._enforce(key, change, digest))

    def get(self, tenant: str, name: str, version: int | None = None) -> Definition | None:
        """The definition in force, or one of its versions; None when there is none."""
        if version is None:
            return self._in_force.get((tenant, name))
        return next((one for one in self.versions(tenant, name) if one.version == version), None)

    def versions(self, tenant: str, name: str) -> tuple[Definition, ...]:
        """All versions there ever were, the oldest first."""
        return tuple(self._versions.get((tenant, name), ()))

    def all_of(self, tenant: str) -> tuple[Definition, ...]:
        """What is in force for a tenant, by name."""
        mine = (one for (owner, _), one in self._in_force.items() if owner == tenant)
        return tuple(sorted(mine, key=lambda one: one.name))

    def __len__(self) -> int:
        """How many definitions are in force."""
        return len(self._in_force)

    def candidates(self, tenant: str, service_id: str, metric_name: str) -> Iterator[Definition]:
        """The definitions whose trigger names this service and metric, or any, by name."""
        places = ((tenant, service, metric) for service in (service_id, "*") for metric in (metric_name, "*"))
        found = [mine for place in places if (mine := self._index.get(place))]
        if len(found) > 1:
            found = [{name: one for mine in found for name, one in mine.items()}]
        return (mine[name] for mine in found for name in sorted(mine))

    def _enforce(self, key: tuple[str, str], change: RunbookPut, digest: str) -> Definition:
        past = self._versions.setdefault(key, [])
        definition = Definition(
            tenant=change.tenant,
            runbook=change.runbook,
            version=len(past) + 1,
            digest=digest,
            by=change.by,
            at=change.at,
        )
        self._withdraw(key)
        past.append(definition)
        self._in_force[key] = definition
        for place in _places(definition):
            self._index.setdefault(place, {})[definition.name] = definition
        return definition

    def _withdraw(self, key: tuple[str, str]) -> None:
        old = self._in_force.pop(key, None)
        for place in _places(old) if old else ():
            self._index[place].pop(key[1])
            if not self._index[place]:
                del self._index[place]


def _places(definition: Definition) -> Iterable[tuple[str, str, str]]:
    trigger = definition.runbook.trigger
    return () if trigger is None else ((definition.tenant, trigger.service_id, trigger.metric_name),)
