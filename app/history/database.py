"""Opening the read model's database and bringing its tables up to date."""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import asyncpg
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util.exc import CommandError
from sqlalchemy.connectors.asyncio import AsyncAdapt_Error
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine
from sqlalchemy.pool import PoolResetState
from sqlalchemy.util import greenlet_spawn

from app.core.errors import ConfigurationError, TemporaryError

MIGRATION_LOCK = 0x1F5A6E  # any number that only we use as a PostgreSQL advisory lock
BUSY_TIMEOUT_MS = 10_000
MIGRATION_TIMEOUT_S = 30.0
RETRY_S = 0.05
PRIMARY_CODE = 0xFF  # the low byte of an extended result code of SQLite
DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}

NAMED_BY = "RUNBOOKS_HISTORY__URL, or for SQLite RUNBOOKS_DATA_DIR, says"

DATABASE_ERRORS = (SQLAlchemyError, OSError, asyncpg.InternalClientError)
"""What a database that is gone, starting or busy raises; trying again may help.

The third is of a connection that the server has told that it is shutting down, until that one is closed.
"""
DRIVER_ERRORS = (asyncpg.PostgresError, asyncpg.InterfaceError, AsyncAdapt_Error, sqlite3.Error)
"""The same from the drivers themselves, the third while SQLAlchemy has them connect."""


async def open_database(url: str) -> AsyncEngine:
    """Connect and migrate; ``sqlite`` and ``postgresql`` stand for the drivers that we use.

    Raises ConfigurationError when the URL is wrong or the database does not answer.
    """
    parsed = _parsed(url)
    engine = _engine(parsed)
    try:
        _make_folder(parsed)
        await migrate(engine)
    except (*DATABASE_ERRORS, CommandError) as error:
        await engine.dispose()
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigurationError(f"the history database {shown} cannot be used: {error}") from error
    return engine


async def open_to_read(url: str) -> AsyncEngine:
    """Connect to a history that is there, as this version has it; nothing is created and nothing is migrated.

    Raises ConfigurationError when there is none, when it is of another version, or the database does not answer.
    """
    parsed = _parsed(url)
    shown = parsed.render_as_string(hide_password=True)
    if not _may_be_there(parsed):
        raise ConfigurationError(f"there is no history database {shown}: {NAMED_BY} where it is")
    engine = _engine(parsed)
    try:
        async with engine.connect() as connection:
            revision, ours = await connection.run_sync(_revisions)
    except (*DATABASE_ERRORS, CommandError) as error:
        await engine.dispose()
        raise ConfigurationError(f"the history database {shown} cannot be used: {error}") from error
    if revision != ours:
        await engine.dispose()
        what = f"of revision {revision}, and this version needs {ours}" if revision else "empty"
        raise ConfigurationError(f"the history database {shown} is {what}: {NAMED_BY} where the workers' is")
    return engine


