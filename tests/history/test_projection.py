"""Whatever the cuts, the copies and the crashes: the rows are the fold of the log."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from building import T0, slack
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry
from sqlalchemy.ext.asyncio import create_async_engine

from app.core.events import CancelRequested, Limits, TimerFired
from app.core.execution import Execution
from app.history.projection import MAX_AT_HAND, Place, Projection
from app.history.schema import METADATA
from app.history.store import OffsetMoved, Store

TOPIC = "execution-events"
WINDOW = Limits(dedup_window_s=60)
UNREADABLE = (
    None,
    b"",
    b"{",
    b"[]",
    b'{"type": "step_begun"}',
    b"\xff\xfe",
    b'{"type":"timer_fired","tenant":"default"}',
)


def states(rows):
    return {(row["execution_id"], row["run"]): Execution.model_validate_json(row["state"]) for row in rows}


def new_projection(engine):
    return Projection(Store(engine, TOPIC), CollectorRegistry())


async def test_the_rows_are_the_fold(engine, new_log, project, read_rows):
    log = new_log()
    log.request("a", slack(), slack())
    log.request("b", slack(require_approval=True))
    log.start("a")
    log.start("b")
    log.finish("a")
    log.approve("b")
    await project(engine, log, cuts=[1, 2, 5])
    rows, offsets = await read_rows(engine)
    assert states(rows) == log.runs
    assert offsets == [(TOPIC, 0, len(log.values))]


async def test_the_same_record_twice_in_the_log_changes_nothing(engine, new_log, project, read_rows):
    log = new_log()
    log.request("e", slack(), slack())
    log.start("e")
    for value in list(log.values):
        log.junk(value)
    log.finish("e")
    log.junk(log.values[-1])
    await project(engine, log, cuts=[2, 3])
    rows, _ = await read_rows(engine)
    assert states(rows) == log.runs
    assert rows[0]["last_offset"] == 4


async def test_records_that_are_folded_already_are_passed_over(engine, new_log, read_rows):
    log, projection = new_log(), new_projection(engine)
    log.request("e")
    log.start("e")
    place = await projection.load(0)
    assert await projection.project([(place, log.records())]) == {0: 2}
    before = await read_rows(engine)
    assert await projection.project([(place, log.records())]) == {}
    log.finish("e")
    assert await projection.project([(place, log.records())]) == {0: 3}
    rows, _ = await read_rows(engine)
    assert before[0] != rows
    assert states(rows) == log.runs


async def test_a_crash_between_two_batches_leaves_no_gap_and_no_double(engine, new_log, read_rows):
    log = new_log()
    for number in range(6):
        log.request(f"e{number}")
        log.start(f"e{number}")
        if number % 2:
            log.finish(f"e{number}")
    for start in range(0, len(log.values), 4):
        projection = new_projection(engine)  # nothing but the database is left of the one before
        place = await projection.load(0)
        assert place.next_offset == start
        assert all(not state.terminal for state in place.at_hand.values())
        await projection.project([(place, log.records(0, start + 4))])
    rows, offsets = await read_rows(engine)
    assert states(rows) == log.runs
    assert offsets == [(TOPIC, 0, len(log.values))]


async def test_a_batch_that_cannot_be_written_leaves_nothing_behind(engine, new_log, read_rows):
    log, projection = new_log(), new_projection(engine)
    log.request("e")
    place = await projection.load(0)
    await projection.project([(place, log.records())])
    before = await read_rows(engine)
    log.succeed("e")
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE executions RENAME TO elsewhere"))
    with pytest.raises(sa.exc.DBAPIError):
        await projection.project([(place, log.records())])
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE elsewhere RENAME TO executions"))
    assert place.next_offset == 1
    assert await read_rows(engine) == before
    await projection.project([(place, log.records())])
    assert states((await read_rows(engine))[0]) == log.runs


@pytest.mark.parametrize("first_has_written", [False, True])
async def test_of_two_projectors_at_one_offset_one_writes(engine, new_log, read_rows, first_has_written):
    log, one, other = new_log(), new_projection(engine), new_projection(engine)
    log.request("e")
    if first_has_written:
        await one.project([(await one.load(0), log.records())])
    mine, theirs = await one.load(0), await other.load(0)
    log.request("f")
    log.start("e")
    await one.project([(mine, log.records())])
    written = await read_rows(engine)
    log.finish("e")
    with pytest.raises(OffsetMoved):
        await other.project([(theirs, log.records())])
    assert await read_rows(engine) == written
    await other.project([(await other.load(0), log.records())])
    assert states((await read_rows(engine))[0]) == log.runs


@pytest.mark.parametrize("begun", [(), (0,), (1,), (0, 1)])
async def test_of_several_partitions_all_are_written_or_none(engine, new_log, read_rows, begun):
    logs, projection, rival = [new_log(), new_log()], new_projection(engine), new_projection(engine)
    for number in begun:
        logs[number].request(f"e{number}", tenant=f"t{number}")
        await projection.project([(await projection.load(number), logs[number].records())])
    for number, log in enumerate(logs):
        log.request(f"f{number}", tenant=f"t{number}")
    places = [await projection.load(0), await projection.load(1)]
    stood = [place.next_offset for place in places]
    await rival.project([(await rival.load(1), logs[1].records())])
    before = await read_rows(engine)
    with pytest.raises(OffsetMoved):
        await projection.project([(place, log.records()) for place, log in zip(places, logs, strict=True)])
    assert await read_rows(engine) == before
    assert [place.next_offset for place in places] == stood
    again = [await projection.load(0), await projection.load(1)]
    await projection.project([(place, log.records()) for place, log in zip(again, logs, strict=True)])
    assert states((await read_rows(engine))[0]) == logs[0].runs | logs[1].runs


async def test_offsets_may_be_as_large_as_those_of_kafka(engine, read_rows):
    store, far = Store(engine, TOPIC), 2**62
    await store.write([], {0: (0, far), 1: (0, 7)})
    await store.write([], {0: (far, far + 1), 1: (7, far)})
    assert await store.next_offsets() == {0: far + 1, 1: far}


async def test_who_used_an_id_in_another_partition_is_not_known_in_this_one(engine, new_log, read_rows):
    """An id is the tenant's own choice, and another tenant's log may be another partition."""
    log, projection = new_log(), new_projection(engine)
    log.request("e")
    log.request("f")
    await projection.project([(await projection.load(0), log.records())])
    latest = await Store(engine, TOPIC).latest({0: {"e"}, 1: {"e", "f"}})
    assert latest == {0: {"e": log.runs["e", 0]}, 1: {}}


async def test_an_unreadable_record_is_passed_over_and_counted(engine, new_log, read_rows, caplog):
    log, registry = new_log(), CollectorRegistry()
    log.request("e")
    for value in UNREADABLE:
        log.junk(value)
    log.start("e")
    projection = Projection(Store(engine, TOPIC), registry)
    await projection.project([(await projection.load(0), log.records())])
    rows, offsets = await read_rows(engine)
    assert states(rows) == log.runs
    assert offsets == [(TOPIC, 0, len(log.values))]
    assert registry.get_sample_value("runbooks_projector_unreadable_total") == len(UNREADABLE)
    assert registry.get_sample_value("runbooks_projected_events_total") == len(log.values)
    refused = [entry for entry in caplog.records if entry.getMessage() == "event_refused"]
    assert [(entry.partition, entry.offset) for entry in refused] == [(0, 1 + n) for n in range(len(UNREADABLE))]


@pytest.mark.parametrize("service", ["a\x00b", "service " * 9000, "\U0001f525" * 5000])
async def test_no_name_stops_the_projection(engine, new_log, project, read_rows, service):
    log = new_log()
    log.request("e\x00" + "x" * 198, context={"service_id": service})
    log.succeed("e\x00" + "x" * 198)
    await project(engine, log, cuts=[1, 2])
    (row,), _ = await read_rows(engine)
    assert Execution.model_validate_json(row["state"]) == log.latest["e\x00" + "x" * 198]


async def test_a_request_again_inside_the_window_is_the_same_execution(engine, new_log, project, read_rows):
    log = new_log()
    log.request("e", limits=WINDOW)
    log.succeed("e")
    ended = log.latest["e"].finished_at
    assert log.request("e", at=ended + timedelta(seconds=60)) is None
    await project(engine, log, cuts=range(len(log.values)))
    rows, _ = await read_rows(engine)
    assert [(row["run"], row["status"]) for row in rows] == [(0, "succeeded")]


async def test_a_request_after_the_window_is_another_run(engine, new_log, project, read_rows):
    log = new_log()
    log.request("e", limits=WINDOW)
    log.succeed("e")
    ended = log.latest["e"].finished_at
    log.request("e", at=ended + timedelta(seconds=61))
    log.start("e")
    await project(engine, log, cuts=range(len(log.values)))
    rows, _ = await read_rows(engine)
    assert [(row["run"], row["status"]) for row in rows] == [(0, "succeeded"), (3, "running")]
    assert states(rows) == log.runs


async def test_two_runs_in_one_batch_are_two_rows(engine, new_log, project, read_rows):
    log = new_log()
    for start in (0, 1, 2):
        log.request("e", at=T0 + timedelta(days=2 * start))
        log.succeed("e")
    await project(engine, log)
    assert states((await read_rows(engine))[0]) == log.runs
    assert len(log.runs) == 3


async def test_what_another_tenant_says_of_an_execution_changes_nothing(engine, new_log, project, read_rows):
    log = new_log()
    log.request("e", tenant="acme")
    log.tell(CancelRequested(tenant="globex", execution_id="e", at=log.now, by="mallory"))
    log.request("e", tenant="globex")
    await project(engine, log)
    (row,), _ = await read_rows(engine)
    assert (row["tenant"], row["status"]) == ("acme", "queued")


async def test_the_same_id_and_offset_on_another_partition_does_not_touch_the_row(engine, new_log, project, read_rows):
    mine, theirs = new_log(), new_log()
    mine.request("e", tenant="acme")
    theirs.request("e", tenant="globex")
    await project(engine, mine, partition=0)
    await project(engine, theirs, partition=1)
    rows, _ = await read_rows(engine)
    assert [(row["tenant"], Execution.model_validate_json(row["state"]).tenant) for row in rows] == [("acme", "acme")]


async def test_only_live_executions_stay_at_hand(engine, new_log):
    log, projection = new_log(), new_projection(engine)
    log.request("a")
    log.request("b")
    log.succeed("a")
    place = await projection.load(0)
    await projection.project([(place, log.records())])
    assert place.at_hand == {"b": log.latest["b"]}
    assert (await projection.load(0)).at_hand == place.at_hand


def test_what_is_at_hand_is_bounded(new_log):
    state = new_log().request("e")
    place = Place(0, 0, {})
    place.move_on(1, {str(number): state for number in range(MAX_AT_HAND)})
    assert len(place.at_hand) == MAX_AT_HAND
    place.move_on(2, {"one more": state})
    assert (place.at_hand, place.next_offset) == ({}, 2)


NAMES = st.sampled_from(["a", "b", "c"])
CHOICES = st.lists(st.tuples(NAMES, st.integers(0, 11)), min_size=1, max_size=60)
CUTS = st.lists(st.integers(0, 90), max_size=12)


def live_on(log, name, choice):
    """One of the things that may happen to an execution, or to the log."""
    state = log.latest.get(name)
    if state is None or choice == 0:
        steps = [slack(require_approval=choice % 2 == 0), slack()]
        log.request(name, *steps, limits=WINDOW, rollback_on_failure=True)
    elif choice == 1:
        log.junk(UNREADABLE[len(log.values) % len(UNREADABLE)])
    elif choice == 2:
        log.junk(log.values[len(log.values) // 2])
    elif choice == 3:
        log.tell(TimerFired(tenant="default", execution_id=name, at=log.now))
    elif choice == 4:
        log.seconds += 40
    elif choice == 5:
        log.tell(
            CancelRequested(tenant="globex" if len(name) % 2 else "default", execution_id=name, at=log.now, by="x")
        )
    elif state.status == "awaiting_approval":
        log.approve(name, decision="reject" if choice == 6 else "approve")
    elif log.answer(name) is not None and choice != 7:
        log.start(name)
    elif not state.terminal and state.rollback is None:
        log.finish(name, "failed" if choice == 8 else "succeeded")


@settings(max_examples=80, deadline=None, derandomize=True)
@given(CHOICES, CUTS)
async def test_any_cuts_of_any_log_give_the_same_rows(new_log, project, read_rows, choices, cuts):
    log = new_log()
    for name, choice in choices:
        live_on(log, name, choice)
    found = []
    for some in ((), [cut for cut in cuts if cut < len(log.values)], range(len(log.values))):
        engine = create_async_engine("sqlite+aiosqlite://")
        async with engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)
        await project(engine, log, cuts=some)
        found.append(await read_rows(engine))
        await engine.dispose()
    assert found[0] == found[1] == found[2]
    assert states(found[0][0]) == log.runs
