"""The history's query by service, beside a bare SELECT over the same index: a first page, and a page deep inside.

A million ended executions, 10,000 of each of the 5 services of 20 tenants, filled with rows that the product's own
projection made of one execution, with ids and times varied: on SQLite, and on a PostgreSQL of our own where there is
one. Ours is what the API does: query, items, the bytes of the answer. The bare one is the same page of the same table
through the same driver, on a connection that it keeps, its states as text; with the states read and items made of them
it shows what is saved by items that stand in the table. They take turns, at random places.
Run: .venv/bin/python benchmarks/history.py [--rounds N] [--short]
"""

import itertools
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiosqlite
import asyncpg
from bench import percentile, run, said, shown
from figures import Figure, PartArguments, part_arguments, report
from sqlalchemy.ext.asyncio import AsyncEngine
from stories import following

from app.core.execution import Execution
from app.core.lifecycle import evolve
from app.history.database import open_database
from app.history.folding import row_of
from app.history.items import item_of
from app.history.queries import HistoryFilter, HistoryQueries
from app.history.schema import EXECUTIONS
from app.web.answers import HistoryPage

TESTS = Path(__file__).parent.parent / "tests"
sys.path[:0] = [str(TESTS), str(TESTS / "core")]
EXECUTION_COUNT, SHORT_COUNT = 1_000_000, 5_000
TENANTS = 20
LIMIT = 20
CHUNK = 10_000
BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
APART = timedelta(seconds=7)
COLUMNS = [column.name for column in EXECUTIONS.columns]
SIDES = ("ours", "a bare indexed SELECT", "the SELECT, with items made of it")
PLACES = {"the first page": 0.0, "a page deep inside": 0.5}
"""How far back a page begins, as a share of the service's executions."""


def ended() -> Execution:
    """An execution of three http steps that has succeeded."""
    from building import http, plan, requested

    event, state, offset = requested(http(), http(), http(), at=BEGAN, context={"region": "eu"}), None, 0
    while event is not None:
        state, refusal = evolve(state, event, offset)
        assert refusal is None, refusal
        offset += 1
        event = following(
            state, event, event.at + timedelta(milliseconds=40), lambda _: plan("POST https://x.example/y")
        )
    return state


