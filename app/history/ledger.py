"""The why-not ledger in the database: what candidate runbooks said of anomalies, kept for a number of days."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any

import orjson
import sqlalchemy as sa
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy.ext.asyncio import AsyncEngine

from app.core.answers import AnomaliesAnswered, read_answers
from app.core.errors import RecordRefused
from app.history.projection import Place, Record
from app.history.schema import MATCH_DECISIONS, MAX_BIGINT, microseconds, searchable
from app.history.store import Store

SWEEP_EVERY = timedelta(minutes=5)
SWEEP_ROWS = 20_000
SLICE = 300  # rows made before anything else on the event loop gets its turn
KEY = ("tenant", "anomaly_id", "runbook_name")
row_key = itemgetter(*KEY)
logger = logging.getLogger(__name__)


class LedgerStore(Store):
    """The table ``match_decisions``: one row an anomaly and candidate, of the last time that the anomaly came."""

    def _make_upsert(self) -> Any:
        insert = self._insert(MATCH_DECISIONS)
        changing = [column.name for column in MATCH_DECISIONS.c if column.name not in KEY]
        return insert.on_conflict_do_update(
            index_elements=[MATCH_DECISIONS.c[name] for name in KEY],
            set_={name: insert.excluded[name] for name in changing},
            where=MATCH_DECISIONS.c.decided_us <= insert.excluded.decided_us,
        )

    async def forget(self, before: datetime) -> int:
        """Delete at most 20,000 rows from before a time; how many there were."""
        table = MATCH_DECISIONS.c
        old = (
            sa.select(table.tenant, table.anomaly_id, table.runbook_name)
            .where(table.decided_us < microseconds(before))
            .order_by(table.decided_us)
            .limit(SWEEP_ROWS)
        )
        named = sa.tuple_(table.tenant, table.anomaly_id, table.runbook_name).in_(old)
        async with self._engine.begin() as connection:
            return int((await connection.execute(sa.delete(MATCH_DECISIONS).where(named))).rowcount)


class LedgerProjection:
    """Writes the ledger's records as rows; what is older than ``keep`` goes away."""

    batch_records = 100
    """Records that are projected at once; each has up to 50 anomalies."""

    def __init__(
        self,
        engine: AsyncEngine,
        topic: str,
        registry: CollectorRegistry,
        clock: Callable[[], datetime],
        keep: timedelta,
    ) -> None:
        """Write to this database."""
        self._store = LedgerStore(engine, topic)
        self._clock = clock
        self._keep = keep
        self._sweep_at = clock()
        self._written = Counter("runbooks_match_decisions", "Rows written to the ledger.", registry=registry)
        self._unreadable = Counter(
            "runbooks_match_decisions_unreadable", "Records of the ledger that could not be read.", registry=registry
        )

    async def load(self, partition: int) -> Place:
        """Where the database stands; raises DATABASE_ERRORS."""
        return Place(partition, await self._store.next_offset(partition), {})

    async def project(self, batches: Iterable[tuple[Place, Sequence[Record]]]) -> dict[int, int]:
        """Write the records of some partitions, all or nothing: the next offset of each that moved.

        Raises OffsetMoved or DATABASE_ERRORS.
        """
        rows: dict[tuple[str, ...], dict[str, Any]] = {}
        moves: list[tuple[Place, int]] = []
        for place, records in batches:
            fresh = [record for record in records if record.offset >= place.next_offset]
            if fresh:
                rows |= {row_key(row): row async for row in self._rows(fresh)}
                moves.append((place, fresh[-1].offset + 1))
        if not moves:
            await self._sweep()
            return {}
        ends = {place.partition: (place.next_offset, end) for place, end in moves}
        await self._store.write(list(rows.values()), ends)
        self._written.inc(len(rows))
        for place, end in moves:
            place.move_on(end, {})
        await self._sweep()
        return {partition: end for partition, (_, end) in ends.items()}

    async def _rows(self, records: Iterable[Record]) -> AsyncIterator[dict[str, Any]]:
        """The rows of some records, with a turn for everything else on the event loop now and then."""
        made = 0
        for record in records:
            try:
                answered = read_answers(record.value)
            except RecordRefused as error:
                self._unreadable.inc()
                logger.warning("answers_refused", extra={"offset": record.offset, "error": str(error)})
                continue
            for row in rows_of(answered):
                made += 1
                yield row
            if made >= SLICE:
                made = 0
                await asyncio.sleep(0)

    async def _sweep(self) -> None:
        now = self._clock()
        if now < self._sweep_at:
            return
        gone = await self._store.forget(now - self._keep)
        if gone < SWEEP_ROWS:
            self._sweep_at = now + SWEEP_EVERY


def rows_of(record: AnomaliesAnswered) -> Iterator[dict[str, Any]]:
    """Rows of the table, one an anomaly and candidate."""
    for answered in record.anomalies:
        common = {
            "tenant": record.tenant,
            "anomaly_id": searchable(answered.anomaly_id),
            "service_id": searchable(answered.service_id),
            "metric_name": searchable(answered.metric_name),
            "decided_us": microseconds(answered.at),
        }
        for one in answered.answers:
            yield {
                **common,
                "runbook_name": one.runbook,
                "runbook_version": min(one.version, MAX_BIGINT),
                "result": one.result,
                "reason": one.reason.replace("\x00", "\ufffd"),
                "execution_id": one.execution_id,
                "acts_on": orjson.dumps(one.keys).decode() if one.keys else None,
            }
