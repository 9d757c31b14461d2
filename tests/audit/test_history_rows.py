"""What an audit asks of a history of more runs than one question takes."""

from app.audit.folding import ROW_COLUMNS, row_hash, values_hash
from app.audit.history_rows import PAGE, HistoryRows
from app.history.folding import row_of
from app.history.schema import EXECUTIONS, OFFSETS

RUNS = 2 * PAGE + 1


async def filled(engine, state):
    """So many rows of a partition, and one of another."""
    one = row_of(state, 0)
    rows = [one | {"execution_id": f"e{number}", "run": number} for number in range(RUNS)]
    async with engine.begin() as connection:
        for start in range(0, RUNS, PAGE):
            await connection.execute(EXECUTIONS.insert(), rows[start : start + PAGE])
        await connection.execute(EXECUTIONS.insert(), [one | {"execution_id": "another", "partition": 1}])
        await connection.execute(OFFSETS.insert(), [{"topic": "log", "partition": 0, "next_offset": RUNS}])
    return rows


async def test_all_are_found_page_by_page(engine, log):
    log.request("e")
    log.succeed("e")
    rows = await filled(engine, log.states["e"])
    history = HistoryRows(engine, "log")
    place, found = (-1, ""), []
    while page := await history.runs_after(0, *place):
        found += page
        place = page[-1]
    assert found == [(row["run"], row["execution_id"]) for row in rows]
    for wanted in (rows[:PAGE], rows[PAGE:][:PAGE], rows[-1:]):
        known = await history.of_runs(0, [row["run"] for row in wanted])
        assert [*map(values_hash, known.values())] == [*map(row_hash, wanted)]
        (first, *_) = known.values()
        assert len(first) == len(ROW_COLUMNS)
    assert (await history.next_offset(0), await history.next_offset(1)) == (RUNS, 0)
