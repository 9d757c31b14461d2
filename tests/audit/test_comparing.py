"""The history beside a log that both go on: what the projector writes while it is compared, and what nobody wrote."""

import random

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry

from app.audit.comparing import HistoryComparison
from app.audit.history_rows import HistoryRows
from app.history.folding import row_of
from app.history.projection import Projection, Record
from app.history.schema import EXECUTIONS, OFFSETS
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

    def from_place(self, rows=None, end=None):
        given = rows or HistoryRows(self.engine, "log"), 0, end or len(self.log.records)
        return HistoryComparison(*given, lambda one: self.found.append(one.detail))

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


class Interrupted(HistoryRows):
    """Rows of a history that the projector goes on with before each question."""

    def __init__(self, beside, dice):
        super().__init__(beside.engine, "log")
        self.beside = beside
        self.dice = dice
        self.until = 0

    async def go_on(self):
        if more := self.dice.choice([0, 0, 0, 1, 2, 7]):
            self.until += more
            await self.beside.project(self.until)

    async def runs_after(self, *place):
        await self.go_on()
        return await super().runs_after(*place)

    async def of_runs(self, *wanted):
        await self.go_on()
        return await super().of_runs(*wanted)

    async def next_offset(self, partition):
        await self.go_on()
        return await super().next_offset(partition)


@pytest.mark.parametrize("seed", range(20))
async def test_a_projector_that_writes_between_any_two_questions_is_not_at_fault(sqlite_engine, log, seed):
    dice = random.Random(seed)
    for number in range(6):
        log.request(f"e{number}")
        log.succeed(f"e{number}")
        log.seconds += dice.choice([0, DAY + 7200])
        if dice.random() < 0.5:
            log.take_back(f"e{dice.randrange(number + 1)}")
    beside = Beside(sqlite_engine, log)
    later = dice.randrange(10)  # records that came after the end of the audit
    end = len(log.records) - later
    whole, log.records = log.records, log.records[:end]
    beside.fold, _ = log.audited()
    log.records = whole
    rows = Interrupted(beside, dice)
    beside.comparison = beside.from_place(rows, end)
    rows.until = dice.randrange(len(whole))
    await beside.project(rows.until or 1)
    for number in range(len(beside.fold.requested)):
        await beside.comparison.requested(beside.fold.requested[number : number + 1])
    for number in range(len(beside.fold.closed)):
        await beside.comparison.closed(beside.fold.closed[number : number + 1])
    beside.fold.closed = []
    assert await beside.finish() == []


async def test_a_row_that_has_moved_on_must_be_what_its_own_state_says(engine, ended):
    beside = Beside(engine, ended)
    await beside.project()
    beside.comparison = beside.from_place(end=5)  # e1 had not ended then
    whole, ended.records = ended.records, ended.records[:5]
    beside.fold, _ = ended.audited()
    ended.records = whole
    async with engine.begin() as connection:
        await connection.execute(sa.update(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e1").values(status="failed"))
    await beside.comparison.requested(beside.fold.requested)
    assert await beside.finish() == ["the row's status is 'failed', and its own state says 'succeeded'"]


async def test_a_history_that_was_set_back_leaves_no_altered_row_out(engine, ended):
    beside = Beside(engine, ended)
    await beside.project(9)
    async with engine.begin() as connection:
        forged = ended.states["e2"].model_copy(update={"reason": "made up"})
        values = row_of(forged, 0)
        await connection.execute(sa.update(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e2").values(values))
        await connection.execute(sa.update(OFFSETS).values(next_offset=0))
    await beside.comparison.requested(beside.fold.requested)
    assert await beside.finish() == ["the row's last event stands at 8, and the history is projected to 0"]
