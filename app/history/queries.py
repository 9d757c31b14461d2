"""Questions to the read model."""

import base64
import binascii
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.errors import Problem, Refused
from app.core.execution import Execution
from app.history.items import HistoryItem, item_of
from app.history.schema import EXECUTIONS, microseconds

MAX_LIMIT = 200


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


class HistoryQueries:
    """Read-only questions; every one names its tenant."""

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
            place = sa.tuple_(table.requested_us, table.execution_id, table.run)
            query = query.where(place < sa.tuple_(*(sa.literal(part) for part in _read_cursor(cursor))))
        query = query.order_by(table.requested_us.desc(), table.execution_id.desc(), table.run.desc()).limit(limit + 1)
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        items = [item_of(Execution.model_validate_json(row.state)) for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return Page(items, None if last is None else _write_cursor(last.requested_us, last.execution_id, last.run))

    async def get(self, tenant: str, execution_id: str) -> Execution | None:
        """The latest run of an execution; None when the tenant has no such one."""
        query = (
            sa.select(EXECUTIONS.c.state)
            .where(EXECUTIONS.c.execution_id == execution_id, EXECUTIONS.c.tenant == tenant)
            .order_by(EXECUTIONS.c.run.desc())
            .limit(1)
        )
        async with self._engine.connect() as connection:
            state = (await connection.execute(query)).scalar()
        return None if state is None else Execution.model_validate_json(state)


def _clauses(wanted: HistoryFilter) -> list[sa.ColumnElement[bool]]:
    table = EXECUTIONS.c
    given: list[tuple[Any, sa.ColumnElement[bool]]] = [
        (wanted.service_id, table.service_id == wanted.service_id),
        (wanted.runbook_name, table.runbook_name == wanted.runbook_name),
        (wanted.status, table.status == wanted.status),
        (wanted.dry_run, table.dry_run == wanted.dry_run),
        (wanted.since, table.requested_us >= (microseconds(wanted.since) if wanted.since else 0)),
        (wanted.until, table.requested_us < (microseconds(wanted.until) if wanted.until else 0)),
    ]
    return [clause for value, clause in given if value is not None]


def _write_cursor(*place: object) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(place)).decode().rstrip("=")


def _read_cursor(cursor: str) -> tuple[int, str, int]:
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        requested_us, execution_id, run = orjson.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (binascii.Error, ValueError, TypeError):
        raise Refused([Problem("cursor", "is not a cursor of this API: use next_cursor as it was given")]) from None
    if not (type(requested_us) is int and type(execution_id) is str and type(run) is int):
        raise Refused([Problem("cursor", "is not a cursor of this API: use next_cursor as it was given")])
    return requested_us, execution_id, run