def services(count: int) -> list[tuple[str, str]]:
    """The tenants and services that so many executions are of, in turn."""
    return [(f"t{number % TENANTS}", f"service-{number // TENANTS}") for number in range(max(5, count // 10_000))]


def rows(count: int) -> Iterator[tuple]:
    """So many rows of the table, the newest last; times in the state stay those of the one execution."""
    row, named = row_of(ended(), 0), services(count)
    for number in range(count):
        tenant, service = named[number % len(named)]
        moved = number * APART // timedelta(microseconds=1)
        varied = {
            "execution_id": f"{number * 2654435761 % 2**32:08x}-{number}",
            "run": 7 * number,
            "tenant": tenant,
            "partition": number % 8,
            "service_id": service,
            "trigger_anomaly_id": f"a-{number}",
            "last_offset": 7 * number + 6,
            "item_offset": 7 * number + 6,
            **{name: row[name] + moved for name in ("requested_us", "started_us", "finished_us")},
        }
        yield tuple((row | varied).values())


async def fill(engine: AsyncEngine, count: int) -> None:
    """Insert the rows in chunks, and have the database know what it holds."""
    made, begun = rows(count), time.monotonic()
    for first in range(0, count, CHUNK):
        chunk = [row for _, row in zip(range(min(CHUNK, count - first)), made, strict=False)]
        async with engine.begin() as connection:
            driver = (await connection.get_raw_connection()).driver_connection
            if isinstance(driver, asyncpg.Connection):
                await driver.copy_records_to_table("executions", records=chunk, columns=COLUMNS)
            else:
                named = ", ".join(f'"{name}"' for name in COLUMNS)
                marks = ", ".join("?" * len(COLUMNS))
                await driver.executemany(f"INSERT INTO executions ({named}) VALUES ({marks})", chunk)
        if first // CHUNK % 10 == 9:
            said(f"filling {engine.dialect.name}", f"{first + len(chunk):,} rows in {time.monotonic() - begun:.0f} s")
    async with engine.connect() as connection:
        await (await connection.execution_options(isolation_level="AUTOCOMMIT")).exec_driver_sql("ANALYZE")
    said(f"filled {engine.dialect.name}", f"{count:,} rows in {time.monotonic() - begun:.0f} s")


class Bare:
    """One indexed SELECT of the page, its states as text."""

    WHERE = "tenant = {0} AND service_id = {1} AND requested_us < {2}"
    ORDER = "requested_us DESC, execution_id DESC, run DESC"

    def __init__(self, driver: aiosqlite.Connection | asyncpg.Connection) -> None:
        self._driver = driver
        self._is_postgresql = isinstance(driver, asyncpg.Connection)
        where = self.WHERE.format(*(("$1", "$2", "$3") if self._is_postgresql else "???"))
        self._query = f"SELECT execution_id, run, requested_us, state FROM executions WHERE {where}"
        self._query += f" ORDER BY {self.ORDER} LIMIT {LIMIT + 1}"

    async def page(self, tenant: str, service: str, before_us: int) -> list[str]:
        """The states of a page."""
        values = (tenant, service, before_us)
        if self._is_postgresql:
            return [row["state"] for row in await self._driver.fetch(self._query, *values)]
        async with self._driver.execute(self._query, values) as cursor:
            return [row[3] for row in await cursor.fetchall()]


class Pages:
    """The pages that both are asked for."""

    def __init__(self, count: int) -> None:
        self._random = random.Random(4)
        self._services = services(count)
        self._span_us = count * APART // timedelta(microseconds=1)
        self._newest_us = (BEGAN - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1) + self._span_us

    def choose(self, share: float) -> tuple[str, str, int]:
        """A tenant, a service, and the time before which the page begins."""
        return *self._random.choice(self._services), self._newest_us - int(share * self._span_us)


async def cursor_at(queries: HistoryQueries, tenant: str, service: str, before_us: int) -> str | None:
    """The cursor of a page that begins before a time: a page's own, one execution long; None for the first page."""
    until = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=before_us)
    return (await queries.page(tenant, HistoryFilter(service_id=service, until=until), limit=1)).next_cursor


class Asking:
    """The three sides, one after the other, each asked for a page at random."""

    def __init__(self, queries: HistoryQueries, bare: Bare, pages: Pages) -> None:
        self._queries = queries
        self._bare = bare
        self._pages = pages

    async def times(self, share: float) -> tuple[float, float, float]:
        """Seconds that each side took."""
        tenant, service, before_us = self._pages.choose(share)
        cursor = await cursor_at(self._queries, tenant, service, before_us) if share else None
        begun = time.perf_counter()
        page = await self._queries.page(tenant, HistoryFilter(service_id=service), limit=LIMIT, cursor=cursor)
        HistoryPage.written(page.items, page.next_cursor).encode()
        asked_s = time.perf_counter() - begun
        tenant, service, before_us = self._pages.choose(share)  # another page: ours must not warm it up
        asked = time.perf_counter()
        states = await self._bare.page(tenant, service, before_us)
        found = time.perf_counter()
        items = [item_of(Execution.model_validate_json(state)) for state in states[:LIMIT]]
        assert len(page.items) == len(items) == LIMIT
        return asked_s, found - asked, time.perf_counter() - asked

    async def rounds(self, share: float, asked: int, rounds: int) -> dict[str, list[list[float]]]:
        """By side, the times of each round."""
        measured = [[await self.times(share) for _ in range(asked)] for _ in range(rounds)]
        return {side: [[one[place] for one in times] for times in measured] for place, side in enumerate(SIDES)}


async def measured(engine: AsyncEngine, count: int, asked: int, rounds: int) -> list[Figure]:
    """A round is the p50 and the p99 of so many pages."""
    figures = []
    async with engine.connect() as connection:
        bare = Bare((await connection.get_raw_connection()).driver_connection)
        asking = Asking(HistoryQueries(engine), bare, Pages(count))
        for name, share in PLACES.items():
            found = await asking.rounds(share, asked, rounds)
            for side, times in found.items():
                shown(f"{engine.dialect.name}, {name}: {side}", [*itertools.chain(*times)])
            figures += figures_of(f"history by service, {count:,} executions on {engine.dialect.name}, {name}", found)
    return figures


def figures_of(name: str, found: dict[str, list[list[float]]]) -> list[Figure]:
    ours, bare, read = SIDES
    middle = {side: [1e3 * statistics.median(one) for one in times] for side, times in found.items()}
    late = {side: [1e3 * percentile(one, 0.99) for one in times] for side, times in found.items()}
    return [
        Figure(
            f"{name}, p99", "ms", {ours: late[ours]}, goal="≤ 10 ms", at_most=10.0,
            note=f"{LIMIT} items; {bare}: p99 {statistics.median(late[bare]):.2f} ms",
        ),
        Figure(
            f"{name}, p50", "ms", {side: middle[side] for side in (ours, bare)},
            goal="≤ 2 times", at_most=2.0, note="its states stay text: nothing is read or made of them",
        ),
        Figure(f"{name}, p50 beside as much work", "ms", {side: middle[side] for side in (ours, read)}),
    ]  # fmt: skip


async def on(url: str, arguments: PartArguments) -> list[Figure]:
    """Fill one database, and ask it."""
    engine = await open_database(url)
    try:
        await fill(engine, count := SHORT_COUNT if arguments.short else EXECUTION_COUNT)
        return await measured(engine, count, 20 if arguments.short else 500, arguments.rounds)
    finally:
        await engine.dispose()


async def main(arguments: PartArguments) -> None:
    from postgresql import PostgreSQL, programs

    with tempfile.TemporaryDirectory() as folder:
        figures = await on(f"sqlite:///{folder}/history.db", arguments)
    if (found := programs()) is None:
        said("PostgreSQL", "not measured: there is none on this machine")
    else:
        server = PostgreSQL(found)
        try:
            server.start()
            figures += await on(await server.new_database(), arguments)
        finally:
            server.remove()
    report(arguments, figures)


if __name__ == "__main__":
    run(main(part_arguments(__doc__)))