@contextlib.asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection for questions; raises TemporaryError when the database does not answer."""
    try:
        async with engine.connect() as connection:
            yield connection
    except DATABASE_ERRORS as error:
        raise TemporaryError(f"the history database does not answer: {error}") from error


class Statement(NamedTuple):
    """A query or a change as the driver takes it: its text, its values' names in order, and those it brings along.

    For what is asked or written often: SQLAlchemy writes it once, and looks at no value and no row of it.
    """

    text: str
    names: tuple[str, ...]
    brought: Mapping[str, Any]

    @classmethod
    def of(cls, statement: sa.ClauseElement, engine: AsyncEngine) -> "Statement":
        """A query whose values are ``bindparam``, or an upsert of rows, written for this database."""
        compiled: Any = statement.compile(dialect=engine.dialect)
        brought = {name: value for name, value in compiled.params.items() if value is not None}
        return cls(compiled.string, tuple(compiled.positiontup), brought)

    async def ask(self, engine: AsyncEngine, values: Mapping[str, Any]) -> Sequence[Any]:
        """The rows of a query, as tuples or what is like them, read in no transaction.

        Raises TemporaryError when the database does not answer.
        """
        known = {**self.brought, **values}
        try:
            return await self._rows(engine, [known[name] for name in self.names])
        except (*DATABASE_ERRORS, *DRIVER_ERRORS) as error:
            raise TemporaryError(f"the history database does not answer: {error}") from error

    async def _rows(self, engine: AsyncEngine, given: list[Any]) -> Sequence[Any]:
        connection = await engine.raw_connection()
        driver: Any = connection.driver_connection
        server = engine.dialect.name == "postgresql"
        broken = (*DRIVER_ERRORS, asyncio.CancelledError) if server else DRIVER_ERRORS  # a server may still be at it
        try:
            if server:
                return list(await driver.fetch(self.text, *given))
            return list(await driver.execute_fetchall(self.text, given))
        except broken as error:
            await greenlet_spawn(connection.invalidate, error)
            raise
        finally:
            await greenlet_spawn(connection.close)


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() != "sqlite":
        engine = create_async_engine(url)
        sa.event.listen(engine.sync_engine, "checkout", _check_postgresql)
        return engine
    engine = create_async_engine(url, pool_reset_on_return=None)
    sa.event.listen(engine.sync_engine, "connect", _tune_sqlite)
    sa.event.listen(engine.sync_engine, "reset", _reset_sqlite)
    return engine


def _make_folder(url: URL) -> None:
    if url.get_backend_name() == "sqlite" and url.database and url.database != ":memory:":
        Path(url.database).parent.mkdir(parents=True, exist_ok=True)


def _may_be_there(url: URL) -> bool:
    """Whether a database is not surely missing: SQLite would make a file that is not there."""
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()


def _parsed(url: str) -> URL:
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise ConfigurationError("RUNBOOKS_HISTORY__URL is not a database URL") from None
    parsed = parsed.set(drivername=DRIVERS.get(parsed.drivername, parsed.drivername))
    if parsed.drivername not in DRIVERS.values():
        known = " or ".join(sorted(set(DRIVERS.values())))
        raise ConfigurationError(f"RUNBOOKS_HISTORY__URL starts with {parsed.drivername}: use {known}")
    return parsed


async def migrate(engine: AsyncEngine) -> None:
    """Bring the tables to the newest revision; several workers may do so at once."""
    deadline = time.monotonic() + MIGRATION_TIMEOUT_S
    while True:
        try:
            return await _migrate_once(engine)
        except OperationalError as error:
            if not _is_busy(error) or time.monotonic() >= deadline:
                raise
        await asyncio.sleep(RETRY_S)


def _is_busy(error: OperationalError) -> bool:
    """Whether it is SQLite's "database is locked": switching a new file to WAL does not wait for who does the same."""
    code = getattr(error.orig, "sqlite_errorcode", 0)
    return bool(code & PRIMARY_CODE == sqlite3.SQLITE_BUSY)


async def _migrate_once(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        else:
            await connection.exec_driver_sql("PRAGMA journal_mode=WAL")  # stays with the file
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        await connection.run_sync(_upgrade)


def _upgrade(connection: sa.Connection) -> None:
    configuration = _migrations()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _migrations() -> Config:
    configuration = Config()
    configuration.set_main_option("script_location", "app.history:migrations")
    return configuration


def _revisions(connection: sa.Connection) -> tuple[str | None, str | None]:
    """The revision of the tables, None where there are none, and the newest one."""
    there = MigrationContext.configure(connection).get_current_revision()
    return there, ScriptDirectory.from_config(_migrations()).get_current_head()


def _check_postgresql(connection: Any, *_: object) -> None:
    """Have a connection that the server closed replaced: the driver knows that, and need not ask the server."""
    if connection.driver_connection.is_closed():
        raise sa.exc.DisconnectionError("the server closed the connection")


def _reset_sqlite(connection: Any, _record: object, state: PoolResetState) -> None:
    """Roll back what is left open, as the pool would; where nothing is, a way to SQLite's thread and back is saved."""
    if not state.terminate_only and connection.driver_connection.in_transaction:
        connection.rollback()


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "synchronous=NORMAL", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
