"""The history beside a log that both go on: what the projector writes while it is compared."""

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from app.audit.comparing import HistoryComparison
from app.audit.history_rows import HistoryRows
from app.history.folding import row_of
from app.history.projection import Projection, Record
from app.history.schema import EXECUTIONS
from app.history.store import Store

DAY = 24 * 3600


class Beside:
    """A history and the comparison of it with a log, both as far as they are told to go."""

    def __init__(self, engine, log):
        self.engine = engine
        self.log = log
        self.found = []
        self.fold, _ = log.audited()
        self.comparison = self.from_place()

    def from_place(self):
        rows = HistoryRows(self.engine, "log")
        return HistoryComparison(rows, 0, len(self.log.records), lambda one: self.found.append(one.detail))

    async def project(self, until=None):
        """Go on with the history up to an offset."""
        projection = Projection(Store(self.engine, "log"), CollectorRegistry())
        place = await projection.load(0)
        records = [Record(offset, value, key) for offset, (key, value) in enumerate(self.log.records[:until])]
        await projection.project([(place, records)])

    async def finish(self):
        """Compare all that is left; what was told of."""
        await self.comparison.closed([*self.fold.closed, *self.fold.remaining()])
        await self.comparison.finish()
        return self.found


@pytest.fixture
def ended(log):
    """Runs that each take three records."""
    for number in range(3):
        log.request(f"e{number}")
        log.succeed(f"e{number}")
    return log


@pytest.mark.parametrize("behind", [0, 3, 4, 9])
async def test_a_row_that_is_written_after_it_was_looked_for_is_no_extra_one(engine, ended, behind):
    beside = Beside(engine, ended)
    await beside.project(9 - behind)
    await beside.comparison.requested(beside.fold.requested)
    await beside.project()
    assert await beside.finish() == []
    assert beside.comparison.left_out == behind // 3


async def test_nor_is_one_that_is_written_until_a_stopped_audit_goes_on(engine, ended):
    beside = Beside(engine, ended)
    await beside.project(3)
    await beside.comparison.requested(beside.fold.requested[:2])
    place = beside.comparison.place
    await beside.project()
    beside.comparison = beside.from_place()
    beside.comparison.place = place
    await beside.comparison.requested(beside.fold.requested[2:])
    assert await beside.finish() == []


@pytest.fixture
def taken_back_late(log):
    """A run that somebody had taken back when an audit remembers no more of it than its hash."""
    log.request("e")
    log.succeed("e")
    log.seconds += DAY + 7200
    log.request("another")
    log.succeed("another")
    log.take_back("e")
    return log


@pytest.mark.parametrize("at_once", [True, False])
@pytest.mark.parametrize("ends", [True, False])
async def test_a_rollback_long_after_the_end_is_no_difference(engine, taken_back_late, ends, at_once):
    if ends:
        taken_back_late.succeed("e")
    beside = Beside(engine, taken_back_late)
    await beside.project()
    await beside.comparison.requested(beside.fold.requested)
    if not at_once:
        await beside.comparison.closed(beside.fold.closed)
        assert [(one.run, one.offset) for one in beside.comparison.ahead] == [(0, 2)]
        beside.fold.closed = []
    assert await beside.finish() == []
    assert (beside.comparison.ahead, beside.comparison.left_out) == ([], 0)


async def test_a_rollback_that_only_the_row_knows_of_is_told_at_the_end(engine, new_log, taken_back_late):
    true = new_log()
    true.records = taken_back_late.records[:-1]
    for number in range(5):
        true.request(f"more-{number}")
    beside = Beside(engine, true)
    await beside.project()
    forged = row_of(taken_back_late.states["e"], 0)
    async with engine.begin() as connection:
        await connection.execute(sa.update(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e").values(forged))
    await beside.comparison.requested(beside.fold.requested)
    assert await beside.finish() == ["the log says succeeded at 2, the row rolling_back at 6"]
