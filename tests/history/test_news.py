"""Waiting for what comes into the read model: told by the own projector, or found where another worker projects."""

import asyncio
import contextlib

import pytest
import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from waiting import until

from app.history import news as news_module
from app.history.news import News
from app.history.projection import Projection
from app.history.store import Store

TOPIC = "execution-events"


@contextlib.asynccontextmanager
async def looking(news):
    """The look for what nobody tells, at work."""
    task = asyncio.create_task(news.run())
    try:
        yield
    finally:
        assert not task.done(), task
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


@pytest.fixture
def told(sqlite_engine):
    """News that the projector of this worker tells, and how it projects."""
    news = News(Store(sqlite_engine, TOPIC))
    projection = Projection(Store(sqlite_engine, TOPIC), CollectorRegistry(), news.told)

    async def project(log, start=0):
        await projection.project([(await projection.load(0), log.records(start))])

    return news, project


@pytest.fixture
def asked(sqlite_engine):
    """The questions that the database is asked."""
    asked = []
    sa.event.listen(sqlite_engine.sync_engine, "before_cursor_execute", lambda *given: asked.append(given[2]))
    return asked


def ended(execution):
    return execution.terminal


async def someone_waits(news):
    async def waits():
        return news._executions or news._places

    await until(waits)


async def test_who_waits_for_an_execution_gets_it_as_it_was_written_and_asks_nobody(told, new_log, asked):
    news, project = told
    log = new_log()
    known = log.request("e")
    await project(log)
    waiting = [asyncio.create_task(news.until("default", "e", ended, 30, known)) for _ in range(200)]
    await someone_waits(news)
    log.start("e")
    await project(log, 1)
    for _ in range(10):
        await asyncio.sleep(0)
    before = len(asked)
    assert not any(task.done() for task in waiting)
    log.finish("e")
    await project(log, 2)
    assert set(map(id, await asyncio.gather(*waiting))) == {id(waiting[0].result())}
    assert waiting[0].result() == log.latest["e"]
    assert len(asked) - before <= 10  # what the projector itself asks and writes
    assert (news._executions, news._places) == ({}, {})


async def test_what_happened_before_anybody_waited_is_found(told, new_log):
    news, project = told
    log = new_log()
    known = log.request("e")
    log.succeed("e")
    await project(log)
    assert (await news.until("default", "e", ended, 30, known)).status == "succeeded"
    assert (await news.until("default", "e", ended, 30)).status == "succeeded"


async def test_a_state_that_is_known_is_not_read_again(told, new_log, asked):
    news, project = told
    log = new_log()
    known = log.request("e")
    await project(log)
    asked.clear()
    assert await news.until("default", "e", ended, 0.05, known) is None
    assert not any("state" in question for question in asked)


async def test_what_another_worker_projects_is_found_by_one_look_for_all(engine, new_log, project):
    news, log = News(Store(engine, TOPIC)), new_log()
    known = [log.request(f"e{number}") for number in range(20)]
    await project(engine, log)
    async with looking(news):
        waiting = [asyncio.create_task(news.until("default", one.execution_id, ended, 30, one)) for one in known]
        there = asyncio.create_task(news.projected(0, len(log.values), 30))
        for one in known:
            log.succeed(one.execution_id)
        await project(engine, log)
        assert {one.status.value for one in await asyncio.gather(*waiting)} == {"succeeded"}
        assert await there
        assert await news.projected(0, len(log.values) - 1, 30)


async def test_one_tenant_is_never_told_of_another(told, new_log):
    news, project = told
    log = new_log()
    log.request("e", tenant="other")
    log.succeed("e")
    await project(log)
    assert await news.until("default", "e", ended, 0.05) is None
    assert (await news.until("other", "e", ended, 30)).tenant == "other"


async def test_what_does_not_come_is_waited_for_no_longer_than_said(told, new_log):
    news, project = told
    log = new_log()
    log.request("e")
    await project(log)
    assert await news.until("default", "none", ended, 0.02) is None
    assert await news.projected(0, 1, 0.02) is False
    assert await news.projected(1, 0, 0.02) is False
    assert await news.projected(0, 0, 0.02) is True
    assert (news._executions, news._places) == ({}, {})


async def test_a_database_that_goes_away_is_one_more_reason_to_wait(sqlite_engine, new_log, project, monkeypatch):
    monkeypatch.setattr(news_module, "LOOK_S", 0.01)
    news, log = News(Store(sqlite_engine, TOPIC)), new_log()
    known = log.request("e")
    await project(sqlite_engine, log)
    failures = iter(range(5))

    def fail(*_):
        if next(failures, None) is not None:
            raise OSError("the database is gone")

    async with looking(news):
        sa.event.listen(sqlite_engine.sync_engine, "before_cursor_execute", fail)
        waiting = asyncio.create_task(news.until("default", "e", ended, 30, known))

        async def all_failed():
            return failures.__length_hint__() == 0

        await until(all_failed)
        log.succeed("e")
        await project(sqlite_engine, log)
        assert (await waiting).status == "succeeded"
