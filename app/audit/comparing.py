"""The history database beside the log: which runs it has is a merge of two ordered streams, what it says a look-up.

Runs are compared in batches, so memory does not grow with the history. A database that goes on meanwhile is not at
fault: rows that are newer than the end of the audit, or not projected yet, are left out and counted.
"""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.findings import Difference, Report
from app.audit.folding import ROW_COLUMNS, Closed, Requested, row_hash, values_hash
from app.core.execution import Execution
from app.history.folding import holds_its_item, row_of, with_item
from app.history.schema import EXECUTIONS, OFFSETS, searchable

PAGE = 500
RUN, EXECUTION_ID, TERMINAL, LAST_OFFSET, ITEM_OFFSET = map(
    ROW_COLUMNS.index, ("run", "execution_id", "terminal", "last_offset", "item_offset")
)
START = (-1, "")


class HistoryComparison:
    """Compares one partition; places is where its merge stands: (run, execution id) of the last row taken."""

    def __init__(self, engine: AsyncEngine, topic: str, partition: int, end: int, report: Report) -> None:
        """Compare runs whose last event stands before offset end."""
        self._engine = engine
        self._topic = topic
        self._partition = partition
        self._end = end
        self._report = report
        self._page: list[tuple[int, str]] = []
        self._projected = 0
        self.place: tuple[int, str] = START
        self.left_out = 0

    async def requested(self, runs: Sequence[Requested]) -> None:
        """Take the runs that began next in the log: every row before the last of them must be one of them."""
        for run, execution_id in runs:
            name = searchable(execution_id)
            while (row := await self._next_row()) is not None and row < (run, name):
                self._take_extra()
            if row == (run, name):
                self._take()
            elif run < self._projected:
                self._tell(run, execution_id, "the history has no row of this run")
            else:
                self.left_out += 1

    async def closed(self, runs: Sequence[Closed]) -> None:
        """Compare the rows of these runs with what the log says of them."""
        for start in range(0, len(runs), PAGE):
            doubtful = [one for one, _ in await self._different(runs[start : start + PAGE])]
            if doubtful:
                projected = await self._next_offset()  # asked before the rows: those that were there then are there now
                for one, row in await self._different(doubtful):
                    self._compare(one, row, projected)

    async def finish(self) -> None:
        """Every row that is left must be of a run that began at the end or after it."""
        while (row := await self._next_row()) is not None and row[0] < self._end:
            self._take_extra()

    async def _different(self, runs: Sequence[Closed]) -> list[tuple[Closed, dict[str, Any]]]:
        """Those of these runs whose row is another one, with it."""
        rows = await self._rows([one.run for one in runs])
        named = ((one, rows.get((one.run, searchable(one.execution_id)))) for one in runs)
        different = [(one, row) for one, row in named if row is not None and values_hash(row) != one.row_hash]
        return [(one, dict(zip(ROW_COLUMNS, row, strict=True))) for one, row in different]

    def _compare(self, expected: Closed, row: dict[str, Any], projected: int) -> None:
        if row["last_offset"] >= self._end or expected.last_offset >= projected:
            self.left_out += 1
            return
        why = _why_different(expected, row)
        if why is not None:
            self._tell(expected.last_offset, expected.execution_id, why)

    async def _next_row(self) -> tuple[int, str] | None:
        """The next row that was not taken, None at the end."""
        if not self._page:
            self._projected = await self._next_offset()  # before the rows: one that is missing then was never written
            run, name = EXECUTIONS.c.run, EXECUTIONS.c.execution_id
            after = sa.or_(run > self.place[0], sa.and_(run == self.place[0], name > self.place[1]))
            query = sa.select(run, name).where(EXECUTIONS.c.partition == self._partition, after)
            async with self._engine.connect() as connection:
                found = await connection.execute(query.order_by(run, name).limit(PAGE))
                self._page = [(row[0], row[1]) for row in reversed(found.all())]
        return self._page[-1] if self._page else None

    def _take(self) -> None:
        self.place = self._page.pop()

    def _take_extra(self) -> None:
        run, execution_id = self._page[-1]
        self._tell(run, execution_id, "the history has a row of a run that the log does not know")
        self._take()

    async def _rows(self, runs: list[int]) -> dict[tuple[int, str], tuple[Any, ...]]:
        """The rows of these runs, by run and execution id; values in the order of ROW_COLUMNS."""
        query = sa.select(*(EXECUTIONS.c[name] for name in ROW_COLUMNS))
        query = query.where(EXECUTIONS.c.partition == self._partition, EXECUTIONS.c.run.in_(runs))
        async with self._engine.connect() as connection:
            found = (await connection.execute(query)).all()
        return {(row[RUN], row[EXECUTION_ID]): _as_shown(tuple(row)) for row in found}

    async def _next_offset(self) -> int:
        query = sa.select(OFFSETS.c.next_offset).where(
            OFFSETS.c.topic == self._topic, OFFSETS.c.partition == self._partition
        )
        async with self._engine.connect() as connection:
            return int((await connection.execute(query)).scalar() or 0)

    def _tell(self, offset: int, execution_id: str, detail: str) -> None:
        self._report(Difference(self._partition, offset, "history", execution_id, detail))


def as_shown(row: dict[str, Any]) -> dict[str, Any]:
    """A row with the item that is shown of it: one that the row does not hold is made of its state."""
    try:
        return with_item(row)
    except ValueError:  # such a state is told of where the row is compared
        return row


def _as_shown(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """The same of a row's values."""
    if holds_its_item(row[ITEM_OFFSET], row[LAST_OFFSET], terminal=row[TERMINAL]):
        return row
    shown = as_shown(dict(zip(ROW_COLUMNS, row, strict=True)))
    return tuple(shown[name] for name in ROW_COLUMNS)


def _why_different(expected: Closed, row: dict[str, Any]) -> str | None:
    """How a row differs; None when it only was written by an older version that says the same in other words."""
    try:
        again = row_of(Execution.model_validate_json(row["state"]), row["partition"])
    except ValueError as error:
        return f"the row's state cannot be read: {error}"
    wrong = [name for name in again if name not in {"state", "item"} and again[name] != row[name]]
    if wrong:
        return f"the row's {wrong[0]} is {row[wrong[0]]!r}, and its own state says {again[wrong[0]]!r}"
    if row_hash(again) == expected.row_hash:
        return None if again["item"] == row["item"] else "the row's item is not the one that its own state makes"
    log, own = (expected.status, expected.last_offset), (row["status"], row["last_offset"])
    if log != own:
        return f"the log says {log[0]} at {log[1]}, the row {own[0]} at {own[1]}"
    return f"both say {own[0]} at {own[1]}, and the row's state is not what the log comes to"
