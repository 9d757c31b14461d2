from datetime import UTC, datetime

import pytest

from app.history.database import open_database
from app.history.folding import row_of
from app.history.queries import HistoryFilter, HistoryQueries
from app.history.store import Store

PATH = "/api/v1/runbooks/history"


async def look(web, query="", **fields):
    return await web.call("GET", f"{PATH}{query}", roles=["viewer"], **fields)


async def started(web, count, **context):
    for _ in range(count):
        assert (await web.execute(context=context)).status == 202


async def test_it_is_empty_at_first(web):
    assert (await look(web)).body == {"items": [], "next_cursor": None}


async def test_the_newest_comes_first_twenty_at_a_time(web):
    await started(web, 25)
    first = await look(web)
    assert [item["execution_id"] for item in first.body["items"]] == [f"id-{number}" for number in range(25, 5, -1)]
    rest = await look(web, f"?cursor={first.body['next_cursor']}")
    assert [item["execution_id"] for item in rest.body["items"]] == [f"id-{number}" for number in range(5, 0, -1)]
    assert rest.body["next_cursor"] is None


async def test_a_tenant_sees_its_own(web):
    await started(web, 2)
    assert (await look(web, tenant="other")).body["items"] == []
    assert len((await look(web)).body["items"]) == 2


async def test_every_parameter_reaches_the_question(web, world):
    query = (
        "?service_id=payment-api&limit=5&status=halted&runbook_name=r&dry_run=false"
        "&from=2026-01-01T00:00:00Z&to=2026-01-02T00:00:00%2B02:00"
    )
    assert (await look(web, query)).status == 200
    assert world.history.wanted == HistoryFilter(
        service_id="payment-api",
        runbook_name="r",
        status="halted",
        dry_run=False,
        since=datetime(2026, 1, 1, tzinfo=UTC),
        until=datetime(2026, 1, 1, 22, tzinfo=UTC),
    )


@pytest.mark.parametrize(
    ("query", "path", "nearest"),
    [
        ("?service=x", "service", "service_id"),
        ("?zzz=1", "zzz", None),
        ("?limit=0", "limit", None),
        ("?limit=201", "limit", None),
        ("?limit=-1", "limit", None),
        ("?limit=ten", "limit", None),
        ("?limit=%D9%A5", "limit", None),
        ("?limit=", "limit", None),
        ("?limit=1&limit=2", "limit", None),
        ("?status=succeded", "status", "succeeded"),
        ("?dry_run=yes", "dry_run", None),
        ("?from=yesterday", "from", None),
        ("?to=2026-01-01T00:00:00", "to", None),
        ("?from=2026-01-01T00:00:00+02:00", "from", None),
        ("?service_id=a%00b", "service_id", None),
        ("?service_id=" + "x" * 201, "service_id", None),
        ("?cursor=" + "x" * 1001, "cursor", None),
    ],
)
async def test_a_wrong_parameter_is_named(web, query, path, nearest):
    answer = await look(web, query)
    assert answer.status == 400
    (problem,) = answer.body["problems"]
    assert (problem["path"], problem["nearest"]) == (path, nearest)


async def test_the_real_read_model_answers_through_it(web, world, serve, tmp_path):
    await started(web, 5, service_id="payment-api")
    engine = await open_database(f"sqlite+aiosqlite:///{tmp_path / 'history.db'}")
    try:
        rows = [row_of(execution, 0) for execution in world.history.executions.values()]
        store = Store(engine, "execution-events")
        await store.write(rows, {0: (0, 200)})
        real = await serve(world.parts(history=HistoryQueries(engine), projection=store))
        seen, cursor = [], ""
        while cursor is not None:
            page = (await look(real, f"?service_id=payment-api&limit=2{cursor and f'&cursor={cursor}'}")).body
            seen += [item["execution_id"] for item in page["items"]]
            cursor = page["next_cursor"]
        assert sorted(seen) == [f"id-{number}" for number in range(1, 6)]
        assert (await look(real, "?cursor=rubbish")).status == 400
        assert (await look(real, tenant="other")).body["items"] == []
        assert (await real.call("GET", "/api/v1/executions/id-1", roles=["viewer"])).status == 200
    finally:
        await engine.dispose()
