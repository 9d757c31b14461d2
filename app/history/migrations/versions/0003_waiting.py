"""The column executions.waits_until_us: the deadline of the request for approval that waits.

Revision ID: 0003_waiting
"""

from collections.abc import Iterator
from datetime import datetime
from typing import Any

import orjson
import sqlalchemy as sa
from alembic import op

from app.history.schema import microseconds

revision = "0003_waiting"
down_revision = "0002_match_decisions"
branch_labels = None
depends_on = None

CHUNK = 500


def upgrade() -> None:
    """Add it, filled in for what waits already, and the index that orders by it."""
    op.add_column("executions", sa.Column("waits_until_us", sa.BigInteger))
    table = sa.table("executions", *map(sa.column, ("execution_id", "run", "status", "state", "waits_until_us")))
    key = sa.tuple_(table.c.execution_id, table.c.run)
    columns = (table.c.execution_id, table.c.run, table.c.state)
    waiting = sa.select(*columns).where(table.c.status == "awaiting_approval").order_by(*columns[:2]).limit(CHUNK)
    rows = op.get_bind().execute(waiting).all()
    while rows:
        for row in rows:
            this = (table.c.execution_id == row.execution_id, table.c.run == row.run)
            op.execute(sa.update(table).where(*this).values(waits_until_us=_deadline_us(orjson.loads(row.state))))
        last = (sa.literal(rows[-1].execution_id), sa.literal(rows[-1].run))
        rows = op.get_bind().execute(waiting.where(key > sa.tuple_(*last))).all()
    op.create_index("executions_waiting", "executions", ["tenant", "waits_until_us", "execution_id", "run"])


def _deadline_us(state: dict[str, Any]) -> int | None:
    deadlines = (step["approval"]["deadline"] for step in _steps(state) if step["status"] == "awaiting_approval")
    found = next(deadlines, None)
    return None if found is None else microseconds(datetime.fromisoformat(found))


def _steps(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from state["steps"]
    yield from (state.get("rollback") or {}).get("steps", ())


def downgrade() -> None:
    """Drop it: the log gives it back."""
    op.drop_index("executions_waiting", "executions")
    op.drop_column("executions", "waits_until_us")
