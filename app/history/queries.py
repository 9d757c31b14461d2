"""Questions to the read model."""

import base64
import binascii
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import Problem, Refused
from app.core.execution import Execution, Status
from app.history.database import reading
from app.history.items import HistoryItem, item_of
from app.history.schema import EXECUTIONS, MAX_BIGINT, microseconds, searchable

MAX_LIMIT = 200
MAX_IN_THE_WAY = 200  # live executions of a tenant that are looked through for the one that is waited for
NOT_OURS = Problem("cursor", "is not a cursor of this API: use next_cursor as it was given")

ORDER = (EXECUTIONS.c.requested_us, EXECUTIONS.c.execution_id, EXECUTIONS.c.run)
"""What tells any two rows of a tenant apart; pages go down it."""
WAITING_ORDER = (EXECUTIONS.c.waits_until_us, EXECUTIONS.c.execution_id, EXECUTIONS.c.run)
"""The same for those that wait for approval; pages go up it."""


@dataclass(frozen=True, slots=True)
class HistoryFilter:
    """What a page is narrowed to; None leaves a field open. since and until bound requested_at, until excluded."""

    service_id: str | None = None
    runbook_name: str | None = None
    status: str | None = None
    dry_run: bool | None = None
    since: datetime | None = None
    until: datetime | None = None


class Page(NamedTuple):
    """Items, newest first, and the cursor of the next page; None after the last."""

    items: list[HistoryItem]
    next_cursor: str | None


class WaitingPage(NamedTuple):
    """Executions that wait, the nearest deadline first, and the cursor of the next page; None after the last."""

    executions: list[Execution]
    next_cursor: str | None


class HistoryQueries:
    """Read-only questions; every one names its tenant, and raises TemporaryError when the database does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Ask this database."""
        self._engine = engine

    async def page(self, tenant: str, wanted: HistoryFilter, *, limit: int, cursor: str | None = None) -> Page:
        """One page of 1 to 200 items.

        Raises Refused when the cursor is not one of ours.
        """
        table = EXECUTIONS.c
        query = sa.select(table.requested_us, table.execution_id, table.run, table.state).where(
            table.tenant == tenant, *_clauses(wanted)
        )
        if cursor is not None:
            query = query.where(sa.tuple_(*ORDER) < _place(ORDER, cursor))
        query = query.order_by(*(column.desc() for column in ORDER)).limit(limit + 1)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        items = [item_of(Execution.model_validate_json(row.state)) for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(items, None if last is None else _write_cursor(last.requested_us, last.execution_id, last.run))

    async def get(self, tenant: str, execution_id: str) -> Execution | None:
        """The latest run of an execution; None when the tenant has no such one."""
        query = (
            sa.select(EXECUTIONS.c.state)
            .where(EXECUTIONS.c.execution_id == searchable(execution_id), EXECUTIONS.c.tenant == tenant)
            .order_by(EXECUTIONS.c.run.desc())
            .limit(1)
        )
        async with reading(self._engine) as connection:
            state = (await connection.execute(query)).scalar()
        return None if state is None else Execution.model_validate_json(state)

    async def waiting(self, tenant: str, *, limit: int, cursor: str | None = None) -> WaitingPage:
        """One page of the executions that wait for approval, the one with the nearest deadline first.

        Raises Refused when the cursor is not one of ours.
        """
        columns = (*WAITING_ORDER, EXECUTIONS.c.state)
        query = sa.select(*columns).where(EXECUTIONS.c.tenant == tenant, EXECUTIONS.c.waits_until_us.is_not(None))
        if cursor is not None:
            query = query.where(sa.tuple_(*WAITING_ORDER) > _place(WAITING_ORDER, cursor))
        query = query.order_by(*WAITING_ORDER).limit(limit + 1)
        async with reading(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        last = rows[limit - 1] if len(rows) > limit else None
        following = None if last is None else _write_cursor(last.waits_until_us, last.execution_id, last.run)
        return WaitingPage([Execution.model_validate_json(row.state) for row in rows[:limit]], following)

    async def in_the_way(self, execution: Execution) -> Execution | None:
        """Who holds a target that an execution waits for, or waits for it longer; None when nobody is known to."""
        if execution.status != Status.queued or not execution.targets:
            return None
        query = (
            sa.select(EXECUTIONS.c.state)
            .where(EXECUTIONS.c.tenant == execution.tenant, EXECUTIONS.c.terminal.is_(False))
            .order_by(EXECUTIONS.c.requested_us)
            .limit(MAX_IN_THE_WAY)
        )
        async with reading(self._engine) as connection:
            states = (await connection.execute(query)).scalars().all()
        others = (Execution.model_validate_json(state) for state in states)
        return next((one for one in others if one.is_in_the_way_of(execution)), None)

    async def item(self, tenant: str, execution_id: str) -> HistoryItem | None:
        """The history's entry of the latest run of an execution; None when the tenant has no such one."""
        execution = await self.get(tenant, execution_id)
        return None if execution is None else item_of(execution)

    async def counts_by_status(self) -> dict[str, int]:
        """How many runs of all tenants stand at each status; a status that none stands at is left out."""
        query = sa.select(EXECUTIONS.c.status, sa.func.count()).group_by(EXECUTIONS.c.status)
        async with reading(self._engine) as connection:
            return {row.status: row[1] for row in await connection.execute(query)}


def _clauses(wanted: HistoryFilter) -> Iterator[sa.ColumnElement[bool]]:
    table = EXECUTIONS.c
    texts = ((table.service_id, wanted.service_id), (table.runbook_name, wanted.runbook_name))
    yield from (column == searchable(text) for column, text in texts if text is not None)
    if wanted.status is not None:
        yield table.status == searchable(wanted.status)
    if wanted.dry_run is not None:
        yield table.dry_run == wanted.dry_run
    if wanted.since is not None:
        yield table.requested_us >= microseconds(wanted.since)
    if wanted.until is not None:
        yield table.requested_us < microseconds(wanted.until)


def _place(order: Sequence[sa.Column[Any]], cursor: str) -> sa.Tuple:
    """The place in an order where the page before ended."""
    given = zip(order, _read_cursor(cursor), strict=True)
    return sa.tuple_(*(sa.literal(part, column.type) for column, part in given))


def _write_cursor(*place: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        requested_us, execution_id, run = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise Refused([NOT_OURS]) from None
    if not (_is_bigint(requested_us) and _is_searchable(execution_id) and _is_bigint(run)):
        raise Refused([NOT_OURS])
    return requested_us, execution_id, run


def _is_bigint(part: object) -> bool:
    return type(part) is int and abs(part) <= MAX_BIGINT


def _is_searchable(part: object) -> bool:
    return isinstance(part, str) and searchable(part) == part
