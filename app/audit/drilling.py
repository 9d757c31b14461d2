"""``drill rebuild``: the history database and the live table once more, beside the live ones, from the log alone.

Nothing live is written. What was rebuilt stays in its folder: ``history.db``, and ``executions.jsonl`` with the rows of
the live table, as their changelog would have them.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import AsyncEngine

from app.audit.comparing import HistoryComparison, as_shown, tell_projected, tell_strays
from app.audit.folding import Closed, Known, Position, Requested, row_hash
from app.audit.history_rows import HistoryRows, not_begun
from app.audit.live_table import LiveTable, LiveTables, read_live_tables
from app.audit.reading import Progress, ends_of, open_log
from app.audit.rules import Facts
from app.audit.verifying import Result, Sources
from app.core.errors import RunbooksError
from app.core.execution import Execution
from app.history.database import open_database
from app.history.projection import Projection, Record
from app.history.schema import EXECUTIONS
from app.history.store import Store
from app.streams.index import row_of

DATABASE, TABLE = "history.db", "executions.jsonl"
PAGE = 500


@dataclass(frozen=True, slots=True)
class Compared:
    """One thing in one partition: how many rows it has, and the SHA-256 of them, rebuilt and live.

    left_out: rows that moved on meanwhile, or were not written yet.
    """

    partition: int
    what: str
    rebuilt_rows: int
    live_rows: int
    rebuilt_digest: str
    live_digest: str
    left_out: int

    @property
    def same(self) -> bool:
        """Whether both are the same to the byte."""
        return self.rebuilt_digest == self.live_digest


@dataclass(slots=True)
class Drilled:
    """What was rebuilt from how many records, in how many seconds, and how it compares."""

    folder: Path
    compared: list[Compared] = field(default_factory=list)
    result: Result = field(default_factory=Result)

    def shown(self) -> dict[str, Any]:
        """As JSON."""
        compared = [asdict(one) | {"same": one.same} for one in self.compared]
        return {"folder": str(self.folder), "compared": compared, **self.result.shown()}


class Rebuilding:
    """One drill."""

    def __init__(self, sources: Sources, folder: Path, progress: Callable[[Progress], None]) -> None:
        """Rebuild in a folder what these sources name, and compare with them; without an engine only rebuild."""
        self._sources = sources
        self._folder = folder
        self._progress = progress
        self._drilled = Drilled(folder)
        self._starts: dict[int, int] = {}
        self._ends: dict[int, int] = {}

    async def run(self) -> Drilled:
        """Rebuild, then compare.

        Raises RunbooksError when the folder holds a rebuilt database already, KafkaError or DATABASE_ERRORS.
        """
        began = time.monotonic()
        if (self._folder / DATABASE).exists() or (self._folder / TABLE).exists():
            raise RunbooksError(f"{self._folder} holds what a drill rebuilt already: name another folder")
        rebuilt = await open_database(f"sqlite:///{self._folder / DATABASE}")
        try:
            await self._rebuild(rebuilt)
            self._drilled.result.seconds = time.monotonic() - began
            if self._sources.engine is not None:
                rows, report = HistoryRows(self._sources.engine, self._sources.topic), self._drilled.result.report
                for partition, end in self._ends.items():
                    comparison = HistoryComparison(rows, partition, end, report)
                    await self._compare_history(rebuilt, self._sources.engine, comparison, partition, end)
                await tell_strays(rows, list(self._ends), report)
            await self._write_and_compare_table(rebuilt)
        finally:
            await rebuilt.dispose()
        return self._drilled

    async def _rebuild(self, rebuilt: AsyncEngine) -> None:
        projection = Projection(Store(rebuilt, self._sources.topic), CollectorRegistry())
        live = self._sources.engine
        projected = {} if live is None else await Store(live, self._sources.topic).next_offsets()
        async with open_log(self._sources.connection, self._sources.topic, self._progress) as log:
            self._starts, self._ends = log.starts, log.ends
            lengths = {number: end - log.starts[number] for number, end in log.ends.items()}
            self._drilled.result.notes += await not_begun(live, self._topic, lengths)
            tell_projected(projected, log.ends, self._drilled.result.report)
            for number, start in log.starts.items():
                if start > 0:
                    self._drilled.result.notes.append(f"partition {number} begins at {start}: what was before is gone")
            places = {number: await projection.load(number) for number in log.ends}
            async for number, records in log.batches():
                read = [*map(Record.of, records)]
                await projection.project([(places[number], read)])
                self._drilled.result.records += len(read)

    async def _compare_history(
        self, rebuilt: AsyncEngine, live: AsyncEngine, comparison: HistoryComparison, partition: int, end: int
    ) -> None:
        comparison.place = start = (self._starts[partition], "")
        ours, theirs = _Sum(), _Sum()
        async for page in _pages(rebuilt, partition, start):
            await comparison.requested([Requested(row["run"], row["execution_id"]) for row in page])
            await comparison.closed([_closed(row) for row in page])
            ours.take(map(row_hash, page))
        await comparison.finish()
        async for page in _pages(live, partition, start):
            theirs.take(row_hash(row) for row in page if row["last_offset"] < end)
        self._compared(partition, "history", ours, theirs, comparison.left_out)

    async def _write_and_compare_table(self, rebuilt: AsyncEngine) -> None:
        tables = await self._live_tables()
        report = self._drilled.result.report
        log_ends = {} if tables is None else await ends_of(self._sources.connection, self._topic)
        with (self._folder / TABLE).open("xb") as file:
            for partition, end in self._ends.items():
                table, folded = self._table_of(tables, partition, end)
                position, ours, theirs = Position(partition, end), _Sum(), _Sum()
                async for execution in _latest(rebuilt, partition):
                    file.write(_row(execution, partition))
                    if not execution.terminal:
                        ours.take([_state_hash(execution)])
                    if table is not None and (not execution.terminal or table.has(execution.execution_id)):
                        state = execution.marker() if execution.terminal else execution
                        position.known[execution.execution_id] = Known(execution.tenant, state, None, Facts())
                if table is not None:
                    table.pass_over(self._starts[partition], position.known)
                    theirs.take(map(_state_hash, table.live(end)))
                    left_out = table.compare(position, folded, log_ends.get(partition, 0), report)
                    self._compared(partition, "live table", ours, theirs, left_out)

    @property
    def _topic(self) -> str:
        return self._sources.topic

    async def _live_tables(self) -> LiveTables | None:
        sources, notes = self._sources, self._drilled.result.notes
        if sources.table is None:
            return None
        try:
            tables = await read_live_tables(sources.connection, sources.table, sources.group, sources.topic)
        except RunbooksError as error:
            notes.append(f"the live table was not compared: {error}")
            return None
        notes += tables.notes(sources.group, self._ends)
        return tables

    def _table_of(self, tables: LiveTables | None, partition: int, end: int) -> tuple[LiveTable | None, int]:
        """A partition's table, where it can be compared, and the offset up to which the workers have written it."""
        if tables is None:
            return None, 0
        return tables.comparable(partition, end, self._drilled.result.report) or (None, 0)

    def _compared(self, partition: int, what: str, ours: "_Sum", theirs: "_Sum", left_out: int) -> None:
        given = (ours.rows, theirs.rows, ours.digest(), theirs.digest(), left_out)
        self._drilled.compared.append(Compared(partition, what, *given))
        self._drilled.result.left_out += left_out


