"""Databases: SQLite always, a real PostgreSQL where there is one."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from parts import missing_part
from postgresql import PostgreSQL, programs

from app.history.database import open_database


@contextmanager
def running_postgresql() -> Iterator[PostgreSQL]:
    found = programs()
    if found is None:
        missing_part("PostgreSQL")
    server = PostgreSQL(found)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def postgresql():
    with running_postgresql() as server:
        yield server


@pytest.fixture
def postgresql_of_its_own():
    """One that the test may stop and start."""
    with running_postgresql() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
async def database_url(request, tmp_path):
    """An empty database of either kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.db'}"
    return await request.getfixturevalue("postgresql").new_database()


@pytest.fixture
async def engine(database_url):
    engine = await open_database(database_url)
    yield engine
    await engine.dispose()


@pytest.fixture
async def sqlite_engine(tmp_path):
    engine = await open_database(f"sqlite:///{tmp_path / 'history.db'}")
    yield engine
    await engine.dispose()
