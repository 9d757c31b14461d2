"""Reading and writing the read model: rows and offsets in one transaction."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.execution import Execution
from app.history.schema import EXECUTIONS, OFFSETS

CHUNK = 500
POLL_S = 0.02


class OffsetMoved(Exception):
    """Somebody else has projected this partition meanwhile."""


class Store:
    """The tables of one database."""

    def __init__(self, engine: AsyncEngine, topic: str) -> None:
        """Use this engine; topic names the log in the offsets."""
        self._engine = engine
        self._topic = topic
        self._insert: Any = postgresql.insert if engine.dialect.name == "postgresql" else sqlite.insert

    async def next_offset(self, partition: int) -> int:
        """The first offset of the partition that is not folded yet; 0 when nothing is."""
        query = sa.select(OFFSETS.c.next_offset).where(OFFSETS.c.topic == self._topic, OFFSETS.c.partition == partition)
        async with self._engine.connect() as connection:
            return int((await connection.execute(query)).scalar() or 0)

    async def live(self, partition: int) -> list[Execution]:
        """The executions of a partition that have not ended."""
        query = sa.select(EXECUTIONS.c.state).where(
            EXECUTIONS.c.partition == partition, EXECUTIONS.c.terminal.is_(False)
        )
        async with self._engine.connect() as connection:
            return [Execution.model_validate_json(state) for state in (await connection.execute(query)).scalars()]

    async def latest(self, execution_ids: Sequence[str]) -> dict[str, Execution]:
        """The latest run of each of these executions that is known."""
        found: dict[str, Execution] = {}
        async with self._engine.connect() as connection:
            for start in range(0, len(execution_ids), CHUNK):
                query = (
                    sa.select(EXECUTIONS.c.execution_id, EXECUTIONS.c.state)
                    .where(EXECUTIONS.c.execution_id.in_(execution_ids[start : start + CHUNK]))
                    .order_by(EXECUTIONS.c.run)
                )
                for execution_id, state in await connection.execute(query):
                    found[execution_id] = Execution.model_validate_json(state)
        return found

    async def write(self, rows: Sequence[dict[str, Any]], offsets: Mapping[int, tuple[int, int]]) -> None:
        """Write the rows and move each partition from one offset to another, all or nothing.

        Raises OffsetMoved when a partition does not stand at its first offset any more.
        """
        async with self._engine.begin() as connection:
            for partition, (start, end) in offsets.items():
                await self._move(connection, partition, start, end)
            for start in range(0, len(rows), CHUNK):
                await connection.execute(self._upsert(), rows[start : start + CHUNK])

    async def _move(self, connection: AsyncConnection, partition: int, start: int, end: int) -> None:
        place = (OFFSETS.c.topic == self._topic, OFFSETS.c.partition == partition)
        moved = await connection.execute(
            sa.update(OFFSETS).where(*place, OFFSETS.c.next_offset == start).values(next_offset=end)
        )
        if moved.rowcount == 1:
            return
        first = self._insert(OFFSETS).values(topic=self._topic, partition=partition, next_offset=end)
        inserted = await connection.execute(first.on_conflict_do_nothing()) if start == 0 else None
        if inserted is None or inserted.rowcount != 1:
            raise OffsetMoved(f"partition {partition} is not at {start}")

    def _upsert(self) -> Any:
        insert = self._insert(EXECUTIONS)
        changing = ("status", "terminal", "state")
        return insert.on_conflict_do_update(
            index_elements=[EXECUTIONS.c.execution_id, EXECUTIONS.c.run],
            set_={name: insert.excluded[name] for name in changing},
        )

    async def projected(self, partition: int, offset: int, timeout_s: float) -> bool:
        """Whether the record at an offset is folded, waiting for it at most timeout_s seconds."""
        deadline = time.monotonic() + timeout_s
        while await self.next_offset(partition) <= offset:
            if time.monotonic() >= deadline:
                return False
            await asyncio.sleep(POLL_S)
        return True