class _Sum:
    """A running digest of rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._hash = hashlib.sha256()

    def take(self, hashes: Iterator[str] | list[str]) -> None:
        for one in hashes:
            self.rows += 1
            self._hash.update(one.encode())

    def digest(self) -> str:
        return self._hash.hexdigest()


async def _pages(engine: AsyncEngine, partition: int, place: tuple[int, str]) -> AsyncIterator[list[dict[str, Any]]]:
    """All rows of a partition after a place, by run."""
    run, name = EXECUTIONS.c.run, EXECUTIONS.c.execution_id
    while True:
        after = sa.or_(run > place[0], sa.and_(run == place[0], name > place[1]))
        query = sa.select(EXECUTIONS).where(EXECUTIONS.c.partition == partition, after).order_by(run, name).limit(PAGE)
        async with engine.connect() as connection:
            page = [as_shown(dict(row)) for row in (await connection.execute(query)).mappings()]
        if not page:
            return
        yield page
        place = (page[-1]["run"], page[-1]["execution_id"])


async def _latest(engine: AsyncEngine, partition: int) -> AsyncIterator[Execution]:
    """The latest run of each execution, by id."""
    run, name = EXECUTIONS.c.run, EXECUTIONS.c.execution_id
    place = ""
    latest = sa.select(name, sa.func.max(run).label("run")).where(EXECUTIONS.c.partition == partition).group_by(name)
    while True:
        newest = latest.where(name > place).order_by(name).limit(PAGE).subquery()
        joined = sa.and_(name == newest.c.execution_id, run == newest.c.run)
        query = sa.select(name, EXECUTIONS.c.state).join(newest, joined).order_by(name)
        async with engine.connect() as connection:
            page = (await connection.execute(query)).all()
        if not page:
            return
        for row in page:
            yield Execution.model_validate_json(row.state)
        place = page[-1].execution_id


def _closed(row: dict[str, Any]) -> Closed:
    return Closed(row["run"], row["execution_id"], row["status"], row["last_offset"], row_hash(row))


def _row(execution: Execution, partition: int) -> bytes:
    row = row_of(partition, execution.marker() if execution.terminal else execution)
    return orjson.dumps({"key": execution.execution_id, "value": orjson.Fragment(row)}) + b"\n"


def _state_hash(execution: Execution) -> str:
    return hashlib.sha256(execution.model_dump_json().encode()).hexdigest()


def told(drilled: Drilled) -> Iterator[str]:
    """A text for a person: each partition that holds anything, then what differs."""
    result = drilled.result
    yield from (_told(one) for one in drilled.compared if one.rebuilt_rows or one.live_rows)
    yield from result.told()
    rate = result.records / result.seconds if result.seconds else 0.0
    yield f"{result.records:,} records rebuilt in {result.seconds:.1f} s ({rate:,.0f}/s) in {drilled.folder}"
    yield f"{result.count} differences"


def _told(one: Compared) -> str:
    counts = f"partition {one.partition}, {one.what}: {one.rebuilt_rows:,} rows rebuilt, {one.live_rows:,} live"
    if one.same:
        return f"{counts}, the same: sha256 {one.rebuilt_digest}"
    moved = f"; {one.left_out:,} moved on meanwhile, or were not written yet" if one.left_out else ""
    return f"{counts}{moved}, not the same: sha256 {one.rebuilt_digest} rebuilt, {one.live_digest} live"
