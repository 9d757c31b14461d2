"""A drill rebuilds from the log alone, finds what it should, and leaves everything live as it is."""

import orjson
import pytest
import sqlalchemy as sa
from audited import Audited
from building import http

from app.audit.drilling import Rebuilding, told
from app.core.errors import RunbooksError
from app.history.database import open_database
from app.history.folding import row_of
from app.history.schema import EXECUTIONS


@pytest.fixture
async def audited(kafka, tmp_path, log):
    engine = await open_database(f"sqlite:///{tmp_path / 'live.db'}")
    for number in range(6):
        log.request(f"e{number}", http())
        if number % 3:
            log.succeed(f"e{number}")
    log.take_back("e4")
    one = Audited(kafka, engine, log)
    await one.create()
    yield one
    await engine.dispose()


async def drilled(audited, folder):
    progress = []
    found = await Rebuilding(audited.sources, folder, progress.append).run()
    assert progress[-1].done == progress[-1].total == len(audited.log.records)
    return found, [(one.offset, one.rule, one.detail) for one in found.result.differences]


async def rows(engine):
    async with engine.connect() as connection:
        found = await connection.execute(sa.select(EXECUTIONS).order_by(EXECUTIONS.c.run))
    return [dict(row) for row in found.mappings()]


async def test_what_is_rebuilt_is_what_is_live(audited, tmp_path):
    await audited.write()
    before, folder = await rows(audited.engine), tmp_path / "drill"
    found, differences = await drilled(audited, folder)
    assert differences == []
    assert [(one.what, one.rebuilt_rows, one.live_rows, one.same) for one in found.compared] == [
        ("history", 6, 6, True),
        ("live table", 3, 3, True),
    ]
    assert list(told(found))[-1] == "0 differences"
    rebuilt = await open_database(f"sqlite:///{folder / 'history.db'}")
    assert await rows(rebuilt) == await rows(audited.engine) == before
    await rebuilt.dispose()
    table = [orjson.loads(line) for line in (folder / "executions.jsonl").read_bytes().splitlines()]
    assert {one["key"]: orjson.dumps(one["value"]) for one in table} == {
        orjson.loads(key): value for key, value in map(audited.row, audited.log.states.values())
    }


async def test_rows_that_keep_no_items_are_as_good_as_those_that_are_rebuilt(audited, tmp_path):
    await audited.write()
    await audited.change(sa.update(EXECUTIONS).values(item=None, item_offset=None))
    found, differences = await drilled(audited, tmp_path / "drill")
    assert differences == []
    assert [one.same for one in found.compared] == [True, True]


async def test_what_differs_is_told_with_its_offset(audited, tmp_path):
    await audited.write()
    live, edited = audited.log.states["e0"], audited.log.states["e1"]
    await audited.publish(audited.table, [(audited.row(live)[0], None)])
    await audited.change(sa.update(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e1").values(status="failed"))
    await audited.change(sa.delete(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e2"))
    found, differences = await drilled(audited, tmp_path / "drill")
    assert sorted(differences) == sorted(
        [
            (edited.last_offset, "history", "the row's status is 'failed', and its own state says 'succeeded'"),
            (audited.log.states["e2"].run, "history", "the history has no row of this run"),
            (live.last_offset, "table", "the live table's row is missing; the log says queued"),
        ]
    )
    assert [(one.what, one.rebuilt_rows, one.live_rows, one.same) for one in found.compared] == [
        ("history", 6, 5, False),
        ("live table", 3, 2, False),
    ]


async def test_rows_that_nobody_can_have_written_are_told_of(audited, tmp_path):
    await audited.write()
    live, ended, far, end = audited.log.states["e0"], audited.log.states["e1"], 10**12, len(audited.log.records)
    changed = {"status": "failed", "last_offset": far}
    await audited.change(sa.update(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e1").values(changed))
    stray = row_of(ended.model_copy(update={"run": far}), 99)
    await audited.change(sa.insert(EXECUTIONS).values(stray))
    await audited.publish(audited.table, [audited.row(live.model_copy(update={"last_offset": far}))])
    _, differences = await drilled(audited, tmp_path / "drill")
    assert differences == [
        (ended.last_offset, "history", f"the row's last event stands at {far}, and the history is projected to {end}"),
        (far, "history", "the history has a row of a run that no log has"),
        (live.last_offset, "table", "the live table's row is different; the log says queued"),
    ]


async def test_what_goes_on_meanwhile_is_no_difference(audited, tmp_path):
    log = audited.log
    await audited.write()
    before = len(log.records)
    log.succeed("e0")
    await audited.publish(audited.topic, log.records[before:])  # neither projected nor in the table yet
    found, differences = await drilled(audited, tmp_path / "drill")
    assert differences == []
    assert [one.left_out for one in found.compared] == [1, 1]


async def test_what_cannot_be_compared_is_noted(audited, tmp_path):
    await audited.publish(audited.topic, audited.log.records)
    await audited.project()
    await audited.publish(audited.table, [(b"e0", b"{}")])
    found, differences = await drilled(audited, tmp_path / "drill")
    assert differences == [(0, "table", "the key of record 0 of the changelog is no execution's id: b'e0'")]
    assert [one.what for one in found.compared] == ["history"]
    group = audited.sources.group
    note = f"the group {group} has no offset for partition 0: the live table was not compared there"
    assert found.result.notes == [note]


async def test_a_history_that_has_nothing_of_the_log_is_not_its_history(audited, tmp_path):
    await audited.publish(audited.topic, audited.log.records)
    with pytest.raises(RunbooksError, match="has nothing of execution-events"):
        await drilled(audited, tmp_path / "drill")


async def test_what_still_runs_though_retention_took_its_request_is_no_difference(audited, tmp_path):
    await audited.write()
    await audited.forget_before(audited.log.states["e1"].run)
    found = await Rebuilding(audited.sources, tmp_path / "drill", lambda _: None).run()
    assert [one.detail for one in found.result.differences if one.rule == "table"] == []
    assert [one.same for one in found.compared if one.what == "live table"] == [True]


async def test_a_folder_that_holds_a_drill_is_left_alone(audited, tmp_path):
    await audited.write()
    await drilled(audited, tmp_path)
    before = (tmp_path / "history.db").read_bytes()
    with pytest.raises(RunbooksError, match="name another folder"):
        await drilled(audited, tmp_path)
    assert (tmp_path / "history.db").read_bytes() == before
