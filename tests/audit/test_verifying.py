"""The audit of a real topic, beside a real database and a changelog."""

import asyncio

import orjson
import pytest
import sqlalchemy as sa
from aiokafka import AIOKafkaProducer
from audited import Audited
from building import http
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from app.audit import verifying
from app.audit.checkpoint import VERSION
from app.audit.history_rows import not_begun
from app.audit.verifying import Verification
from app.core.errors import RunbooksError
from app.core.events import write_event as written
from app.core.execution import Status
from app.history.database import open_database
from app.history.folding import row_of
from app.history.schema import ANCHORS, EXECUTIONS, OFFSETS
from app.history.signed_anchors import SignedAnchors
from app.history.store import Store

FAR = 10**12


@pytest.fixture
async def audited(kafka, engine, log):
    for number in range(20):
        log.request(f"e{number:02}", http(), http())
        if number % 3:
            log.succeed(f"e{number:02}")
    one = Audited(kafka, engine, log)
    await one.create()
    return one


async def test_an_honest_installation_is_clean(audited):
    await audited.write()
    result, found = await audited.verify()
    assert found == []
    assert (result.records, result.left_out, result.notes) == (len(audited.log.records), 0, [])


async def test_a_row_that_is_missing_extra_or_different_is_told_with_its_offset(audited):
    await audited.write()
    row = EXECUTIONS.c
    gone, made_up, edited, forged, shown = (audited.log.states[f"e{number:02}"] for number in (1, 2, 4, 5, 7))
    await audited.change(sa.delete(EXECUTIONS).where(row.execution_id == "e01"))
    await audited.change(sa.update(EXECUTIONS).where(row.execution_id == "e02").values(execution_id="nobody"))
    await audited.change(sa.update(EXECUTIONS).where(row.execution_id == "e04").values(status="failed"))
    await audited.change(sa.update(EXECUTIONS).where(row.execution_id == "e07").values(item="{}"))
    await audited.change(sa.update(EXECUTIONS).where(row.execution_id == "e08").values(item="{}", item_offset=0))
    waits = audited.log.states["e09"]
    made_up_item = {"item": "{}", "item_offset": waits.last_offset}
    await audited.change(sa.update(EXECUTIONS).where(row.execution_id == "e09").values(made_up_item))
    lied = forged.model_copy(update={"reason": "made up"}).model_dump_json()
    await audited.change(sa.update(EXECUTIONS).where(row.execution_id == "e05").values(state=lied))
    _, found = await audited.verify()
    assert sorted(found) == sorted([
        (gone.run, "history", "the history has no row of this run"),
        (made_up.run, "history", "the history has no row of this run"),
        (made_up.run, "history", "the history has a row of a run that the log does not know"),
        (shown.last_offset, "history", "the row's item is not the one that its own state makes"),
        (
            waits.last_offset,
            "history",
            f"the row's item_offset is {waits.last_offset}, and its own state says None",
        ),
        (edited.last_offset, "history", "the row's status is 'failed', and its own state says 'succeeded'"),
        (
            forged.last_offset,
            "history",
            f"both say succeeded at {forged.last_offset}, and the row's state is not what the log comes to",
        ),
    ])  # fmt: skip


def made_up_row(audited, partition, **changes):
    """A row for a page to show, right by itself, that no log has."""
    request = audited.log.states["e01"].request.model_copy(update={"execution_id": "made-up"})
    return row_of(audited.log.states["e01"].model_copy(update={"request": request, **changes}), partition)


