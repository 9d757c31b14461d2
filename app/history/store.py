"""Reading and writing the read model: rows and offsets in one transaction."""

from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.chain import NOTHING, Anchor
from app.core.execution import Execution
from app.history.database import Statement
from app.history.schema import ANCHORS, EXECUTIONS, OFFSETS, searchable

CHUNK = 500
TIMES = ("started_us", "finished_us", "waits_until_us")
CHANGING = ("status", "terminal", *TIMES, "last_offset", "state", "item_offset", "item")


class OffsetMoved(Exception):
    """Somebody else has projected this partition meanwhile."""


class Store:
    """The tables of one database."""

    def __init__(self, engine: AsyncEngine, topic: str) -> None:
        """Use this engine; topic names the log in the offsets."""
        self._engine = engine
        self._topic = topic
        self._insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert
        self._upsert = Statement.of(self._make_upsert(), engine)
        self._values_of = itemgetter(*self._upsert.names)
        self._upsert_anchor = self._make_upsert_anchor()

    async def next_offset(self, partition: int) -> int:
        """The first offset of the partition that is not folded yet; 0 when nothing is."""
        query = sa.select(OFFSETS.c.next_offset).where(OFFSETS.c.topic == self._topic, OFFSETS.c.partition == partition)
        async with self._engine.connect() as connection:
            return int((await connection.execute(query)).scalar() or 0)

    async def next_offsets(self) -> dict[int, int]:
        """The same of every partition of which anything is folded."""
        query = sa.select(OFFSETS.c.partition, OFFSETS.c.next_offset).where(OFFSETS.c.topic == self._topic)
        async with self._engine.connect() as connection:
            return {row.partition: row.next_offset for row in await connection.execute(query)}

    async def live(self, partition: int, at_most: int) -> list[Execution]:
        """The executions of a partition that have not ended, not more than at_most of them."""
        query = (
            sa.select(EXECUTIONS.c.state)
            .where(EXECUTIONS.c.partition == partition, EXECUTIONS.c.terminal.is_(False))
            .limit(at_most)
        )
        async with self._engine.connect() as connection:
            return [Execution.model_validate_json(state) for state in (await connection.execute(query)).scalars()]

    async def latest(self, wanted: Mapping[int, Collection[str]]) -> dict[int, dict[str, Execution]]:
        """By partition, the latest run of each of its executions that are wanted, of those that it knows."""
        found: dict[int, dict[str, Execution]] = {partition: {} for partition in wanted}
        names = sorted({searchable(name) for executions in wanted.values() for name in executions})
        for start in range(0, len(names), CHUNK):
            query = (
                sa.select(EXECUTIONS.c.partition, EXECUTIONS.c.state)
                .where(
                    EXECUTIONS.c.execution_id.in_(names[start : start + CHUNK]),
                    EXECUTIONS.c.partition.in_(sorted(wanted)),
                )
                .order_by(EXECUTIONS.c.run)
            )
            async with self._engine.connect() as connection:
                rows = (await connection.execute(query)).all()
            for partition, state in rows:
                execution = Execution.model_validate_json(state)
                if execution.execution_id in wanted[partition]:
                    found[partition][execution.execution_id] = execution
        return found

    async def versions(self, execution_ids: Iterable[str]) -> dict[str, tuple[int, int]]:
        """Run and last offset of the latest run of each of these executions that there is."""
        columns = (EXECUTIONS.c.execution_id, EXECUTIONS.c.run, EXECUTIONS.c.last_offset)
        return {row.execution_id: (row.run, row.last_offset) async for row in self._rows_of(columns, execution_ids)}

    async def newest(self, execution_ids: Iterable[str]) -> list[Execution]:
        """The latest run of each of these executions that there is, of whichever partition."""
        columns = (EXECUTIONS.c.execution_id, EXECUTIONS.c.state)
        states = {row.execution_id: row.state async for row in self._rows_of(columns, execution_ids)}
        return [Execution.model_validate_json(state) for state in states.values()]

    async def _rows_of(self, columns: Sequence[sa.Column[Any]], execution_ids: Iterable[str]) -> AsyncIterator[Any]:
        """Rows of these executions, the runs of one in their order."""
        wanted = sorted(searchable(execution_id) for execution_id in execution_ids)
        for start in range(0, len(wanted), CHUNK):
            named = EXECUTIONS.c.execution_id.in_(wanted[start : start + CHUNK])
            async with self._engine.connect() as connection:
                rows = await connection.execute(sa.select(*columns).where(named).order_by(EXECUTIONS.c.run))
            for row in rows:
                yield row

    async def last_anchor(self, partition: int) -> Anchor | None:
        """The open anchor of a partition; None where nothing was recorded yet."""
        return next(iter(await self._anchors(partition, sa.true(), newest_first=True)), None)

    async def anchor_at(self, partition: int, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one; None after the last."""
        return next(iter(await self.anchors_at(partition, offset, 1)), None)

    async def anchors_at(self, partition: int, offset: int, limit: int) -> list[Anchor]:
        """The same with those that follow it, not more than the limit in all."""
        return await self._anchors(partition, ANCHORS.c.next_offset > offset, limit=limit)

    async def head_before(self, partition: int, offset: int) -> bytes:
        """The running hash up to an offset at which an anchor begins."""
        before = await self._anchors(partition, ANCHORS.c.first_offset < offset, newest_first=True)
        return before[0].head if before else NOTHING

    async def anchors_from(self, partition: int, offset: int, limit: int) -> list[Anchor]:
        """The anchors that begin at an offset or after it, in their order, the open one included."""
        return await self._anchors(partition, ANCHORS.c.first_offset >= offset, limit=limit)

    async def _anchors(
        self, partition: int, which: sa.ColumnElement[bool], *, newest_first: bool = False, limit: int = 1
    ) -> list[Anchor]:
        first = ANCHORS.c.first_offset
        query = (
            sa.select(first, ANCHORS.c.next_offset, ANCHORS.c.head, ANCHORS.c.digests)
            .where(ANCHORS.c.topic == self._topic, ANCHORS.c.partition == partition, which)
            .order_by(first.desc() if newest_first else first)
            .limit(limit)
        )
        async with self._engine.connect() as connection:
            rows = (await connection.execute(query)).all()
        return [Anchor(row[0], row[1], bytes(row[2]), bytes(row[3])) for row in rows]

    async def write(
        self,
        rows: Sequence[dict[str, Any]],
        offsets: Mapping[int, tuple[int, int]],
        anchors: Mapping[int, Sequence[Anchor]] | None = None,
    ) -> None:
        """Write the rows and anchors and move each partition from one offset to another, all or nothing.

        Raises OffsetMoved when a partition does not stand at its first offset any more.
        """
        async with self._engine.begin() as connection:
            await self._move(connection, offsets)
            for first in range(0, len(rows), CHUNK):
                given = [*map(self._values_of, rows[first : first + CHUNK])]  # SQLAlchemy would look at each value
                await connection.exec_driver_sql(self._upsert.text, given)
            if anchors:
                await self._write_anchors(connection, anchors)

    async def _write_anchors(self, connection: AsyncConnection, anchors: Mapping[int, Sequence[Anchor]]) -> None:
        rows = [
            {"topic": self._topic, "partition": partition, **anchor._asdict()}
            for partition, changed in sorted(anchors.items())
            for anchor in changed
        ]
        await connection.execute(self._upsert_anchor, rows)

    async def _move(self, connection: AsyncConnection, offsets: Mapping[int, tuple[int, int]]) -> None:
        """Move all partitions, those that stand somewhere in one statement."""
        standing = sorted((partition, start) for partition, (start, _) in offsets.items() if start)
        for partition, (start, end) in sorted(offsets.items()):
            if not start:
                await self._begin(connection, partition, end)
        if not standing:
            return
        ends = {partition: sa.literal(offsets[partition][1], sa.BigInteger) for partition, _ in standing}
        place = sa.tuple_(OFFSETS.c.partition, OFFSETS.c.next_offset)
        moved = await connection.execute(
            sa.update(OFFSETS)
            .where(OFFSETS.c.topic == self._topic, place.in_(standing))
            .values(next_offset=sa.case(ends, value=OFFSETS.c.partition))
        )
        if moved.rowcount != len(standing):
            raise OffsetMoved(f"{len(standing) - moved.rowcount} of these partitions have moved: {dict(standing)}")

    async def _begin(self, connection: AsyncConnection, partition: int, end: int) -> None:
        """Move a partition of which nothing is folded yet."""
        first = self._insert(OFFSETS).values(topic=self._topic, partition=partition, next_offset=end)
        begun = first.on_conflict_do_update(
            index_elements=[OFFSETS.c.topic, OFFSETS.c.partition],
            set_={"next_offset": first.excluded.next_offset},
            where=OFFSETS.c.next_offset == 0,
        )
        if (await connection.execute(begun)).rowcount != 1:
            raise OffsetMoved(f"partition {partition} is not at 0")

    def _make_upsert(self) -> Any:
        """Insert, or change the row of the very same run: never that of another tenant that used its id."""
        insert = self._insert(EXECUTIONS)
        new = insert.excluded
        return insert.on_conflict_do_update(
            index_elements=[EXECUTIONS.c.execution_id, EXECUTIONS.c.run],
            set_={name: new[name] for name in CHANGING},
            where=(EXECUTIONS.c.tenant == new.tenant) & (EXECUTIONS.c.partition == new.partition),
        )

    def _make_upsert_anchor(self) -> Any:
        """Insert, or go on with the open one."""
        insert = self._insert(ANCHORS)
        return insert.on_conflict_do_update(
            index_elements=[ANCHORS.c.topic, ANCHORS.c.partition, ANCHORS.c.first_offset],
            set_={name: insert.excluded[name] for name in ("next_offset", "head", "digests")},
        )
