"""What an audit asks of the history: which runs it has, and what it says of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.folding import ROW_COLUMNS
from app.core.errors import RunbooksError
from app.history.database import NAMED_BY, Statement, reading
from app.history.schema import EXECUTIONS
from app.history.store import Store

PAGE = 500
WANTED = tuple(f"run_{number}" for number in range(PAGE))
RUN, EXECUTION_ID = map(ROW_COLUMNS.index, ("run", "execution_id"))


class HistoryRows:
    """The rows of one history, asked past SQLAlchemy, which would look at each value of them.

    All raise TemporaryError or DATABASE_ERRORS when the database does not answer.
    """

    def __init__(self, engine: AsyncEngine, topic: str) -> None:
        """Ask this database; topic names the log in the offsets."""
        self._engine = engine
        self._store = Store(engine, topic)
        columns, ours = EXECUTIONS.c, EXECUTIONS.c.partition == sa.bindparam("partition")
        place = sa.tuple_(columns.run, columns.execution_id)
        after = place > sa.tuple_(
            sa.bindparam("run", type_=columns.run.type), sa.bindparam("execution_id", type_=sa.Text)
        )
        runs = sa.select(columns.run, columns.execution_id).where(ours, after).order_by(*place).limit(PAGE)
        rows = sa.select(*(_as_number(columns[name]) for name in ROW_COLUMNS))
        rows = rows.where(ours, columns.run.in_([sa.bindparam(name) for name in WANTED]))
        self._runs, self._rows = Statement.of(runs, engine), Statement.of(rows, engine)

    async def runs_after(self, partition: int, run: int, execution_id: str) -> list[tuple[int, str]]:
        """The next runs of a partition and their execution ids, in their order; none after the last."""
        values = {"partition": partition, "run": run, "execution_id": execution_id}
        return [*map(tuple, await self._runs.ask(self._engine, values))]

    async def of_runs(self, partition: int, runs: Sequence[int]) -> dict[tuple[int, str], tuple[Any, ...]]:
        """The rows of 1 to PAGE runs, by run and execution id.

        Values are in the order of ROW_COLUMNS, what is true or false as 1 or 0.
        """
        assert 0 < len(runs) <= PAGE
        wanted = dict.fromkeys(WANTED, runs[-1]) | dict(zip(WANTED, runs, strict=False))
        rows = map(tuple, await self._rows.ask(self._engine, {"partition": partition, **wanted}))
        return {(row[RUN], row[EXECUTION_ID]): row for row in rows}

    async def strays(self, partitions: Sequence[int]) -> list[tuple[int, int, str]]:
        """Rows that can be of no run of these partitions, as (partition, run, execution id): the first PAGE of them."""
        columns = EXECUTIONS.c
        place = (columns.partition, columns.run, columns.execution_id)
        stray = sa.or_(columns.partition.not_in(partitions), columns.run < 0, columns.execution_id == "")
        async with reading(self._engine) as connection:
            return [*map(tuple, await connection.execute(sa.select(*place).where(stray).order_by(*place).limit(PAGE)))]

    async def next_offset(self, partition: int) -> int:
        """The first offset of a partition that is not projected yet."""
        return await self._store.next_offset(partition)

    async def next_offsets(self) -> dict[int, int]:
        """The same of every partition of which anything is projected."""
        return await self._store.next_offsets()


async def not_begun(engine: AsyncEngine | None, topic: str, lengths: Mapping[int, int]) -> list[str]:
    """Notes of the partitions that a history has nothing of, though they have records; lengths: how many each has.

    Raises RunbooksError when it has nothing of any: it is another log's, or nobody's.
    """
    if engine is None:
        return []
    begun = await Store(engine, topic).next_offsets()
    missing = [number for number, length in lengths.items() if length > 0 and number not in begun]
    if missing and not begun:
        shown = engine.url.render_as_string(hide_password=True)
        raise RunbooksError(f"the history database {shown} has nothing of {topic}: {NAMED_BY} where the workers' is")
    return [f"the history has nothing of partition {number}: its rows were not compared" for number in missing]


def _as_number(column: sa.Column[Any]) -> sa.ColumnElement[Any]:
    return sa.cast(column, sa.Integer) if isinstance(column.type, sa.Boolean) else column