async def test_a_row_that_nobody_can_have_written_yet_is_told_of(audited):
    await audited.write()
    last, end = audited.log.states["e01"].last_offset, len(audited.log.records)
    changed = {"last_offset": FAR, "item_offset": FAR, "state": "{}", "status": "failed"}
    await audited.change(sa.update(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e01").values(changed))
    await audited.change(sa.insert(EXECUTIONS).values(made_up_row(audited, 0, run=FAR, last_offset=FAR)))
    _, found = await audited.verify()
    assert found == [
        (last, "history", f"the row's last event stands at {FAR}, and the history is projected to {end}"),
        (FAR, "history", f"the history has a row of this run, and is projected to {end}"),
    ]


@pytest.mark.parametrize(("partition", "run"), [(99, 5), (-1, 5), (0, -1)])
async def test_a_row_that_no_partition_has_is_told_of(audited, partition, run):
    await audited.write()
    await audited.change(sa.insert(EXECUTIONS).values(made_up_row(audited, partition, run=run)))
    result, found = await audited.verify()
    assert found == [(run, "history", "the history has a row of a run that no log has")]
    assert result.differences[0].partition == partition


async def test_a_history_that_says_it_is_further_than_the_log_is_told_of(audited):
    await audited.write()
    await audited.change(sa.delete(ANCHORS))
    await audited.change(sa.update(OFFSETS).values(next_offset=2 * FAR))
    _, found = await audited.verify()
    end = len(audited.log.records)
    assert found == [(end, "history", f"the history is projected to {2 * FAR}, and the log ends at {end}")]


async def test_a_row_of_the_live_table_that_no_worker_can_have_written_yet_is_told_of(audited):
    await audited.write()
    states = audited.log.states
    lied = states["e01"].model_copy(update={"status": Status.failed, "last_offset": FAR})
    held = states["e00"].model_copy(update={"cancel_by": "nobody", "last_offset": FAR})
    key, row = audited.row(held)
    made_up = [(b'"made-up"', row), (b"not JSON", b"{}")]
    await audited.publish(
        audited.table, [audited.row(lied), (key, row), (audited.row(states["e03"])[0], b"{}"), *made_up]
    )
    _, found = await audited.verify()
    end = len(audited.log.records)
    (_, rule, told), *found = found
    assert (rule, told.endswith("of the changelog is no execution's id: b'not JSON'")) == ("table", True)
    assert found == [
        (states["e00"].last_offset, "table", "the live table's row is different; the log says queued"),
        (states["e01"].last_offset, "table", "the live table's row is different; the log says succeeded"),
        (states["e03"].last_offset, "table", "the live table's row is different; the log says queued"),
        (FAR, "table", f"the live table's row is of an event at {FAR}, and the log ends at {end}"),
    ]


async def test_rows_of_a_version_that_kept_no_items_are_no_difference(audited):
    await audited.write()
    await audited.change(sa.update(EXECUTIONS).values(item=None, item_offset=None))
    _, found = await audited.verify()
    assert found == []


async def test_a_row_whose_state_cannot_be_read_is_told_of(audited):
    await audited.write()
    row = EXECUTIONS.c
    for number, changed in ((1, {"state": "{}"}), (2, {"state": "{}", "item_offset": None})):
        await audited.change(sa.update(EXECUTIONS).where(row.execution_id == f"e{number:02}").values(changed))
    _, found = await audited.verify()
    assert [offset for offset, *_ in found] == [audited.log.states[f"e{number:02}"].last_offset for number in (1, 2)]
    assert all(detail.startswith("the row's state cannot be read: ") for *_, detail in found)


async def test_the_live_table_is_compared_with_the_log(audited):
    await audited.write()
    live, ended = audited.log.states["e00"], audited.log.states["e01"]
    key, _ = audited.row(live)
    lied = ended.model_copy(update={"status": Status.failed})
    await audited.publish(audited.table, [(key, None), audited.row(lied)])
    _, found = await audited.verify()
    assert found == [
        (live.last_offset, "table", "the live table's row is missing; the log says queued"),
        (ended.last_offset, "table", "the live table's row is different; the log says succeeded"),
    ]


async def test_a_key_of_the_changelog_that_is_no_id_is_one_difference_among_others(audited):
    await audited.write()
    live = audited.log.states["e00"]
    rows = len(audited.log.states)
    await audited.publish(audited.table, [(audited.row(live)[0], None), (b"e01", b"{}"), (b"[1]", None)])
    _, found = await audited.verify()
    assert found == [
        (rows + 1, "table", f"the key of record {rows + 1} of the changelog is no execution's id: b'e01'"),
        (rows + 2, "table", f"the key of record {rows + 2} of the changelog is no execution's id: b'[1]'"),
        (live.last_offset, "table", "the live table's row is missing; the log says queued"),
    ]


async def test_where_the_workers_have_told_no_offset_the_live_table_was_not_compared(audited):
    await audited.publish(audited.topic, audited.log.records)
    await audited.project()
    result, found = await audited.verify()
    assert (found, result.left_out) == ([], 0)
    group = audited.sources.group
    assert result.notes == [f"the group {group} has no offset for partition 0: the live table was not compared there"]


async def test_what_still_runs_though_retention_took_its_request_is_no_difference(audited):
    await audited.write()
    await audited.forget_before(audited.log.states["e03"].run)
    result, found = await audited.verify()
    assert (found, len(result.notes)) == ([], 1)


async def test_a_history_that_has_nothing_of_the_log_is_not_its_history(audited):
    await audited.publish(audited.topic, audited.log.records)
    with pytest.raises(RunbooksError, match=r"has nothing of execution-events.*RUNBOOKS_HISTORY__URL"):
        await audited.verify()


async def test_a_partition_that_the_history_has_nothing_of_is_noted(engine):
    await Store(engine, "log").write([], {0: (0, 7)})
    note = "the history has nothing of partition 1: its rows were not compared"
    assert await not_begun(engine, "log", {0: 7, 1: 3, 2: 0}) == [note]


async def test_a_log_that_ends_with_the_marker_of_a_transaction_is_read_to_its_end(audited):
    await audited.write()
    servers = audited.connection.bootstrap_servers
    late = audited.log.request("late")
    producer = AIOKafkaProducer(bootstrap_servers=servers, transactional_id=audited.topic)
    async with producer, producer.transaction():
        await producer.send(audited.topic, written(late), key=b"default", partition=0)
    async with asyncio.timeout(10):
        result, found = await audited.verify()
    assert (result.records, found) == (len(audited.log.records), [])


async def test_what_goes_on_meanwhile_is_no_difference(audited):
    log = audited.log
    await audited.write()
    before = len(log.records)
    log.succeed("e00")
    await audited.publish(audited.topic, log.records[before:])  # neither projected nor in the table yet
    result, found = await audited.verify()
    assert found == []
    assert result.left_out == 2


async def test_an_audit_that_was_stopped_goes_on_from_its_checkpoint(audited, tmp_path, monkeypatch):
    monkeypatch.setattr(verifying, "CHECKPOINT_S", -1)
    monkeypatch.setattr(verifying, "BATCH_RECORDS", 10)
    await audited.write()
    await audited.change(sa.delete(EXECUTIONS).where(EXECUTIONS.c.execution_id == "e01"))
    path, whole = tmp_path / "checkpoint", await audited.verify()

    def stop(progress):
        if progress.done >= 30:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await audited.verify(path, stop)
    assert path.exists()
    result, found = await audited.verify(path)
    assert found == whole[1]
    assert result.records < whole[0].records
    assert not path.exists()


async def test_a_rollback_long_after_the_end_is_no_difference_to_an_audit_that_was_stopped(
    kafka, engine, log, tmp_path, monkeypatch
):
    monkeypatch.setattr(verifying, "CHECKPOINT_S", -1)
    monkeypatch.setattr(verifying, "BATCH_RECORDS", 1)
    for name in ("e", "another"):
        log.request(name)
        log.succeed(name)
        log.seconds += 26 * 3600
    log.take_back("e")
    log.succeed("another")
    one, path = Audited(kafka, engine, log), tmp_path / "checkpoint"
    await one.create()
    await one.write()

    def stop(progress):
        if progress.done == len(log.records) - 1:
            raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await one.verify(path, stop)
    (point,) = orjson.loads(path.read_bytes())["points"]
    assert [(run, name) for run, name, *_ in point["history_ahead"]] == [(0, "e")]
    assert (await one.verify(path))[1] == []


@pytest.fixture
async def stopped(audited, tmp_path, monkeypatch):
    """The checkpoint of an audit that was stopped."""
    monkeypatch.setattr(verifying, "CHECKPOINT_S", -1)
    await audited.write()
    path = tmp_path / "checkpoint"
    verification = Verification(audited.sources, lambda _: None, path)
    await verification.run()
    await verification.save()
    return path


async def test_a_checkpoint_of_another_log_is_refused(audited, stopped):
    stopped.write_text(stopped.read_text().replace(audited.topic, "another-topic"))
    with pytest.raises(RunbooksError, match="remove it to begin anew"):
        await audited.verify(stopped)


async def test_a_checkpoint_of_another_history_is_refused(audited, stopped, tmp_path):
    other = await open_database(f"sqlite:///{tmp_path / 'other.db'}")
    audited.sources = audited.sources._replace(engine=other)
    with pytest.raises(RunbooksError, match=r"other\.db.*remove it to begin anew"):
        await audited.verify(stopped)
    await other.dispose()


async def test_a_checkpoint_without_the_signed_files_is_refused(audited, stopped, tmp_path):
    (tmp_path / "anchors.jsonl").touch()
    keys = [Ed25519PrivateKey.generate().public_key() for _ in range(2)]
    signed = [SignedAnchors([tmp_path / "anchors.jsonl"], key, audited.topic) for key in keys]
    assert signed[0].digest != signed[1].digest
    audited.sources = audited.sources._replace(signed=signed[0])
    with pytest.raises(RunbooksError, match=r"no signed anchors, and this is .*remove it to begin anew"):
        await audited.verify(stopped)


async def test_a_checkpoint_of_another_version_is_refused(audited, stopped):
    kept = orjson.loads(stopped.read_bytes())
    for point in kept["points"]:
        del point["anchors"], point["history_ahead"]
    stopped.write_bytes(orjson.dumps(kept | {"version": VERSION - 1}))
    with pytest.raises(RunbooksError, match="written by another version: remove it to begin anew"):
        await audited.verify(stopped)


async def test_what_was_only_counted_is_counted_still(audited, stopped):
    kept = orjson.loads(stopped.read_bytes())
    stopped.write_bytes(orjson.dumps(kept | {"count": 10_001}))
    result, _ = await audited.verify(stopped)
    assert result.count == 10_001
