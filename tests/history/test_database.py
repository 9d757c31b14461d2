"""Opening and migrating: the same tables on every database, whoever comes first."""

import asyncio
from collections import Counter
from functools import partial

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from building import T0, plan, scale, story
from sqlalchemy.util import greenlet_spawn
from waiting import until

from app.core.errors import ConfigurationError, TemporaryError
from app.history.database import Statement, migrate, open_database, open_to_read, reading
from app.history.folding import row_of
from app.history.items import written_item
from app.history.queries import HistoryFilter, HistoryQueries
from app.history.schema import MAX_SEARCHED, METADATA, microseconds, searchable
from app.history.store import Store

AT_ONCE = 6
RESTARTS = 5


def difference(connection):
    context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
    return compare_metadata(context, METADATA)


async def test_the_migrations_give_exactly_the_metadata(engine):
    async with engine.connect() as connection:
        assert await connection.run_sync(difference) == []
        names = await connection.run_sync(
            lambda sync: {one["name"] for one in sa.inspect(sync).get_indexes("executions")}
        )
    assert names == {index.name for index in METADATA.tables["executions"].indexes}


async def test_the_comparison_would_see_a_missing_column(engine):
    async with engine.begin() as connection:
        await connection.execute(sa.text("ALTER TABLE executions DROP COLUMN trigger_anomaly_id"))
        assert [change[0] for change in await connection.run_sync(difference)] == ["add_column"]


def newest():
    configuration = Config()
    configuration.set_main_option("script_location", "app.history:migrations")
    return ScriptDirectory.from_config(configuration).get_current_head()


async def test_several_workers_open_an_empty_database_at_once(database_url):
    engines = await asyncio.gather(*(open_database(database_url) for _ in range(AT_ONCE)))
    for engine in engines:
        async with engine.connect() as connection:
            assert await connection.scalar(sa.text("SELECT version_num FROM alembic_version")) == newest()
        await engine.dispose()


async def test_migrating_again_keeps_what_is_there(engine, new_log, project, read_rows):
    log = new_log()
    log.request("e")
    await project(engine, log)
    await migrate(engine)
    rows, offsets = await read_rows(engine)
    assert [row["execution_id"] for row in rows] == ["e"]
    assert offsets == [("execution-events", 0, 1)]


def columns_of(connection):
    return {one["name"] for one in sa.inspect(connection).get_columns("executions")}


def to_revision(connection, revision):
    configuration = Config()
    configuration.set_main_option("script_location", "app.history:migrations")
    configuration.attributes["connection"] = connection
    command.downgrade(configuration, revision)


async def test_what_waits_in_an_older_database_is_known_after_the_migration(engine, read_rows):
    forward = story(scale(require_approval=True)).prepared(plan(inverse=True))
    done = story(scale(require_approval=True)).prepared(plan(inverse=True)).decided().does(inverse=True)
    back = story(scale(require_approval=True)).prepared(plan(inverse=True)).decided().does(inverse=True)
    back.at(60).back().prepared(plan("back"))
    rows = [
        row_of(told.state, 0) | {"execution_id": name}
        for name, told in (("a", forward), ("b", done), ("c", back.at(60)))
    ]
    await Store(engine, "t").write(rows, {0: (0, 1)})
    async with engine.begin() as connection:
        await connection.run_sync(to_revision, "0001")
        assert "waits_until_us" not in await connection.run_sync(columns_of)
    await migrate(engine)
    after, _ = await read_rows(engine)
    empty = {"item": None, "item_offset": None}
    assert sorted(map(dict, after), key=lambda row: row["execution_id"]) == [row | empty for row in rows]
    assert [row["waits_until_us"] for row in rows] == [
        microseconds(T0) + 600 * 10**6,
        None,
        microseconds(T0) + 660 * 10**6,
    ]


async def test_what_ended_in_an_older_database_is_shown_as_before(engine, new_log, project):
    log = new_log()
    for name in ("a", "b"):
        log.request(name)
        log.succeed(name)
    await project(engine, log)
    before = await HistoryQueries(engine).page("default", HistoryFilter(), limit=2)
    async with engine.begin() as connection:
        await connection.run_sync(to_revision, "0004_anchors")
        assert not {"item", "item_offset"} & await connection.run_sync(columns_of)
    await migrate(engine)
    assert await HistoryQueries(engine).page("default", HistoryFilter(), limit=2) == before
    log.request("c")
    log.succeed("c")
    await project(engine, log)
    newest = await HistoryQueries(engine).page("default", HistoryFilter(), limit=3)
    assert newest.items == [written_item(log.latest["c"]), *before.items]


async def test_what_is_left_open_on_a_connection_of_sqlite_is_rolled_back(sqlite_engine):
    """By the pool, as nobody else does."""
    insert = "INSERT INTO offsets (topic, partition, next_offset) VALUES ('t', 0, 1)"
    connection = await sqlite_engine.raw_connection()
    driver = connection.driver_connection
    await driver.execute_fetchall(insert)
    assert driver.in_transaction
    await greenlet_spawn(connection.close)
    assert not driver.in_transaction
    async with sqlite_engine.begin() as again:
        assert await again.scalar(sa.text("SELECT count(*) FROM offsets")) == 0


