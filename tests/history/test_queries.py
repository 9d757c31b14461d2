"""Pages, filters and single executions, the same on every database."""

import asyncio
import base64
from datetime import timedelta

import orjson
import pytest
import sqlalchemy as sa
from building import T0, scale, slack
from sqlalchemy import event

from app.core.anomaly import Anomaly
from app.core.errors import Refused, TemporaryError
from app.core.events import RollbackRequested
from app.core.execution import Status
from app.history.database import open_database
from app.history.items import HistoryItem, item_of
from app.history.queries import HistoryFilter, HistoryQueries
from app.history.schema import EXECUTIONS
from app.web.answers import HistoryPage

EVERYTHING = HistoryFilter()
MANY = 500
TIES = 7  # so many are requested in the same second


def cursor_of(*parts):
    return base64.urlsafe_b64encode(orjson.dumps(parts)).decode().rstrip("=")


def items_of(*pages):
    return [HistoryItem.model_validate_json(item) for page in pages for item in page.items]


async def all_pages(queries, wanted=EVERYTHING, tenant="default", limit=20):
    items, cursor = [], None
    while True:
        page = await queries.page(tenant, wanted, limit=limit, cursor=cursor)
        items += items_of(page)
        assert len(page.items) == limit or page.next_cursor is None
        if page.next_cursor is None:
            return items
        cursor = page.next_cursor


@pytest.fixture
async def ids(engine, new_log, project):
    """Five executions of two services and two runbooks, one second apart; the ids of those found, newest first."""
    log = new_log()
    log.request("e0", context={"service_id": "payment-api"})
    log.request("e1", context={"service_id": "payment-api"}, name="other")
    log.request("e2", scale(), context={"service_id": "search"}, dry_run=True)
    log.request("e3", slack(require_approval=True), context={"service_id": "payment-api"})
    log.request("e4", context={"service_id": "search"})
    log.succeed("e1")
    log.start("e3")
    await project(engine, log)
    queries = HistoryQueries(engine)

    async def found(**wanted):
        return [item.execution_id for item in await all_pages(queries, HistoryFilter(**wanted), limit=2)]

    return found


async def test_newest_first(ids):
    assert await ids() == ["e4", "e3", "e2", "e1", "e0"]


async def test_filters(ids):
    assert await ids(service_id="payment-api") == ["e3", "e1", "e0"]
    assert await ids(runbook_name="other") == ["e1"]
    assert await ids(status="succeeded") == ["e1"]
    assert await ids(status="awaiting_approval") == ["e3"]
    assert await ids(dry_run=True) == ["e2"]
    assert await ids(dry_run=False, service_id="search") == ["e4"]
    assert await ids(service_id="payment") == []
    assert await ids(service_id="payment-api\x00") == []


async def test_from_is_included_and_to_is_not(ids):
    second = timedelta(seconds=1)
    assert await ids(since=T0 + 3 * second) == ["e4", "e3"]
    assert await ids(until=T0 + 3 * second) == ["e2", "e1", "e0"]
    assert await ids(since=T0 + second, until=T0 + 2 * second) == ["e1"]


