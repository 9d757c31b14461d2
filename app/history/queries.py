"""Questions to the read model."""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache, partial
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import Problem, Refused
from app.core.execution import Execution, Status
from app.history.database import Statement, reading
from app.history.items import HistoryItem, item_of, written_item
from app.history.schema import EXECUTIONS, MAX_BIGINT, microseconds, searchable

MAX_LIMIT = 200
KEPT = 256  # so many kinds of pages are kept as the database takes them
MAX_IN_THE_WAY = 200  # live executions of a tenant that are looked through for the one that is waited for
NOT_OURS = Problem("cursor", "is not a cursor of this API: use next_cursor as it was given")

ORDER = (EXECUTIONS.c.requested_us, EXECUTIONS.c.execution_id, EXECUTIONS.c.run)
"""What tells any two rows of a tenant apart; pages go down it."""
WAITING_ORDER = (EXECUTIONS.c.waits_until_us, EXECUTIONS.c.execution_id, EXECUTIONS.c.run)
"""The same for those that wait for approval; pages go up it."""
PLACE = ("after_us", "after_id", "after_run")
HAS_ITEM = EXECUTIONS.c.item_offset == EXECUTIONS.c.last_offset
CLAUSES = {
    "tenant": EXECUTIONS.c.tenant == sa.bindparam("tenant"),
    "service_id": EXECUTIONS.c.service_id == sa.bindparam("service_id"),
    "runbook_name": EXECUTIONS.c.runbook_name == sa.bindparam("runbook_name"),
    "status": EXECUTIONS.c.status == sa.bindparam("status"),
    "dry_run": EXECUTIONS.c.dry_run == sa.bindparam("dry_run"),
    "since": EXECUTIONS.c.requested_us >= sa.bindparam("since"),
    "until": EXECUTIONS.c.requested_us < sa.bindparam("until"),
    PLACE[0]: sa.tuple_(*ORDER)
    < sa.tuple_(*(sa.bindparam(name, type_=column.type) for name, column in zip(PLACE, ORDER, strict=True))),
}
"""What narrows a page, by the name of the value that it compares with, or of the first one."""


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
    """Items, each the JSON of a HistoryItem, newest first, and the cursor of the next page; None after the last."""

    items: list[str]
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
        self._page_of = lru_cache(KEPT)(partial(page_of, engine))

    async def page(self, tenant: str, wanted: HistoryFilter, *, limit: int, cursor: str | None = None) -> Page:
        """One page of 1 to 200 items.

        Raises Refused when the cursor is not one of ours.
        """
        values = {"tenant": tenant, **_narrowed(wanted)}
        if cursor is not None:
            values |= zip(PLACE, _read_cursor(cursor), strict=True)
        rows = await self._page_of(tuple(values), limit + 1).ask(self._engine, values)
        items = [_item(text, is_item=is_item) for *_, is_item, text in rows[:limit]]
        return Page(items, _write_cursor(*rows[limit - 1][: len(ORDER)]) if len(rows) > limit else None)

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


def page_of(engine: AsyncEngine, names: tuple[str, ...], limit: int) -> Statement:
    """What is asked for so many rows that are narrowed by values of these names.

    The limit stands in the text: PostgreSQL makes a new plan for each page, in half of its time, where it is a value.
    """
    clauses = (clause for name, clause in CLAUSES.items() if name in names)
    query = sa.select(*ORDER, HAS_ITEM, sa.case((HAS_ITEM, EXECUTIONS.c.item), else_=EXECUTIONS.c.state))
    query = query.where(*clauses).order_by(*(column.desc() for column in ORDER))
    return Statement.of(query.limit(sa.literal_column(str(limit))), engine)


def _narrowed(wanted: HistoryFilter) -> dict[str, Any]:
    """The values that narrow a page, as the columns hold them."""
    texts = {"service_id": wanted.service_id, "runbook_name": wanted.runbook_name, "status": wanted.status}
    times = {"since": wanted.since, "until": wanted.until}
    values: dict[str, Any] = {name: searchable(text) for name, text in texts.items() if text is not None}
    if wanted.dry_run is not None:
        values["dry_run"] = wanted.dry_run
    return values | {name: microseconds(at) for name, at in times.items() if at is not None}


def _item(text: str, *, is_item: bool | None) -> str:
    """The item of a row that has one, or of its state."""
    return text if is_item else written_item(Execution.model_validate_json(text))


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