async def test_a_question_that_the_database_refuses_is_a_reason_to_try_again(engine):
    wrong = Statement("SELECT * FROM nowhere", (), {})
    with pytest.raises(TemporaryError, match=r"the history database does not answer: .*nowhere"):
        await wrong.ask(engine, {})
    right = Statement.of(sa.select(sa.bindparam("one", type_=sa.Integer) + 1), engine)
    assert [tuple(row) for row in await right.ask(engine, {"one": 1})] == [(2,)]


async def test_a_database_that_comes_and_goes_is_a_reason_to_try_again_and_nothing_else(postgresql_of_its_own):
    """Also while it starts, shuts down, or is still at a question that was given up."""
    engine = await open_database(await postgresql_of_its_own.new_database())
    slow = Statement("SELECT pg_sleep($1)", ("seconds",), {})
    came_to = Counter()
    enough = asyncio.Event()

    async def ask(which: int) -> None:
        async with asyncio.timeout((0.002, 0.02, 5)[which % 3]):
            if which % 2:
                await slow.ask(engine, {"seconds": which / 100})
            else:
                async with reading(engine) as connection:
                    await connection.execute(sa.text("SELECT pg_sleep(0.01)"))

    async def keep_asking(which: int) -> None:
        while not enough.is_set():
            try:
                await ask(which)
            except (TemporaryError, TimeoutError) as error:
                came_to[type(error)] += 1
                await asyncio.sleep(0)
            else:
                came_to["answered"] += 1

    async def more_answered(than: int) -> bool:
        return came_to["answered"] > than + 20

    async with asyncio.TaskGroup() as group:
        for which in range(12):
            group.create_task(keep_asking(which))
        for _ in range(RESTARTS):
            await until(partial(more_answered, came_to["answered"]))
            await asyncio.to_thread(postgresql_of_its_own.stop)
            await asyncio.to_thread(postgresql_of_its_own.start)
        enough.set()
    assert came_to.keys() == {"answered", TemporaryError, TimeoutError}
    assert engine.pool.checkedout() == 0
    await engine.dispose()


async def test_sqlite_is_opened_for_several_readers_and_a_writer(tmp_path):
    engine = await open_database(f"sqlite:///{tmp_path / 'a' / 'b' / 'history.db'}")
    async with engine.connect() as connection:
        found = {
            name: await connection.scalar(sa.text(f"PRAGMA {name}"))
            for name in ("journal_mode", "busy_timeout", "synchronous", "foreign_keys")
        }
    await engine.dispose()
    assert found == {"journal_mode": "wal", "busy_timeout": 10_000, "synchronous": 1, "foreign_keys": 1}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("no url at all", "is not a database URL"),
        ("mysql://u:secret@h/d", "starts with mysql: use postgresql\\+asyncpg or sqlite\\+aiosqlite"),
        ("postgresql://u:secret@127.0.0.1:1/d", "cannot be used"),
        ("sqlite:////proc/nowhere/history.db", "cannot be used"),
    ],
)
async def test_a_database_that_cannot_be_used_is_named_without_its_password(url, said):
    with pytest.raises(ConfigurationError, match=said) as refused:
        await open_database(url)
    assert "secret" not in str(refused.value)


async def test_a_database_of_a_newer_release_is_refused(database_url):
    engine = await open_database(database_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'"))
    await engine.dispose()
    with pytest.raises(ConfigurationError, match="9999"):
        await open_database(database_url)


async def test_a_reader_takes_a_database_of_this_version_only_and_changes_nothing(database_url):
    with pytest.raises(ConfigurationError, match=r"(there is no history database|is empty).*RUNBOOKS_HISTORY__URL"):
        await open_to_read(database_url)
    await (await open_database(database_url)).dispose()
    engine = await open_to_read(database_url)
    async with engine.begin() as connection:
        await connection.execute(sa.text("UPDATE alembic_version SET version_num = '0004'"))
    await engine.dispose()
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="is of revision 0004, and this version needs"):
            await open_to_read(database_url)


@pytest.mark.parametrize("made", [False, True])
async def test_a_reader_makes_no_database(tmp_path, made):
    path = tmp_path / "history.db"
    if made:
        path.touch()
    with pytest.raises(ConfigurationError, match="RUNBOOKS_DATA_DIR"):
        await open_to_read(f"sqlite:///{path}")
    assert [one.stat().st_size for one in tmp_path.iterdir()] == [0] * made


async def test_a_reader_names_no_password():
    with pytest.raises(ConfigurationError, match="cannot be used") as refused:
        await open_to_read("postgresql://u:secret@127.0.0.1:1/d")
    assert "secret" not in str(refused.value)


def test_searched_columns_hold_what_every_database_takes():
    assert searchable("payment-api") == "payment-api"
    assert searchable("a\x00b") == "a\ufffdb"
    assert len(searchable("x" * 10_000)) == MAX_SEARCHED