@pytest.mark.parametrize("limit", [1, 20, 200])
async def test_pages_over_ties_without_gap_or_repeat(engine, new_log, project, limit):
    log = new_log()
    for number in range(MANY):
        log.request(f"e{number * 7919 % MANY:03}", at=T0 + timedelta(seconds=number // TIES))
    await project(engine, log)
    queries = HistoryQueries(engine)
    if limit == 1:
        wanted = HistoryFilter(since=T0 + timedelta(seconds=(MANY - 40) // TIES))
        expected = [key for key in ordered(log) if key[0] >= wanted.since]
    else:
        wanted, expected = EVERYTHING, ordered(log)
    items = await all_pages(queries, wanted, limit=limit)
    assert [(item.requested_at, item.execution_id) for item in items] == expected


def ordered(log):
    return sorted(((state.request.at, name) for (name, _), state in log.runs.items()), reverse=True)


async def test_a_page_goes_on_where_it_ended_when_new_ones_arrive(engine, new_log, project):
    log, queries = new_log(), HistoryQueries(engine)
    for number in range(4):
        log.request(f"e{number}")
    await project(engine, log)
    first = await queries.page("default", EVERYTHING, limit=2)
    log.request("e4")
    await project(engine, log)
    second = await queries.page("default", EVERYTHING, limit=2, cursor=first.next_cursor)
    assert [item.execution_id for item in items_of(first, second)] == ["e3", "e2", "e1", "e0"]


async def test_a_full_last_page_has_no_next_one(engine, new_log, project):
    log = new_log()
    log.request("e0")
    log.request("e1")
    await project(engine, log)
    page = await HistoryQueries(engine).page("default", EVERYTHING, limit=2)
    assert (len(page.items), page.next_cursor) == (2, None)


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!!!",
        "é",
        cursor_of(),
        cursor_of(1, "e"),
        cursor_of(1, "e", 2, 3),
        cursor_of("1", "e", 2),
        cursor_of(True, "e", 2),
        cursor_of(1, 2, 3),
        cursor_of(1, "e\x00", 2),
        cursor_of(1, "e" * 300, 2),
        cursor_of(2**63, "e", 2),
        cursor_of(1, "e", 2**64 - 1),
    ],
)
async def test_a_cursor_that_is_not_ours_is_refused(engine, cursor):
    with pytest.raises(Refused) as refused:
        await HistoryQueries(engine).page("default", EVERYTHING, limit=2, cursor=cursor)
    assert [problem.path for problem in refused.value.problems] == ["cursor"]


async def all_waiting(queries, limit, tenant="default"):
    found, cursor = [], None
    while True:
        page = await queries.waiting(tenant, limit=limit, cursor=cursor)
        found += [(one.waiting.deadline, one.execution_id) for one in page.executions]
        assert len(page.executions) == limit or page.next_cursor is None
        if page.next_cursor is None:
            return found
        cursor = page.next_cursor


@pytest.mark.parametrize("limit", [7, 200])
async def test_what_waits_comes_by_its_deadline_page_by_page_however_much_there_is(engine, new_log, project, limit):
    log = new_log()
    for number in range(620):
        step = slack(require_approval=True, approval_timeout_minutes=1 + number * 7919 % 100)
        log.request(f"e{number:03}", step, at=T0)
    for number in range(610):  # ten are not asked about yet
        log.seconds = 0
        log.start(f"e{number:03}")
    log.approve("e007", decision="reject")
    await project(engine, log)
    waiting = sorted((state.waiting.deadline, name) for (name, _), state in log.runs.items() if state.waiting)
    assert len(waiting) == 609
    assert await all_waiting(HistoryQueries(engine), limit) == waiting
    assert await all_waiting(HistoryQueries(engine), limit, "other") == []
    with pytest.raises(Refused):
        await HistoryQueries(engine).waiting("default", limit=limit, cursor="x")


async def test_one_tenant_never_sees_another(engine, new_log, project):
    mine, theirs = new_log(), new_log()
    mine.request("mine", tenant="acme")
    theirs.request("theirs", tenant="globex")
    await project(engine, mine, partition=0)
    await project(engine, theirs, partition=1)
    queries = HistoryQueries(engine)
    assert [item.execution_id for item in await all_pages(queries, tenant="acme")] == ["mine"]
    assert await queries.get("acme", "theirs") is None
    assert await queries.item("acme", "theirs") is None
    assert (await queries.get("globex", "theirs")).tenant == "globex"
    page = await queries.page("acme", EVERYTHING, limit=5, cursor=cursor_of(2**62, "zz", 9))
    assert [item.execution_id for item in items_of(page)] == ["mine"]


async def mixed(engine, new_log, project):
    """A log with what goes on, what has ended, and what has ended and is taken back; its entries, newest first."""
    log = new_log()
    for name in ("goes on", "ended", "taken back", "queued"):
        log.request(name, scale(), slack())
    log.start("goes on")
    log.succeed("ended")
    log.start("taken back")
    log.finish("taken back", output={"big": 2**64 - 1, "odd": "\x00 \U0001f600"})
    log.succeed("taken back")
    taken = log.latest["taken back"]
    named = {"tenant": taken.tenant, "execution_id": "taken back", "at": log.now, "run": taken.run}
    log.tell(RollbackRequested(**named, by="olga", comment="", finished=taken.model_dump(mode="json")))
    await project(engine, log)
    return log, [item_of(log.latest[name]) for name in ("queued", "taken back", "ended", "goes on")]


async def test_an_item_that_is_kept_is_the_one_that_the_state_makes(engine, new_log, project, read_rows):
    log, expected = await mixed(engine, new_log, project)
    rows, _ = await read_rows(engine)
    kept = {row["execution_id"]: (row["item_offset"], row["item"]) for row in rows}
    ended = log.latest["ended"]
    assert kept.pop("ended") == (ended.last_offset, item_of(ended).model_dump_json())
    page = await HistoryQueries(engine).page("default", EVERYTHING, limit=20)
    assert page.items == [item.model_dump_json() for item in expected]
    assert HistoryPage.written(*page) == HistoryPage(items=expected, next_cursor=None).model_dump_json()


@pytest.mark.parametrize("left", [{"item": None, "item_offset": None}, {"item": "of before", "item_offset": 0}])
async def test_what_a_version_without_items_wrote_is_shown_as_it_stands(engine, new_log, project, left):
    """Such a version leaves an item as it was while it writes the row anew: it does not count any more."""
    _, expected = await mixed(engine, new_log, project)
    async with engine.begin() as connection:
        await connection.execute(sa.update(EXECUTIONS).values(left))
    page = await HistoryQueries(engine).page("default", EVERYTHING, limit=20)
    assert page.items == [item.model_dump_json() for item in expected]


async def test_one_execution_is_its_latest_run(engine, new_log, project):
    log = new_log()
    log.request("e")
    log.succeed("e")
    again = log.request("e", at=T0 + timedelta(days=3))
    await project(engine, log)
    queries = HistoryQueries(engine)
    assert await queries.get("default", "e") == again
    assert (await queries.item("default", "e")).status == "queued"
    assert [item.status for item in await all_pages(queries)] == ["queued", "succeeded"]
    assert await queries.get("default", "no such\x00one") is None


async def test_a_database_that_is_gone_is_a_reason_to_try_again(postgresql_of_its_own):
    engine = await open_database(await postgresql_of_its_own.new_database())
    queries = HistoryQueries(engine)
    assert await queries.get("default", "e") is None
    await asyncio.to_thread(postgresql_of_its_own.stop)
    for question in (queries.get("default", "e"), queries.page("default", EVERYTHING, limit=1)):
        with pytest.raises(TemporaryError, match="the history database does not answer"):
            await question
    await asyncio.to_thread(postgresql_of_its_own.start)
    assert await queries.get("default", "e") is None
    await engine.dispose()


async def test_counts_by_status(ids, engine):
    assert await HistoryQueries(engine).counts_by_status() == {
        Status.queued: 2,
        Status.running: 1,
        Status.succeeded: 1,
        Status.awaiting_approval: 1,
    }


async def test_the_row_says_what_the_state_says(engine, new_log, project, read_rows):
    log = new_log()
    anomaly = Anomaly(anomaly_id="a-1", service_id="payment-api", metric_name="m", timestamp=T0)
    log.request("e")
    log.tell(log.latest["e"].request.model_copy(update={"execution_id": "f", "anomaly": anomaly, "runbook_version": 4}))
    log.succeed("f")
    await project(engine, log)
    (_, row), _ = await read_rows(engine)
    state = log.latest["f"]
    since = {name: timedelta(microseconds=row[f"{name}_us"]) for name in ("requested", "started", "finished")}
    epoch = T0 - timedelta(seconds=T0.timestamp())
    assert (row["trigger_anomaly_id"], row["service_id"], row["runbook_version"]) == ("a-1", "payment-api", 4)
    assert {name: epoch + value for name, value in since.items()} == {
        "requested": state.request.at,
        "started": state.started_at,
        "finished": state.finished_at,
    }
    assert (row["last_offset"], row["terminal"], row["run"]) == (state.last_offset, True, 1)


async def test_what_waits_is_read_off_an_index_without_sorting(sqlite_engine):
    asked = []
    event.listen(sqlite_engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2:4]))
    await HistoryQueries(sqlite_engine).waiting("default", limit=20, cursor=cursor_of(10**15, "e", 2))
    ((statement, parameters),) = asked
    async with sqlite_engine.connect() as connection:
        rows = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)).all()
    (plan,) = [row.detail for row in rows]
    assert "USING INDEX executions_waiting (tenant=?" in plan
    assert "TEMP B-TREE" not in plan


@pytest.mark.parametrize(
    ("wanted", "index"),
    [
        (EVERYTHING, "executions_by_time"),
        (HistoryFilter(service_id="payment-api"), "executions_by_service"),
        (HistoryFilter(runbook_name="r"), "executions_by_runbook"),
        (HistoryFilter(status="succeeded"), "executions_by_status"),
    ],
)
@pytest.mark.parametrize("cursor", [None, cursor_of(10**15, "e", 2)])
async def test_a_page_is_read_off_an_index_without_sorting(sqlite_engine, wanted, index, cursor):
    asked = []
    async with sqlite_engine.connect() as connection:  # the pool's one, and so the next one's
        await (await connection.get_raw_connection()).driver_connection.set_trace_callback(asked.append)
    asked.clear()
    await HistoryQueries(sqlite_engine).page("default", wanted, limit=20, cursor=cursor)
    (statement,) = asked
    async with sqlite_engine.connect() as connection:
        rows = (await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}")).all()
    (plan,) = [row.detail for row in rows]
    assert f"USING INDEX {index} (tenant=?" in plan
    assert "TEMP B-TREE" not in plan
    assert ("requested_us<?" in plan or "(requested_us,execution_id,run)<" in plan) == (cursor is not None)
