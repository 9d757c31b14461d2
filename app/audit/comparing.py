"""The history database beside the log: which runs it has is a merge of two ordered streams, what it says a look-up.

Runs are compared in batches, so memory does not grow with the history. A database that goes on meanwhile is not at
fault: rows that are newer than the end of the audit, or not projected yet, are left out and counted. How far the
history is projected is asked after they were read, so that none can claim to be newer than it is.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from app.audit.findings import Difference, Report
from app.audit.folding import ROW_COLUMNS, TRUTHS, Closed, Requested, row_hash, values_hash
from app.audit.history_rows import PAGE, HistoryRows
from app.core.execution import Execution
from app.history.folding import holds_its_item, row_of, with_item
from app.history.schema import searchable

TERMINAL, LAST_OFFSET, ITEM_OFFSET = map(ROW_COLUMNS.index, ("terminal", "last_offset", "item_offset"))
START = (-1, "")


class Ahead(NamedTuple):
    """A row that a person's rollback moved on from an end that the log told of at an offset.

    The log has yet to come to that rollback: detail is what is wrong with the row if it does not.
    """

    run: int
    execution_id: str
    offset: int
    detail: str


class HistoryComparison:
    """Compares one partition; place is where its merge stands: (run, execution id) of the last row taken.

    ahead: rows that say more than the log has come to.
    """

    def __init__(self, rows: HistoryRows, partition: int, end: int, report: Report) -> None:
        """Compare runs whose last event stands before offset end."""
        self._rows = rows
        self._partition = partition
        self._end = end
        self._report = report
        self._page: list[tuple[int, str]] = []
        self._projected = 0
        self.place: tuple[int, str] = START
        self.ahead: list[Ahead] = []
        self.left_out = 0

    async def requested(self, runs: Sequence[Requested]) -> None:
        """Take the runs that began next in the log: every row before the last of them must be one of them."""
        for run, execution_id in runs:
            wanted = (run, searchable(execution_id))
            while (self._page or await self._turn()) and self._page[-1] < wanted:
                self._take_extra()
            if self._page and self._page[-1] == wanted:
                self._take()
            elif run < self._projected:
                self._tell(run, execution_id, "the history has no row of this run")
            else:
                self.left_out += 1
                self.place = wanted  # it may be written before the next page is read

    async def closed(self, runs: Sequence[Closed]) -> None:
        """Compare the rows of these runs with what the log says of them."""
        for start in range(0, len(runs), PAGE):
            doubtful = [one for one, _ in await self._different(runs[start : start + PAGE])]
            if doubtful:
                # asked before the rows: those that were there then are there now; and after them: none is newer
                before = await self._rows.next_offset(self._partition)
                different = await self._different(doubtful)
                after = await self._rows.next_offset(self._partition)
                for one, row in different:
                    self._compare(one, row, before, after)
        self._come_to(runs)

    async def finish(self) -> None:
        """Every row that is left must be of a run that began at the end or after it, and none may be ahead."""
        for one in self.ahead:
            self._tell(one.offset, one.execution_id, one.detail)
        while (self._page or await self._turn()) and self._page[-1][0] < self._end:
            self._take_extra()
        await self._look_beyond()

    async def _look_beyond(self) -> None:
        """No row may be of a run that begins where nothing is projected yet."""
        place = (max(self._end, await self._rows.next_offset(self._partition)), "")
        while page := await self._rows.runs_after(self._partition, *place):
            projected = await self._rows.next_offset(self._partition)
            for run, execution_id in page:
                if run >= projected:
                    self._tell(run, execution_id, f"the history has a row of this run, and is projected to {projected}")
            place = page[-1]

    async def _different(self, runs: Sequence[Closed]) -> list[tuple[Closed, dict[str, Any]]]:
        """Those of these runs whose row is another one, with it."""
        rows = await self._rows.of_runs(self._partition, [one.run for one in runs])
        named = ((one, rows.get((one.run, searchable(one.execution_id)))) for one in runs)
        found = ((one, _as_shown(row)) for one, row in named if row is not None)
        return [(one, _by_name(row)) for one, row in found if values_hash(row) != one.row_hash]

    def _compare(self, expected: Closed, row: dict[str, Any], before: int, after: int) -> None:
        """before, after: how far the history was projected before the row was read, and after it."""
        last = row["last_offset"]
        moved = last >= self._end or last < expected.last_offset >= before
        if last >= after:
            why: str | None = f"the row's last event stands at {last}, and the history is projected to {after}"
        else:
            why = _why_different(None if moved else expected, row)
        if why is None:
            self.left_out += moved
        elif not moved and _is_ahead(expected, row):
            self.ahead.append(Ahead(expected.run, expected.execution_id, expected.last_offset, why))
        else:
            self._tell(expected.last_offset, expected.execution_id, why)

    def _come_to(self, runs: Sequence[Closed]) -> None:
        """Forget what was ahead of an earlier end of these runs: they were compared at a later one."""
        if self.ahead:
            ends = {(one.run, one.execution_id): one.last_offset for one in runs}
            self.ahead = [one for one in self.ahead if ends.get((one.run, one.execution_id), -1) <= one.offset]

    async def _turn(self) -> bool:
        """To the next page of rows that were not taken; whether there is one."""
        # asked before the rows: one that is missing then was never written
        self._projected = await self._rows.next_offset(self._partition)
        self._page = (await self._rows.runs_after(self._partition, *self.place))[::-1]
        return bool(self._page)

    def _take(self) -> None:
        self.place = self._page.pop()

    def _take_extra(self) -> None:
        run, execution_id = self._page[-1]
        self._tell(run, execution_id, "the history has a row of a run that the log does not know")
        self._take()

    def _tell(self, offset: int, execution_id: str, detail: str) -> None:
        self._report(Difference(self._partition, offset, "history", execution_id, detail))


async def tell_strays(rows: HistoryRows, partitions: Sequence[int], report: Report) -> None:
    """Report rows that no comparison of one of these partitions would come to."""
    for partition, run, execution_id in await rows.strays(partitions):
        detail = "the history has a row of a run that no log has"
        report(Difference(partition, run, "history", execution_id, detail))


def tell_projected(projected: Mapping[int, int], ends: Mapping[int, int], report: Report) -> None:
    """Report partitions that were projected further than the log went, which was asked for afterwards."""
    for partition, until in sorted(projected.items()):
        end = ends.get(partition, 0)
        if until > end:
            detail = f"the history is projected to {until}, and the log ends at {end}"
            report(Difference(partition, end, "history", "", detail))


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
    shown = as_shown(_by_name(row))
    return tuple(shown[name] for name in ROW_COLUMNS)


def _by_name(row: tuple[Any, ...]) -> dict[str, Any]:
    """A row's values by its columns' names, as the product has them."""
    named = dict(zip(ROW_COLUMNS, row, strict=True))
    return named | {name: bool(named[name]) for name in TRUTHS}


def _is_ahead(expected: Closed, row: dict[str, Any]) -> bool:
    """Whether a row is right by itself, and says that a person had it taken back after the end that is expected."""
    if row["last_offset"] <= expected.last_offset or _why_different(None, row) is not None:
        return False
    return Execution.model_validate_json(row["state"]).taken_up_again


def _why_different(expected: Closed | None, row: dict[str, Any]) -> str | None:
    """How a row differs; None when it only was written by an older version that says the same in other words.

    expected: None asks only whether the row is what its own state says.
    """
    try:
        again = row_of(Execution.model_validate_json(row["state"]), row["partition"])
    except ValueError as error:
        return f"the row's state cannot be read: {error}"
    wrong = [name for name in again if name not in {"state", "item"} and again[name] != row[name]]
    if wrong:
        return f"the row's {wrong[0]} is {row[wrong[0]]!r}, and its own state says {again[wrong[0]]!r}"
    if expected is None or row_hash(again) == expected.row_hash:
        return None if again["item"] == row["item"] else "the row's item is not the one that its own state makes"
    log, own = (expected.status, expected.last_offset), (row["status"], row["last_offset"])
    if log != own:
        return f"the log says {log[0]} at {log[1]}, the row {own[0]} at {own[1]}"
    return f"both say {own[0]} at {own[1]}, and the row's state is not what the log comes to"
