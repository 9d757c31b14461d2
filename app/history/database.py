"""Opening the read model's database and bringing its tables up to date."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.core.errors import ConfigurationError

MIGRATION_LOCK = 0x1F5A6E  # any number that only we use as a PostgreSQL advisory lock
BUSY_TIMEOUT_MS = 10_000


async def open_database(url: str) -> AsyncEngine:
    """Connect and migrate.

    Raises ConfigurationError when the URL is wrong or the database does not answer.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise ConfigurationError("RUNBOOKS_HISTORY__URL is not a database URL") from error
    if parsed.get_backend_name() == "sqlite":
        if parsed.database and parsed.database != ":memory:":
            Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
        engine = create_async_engine(parsed)
        sa.event.listen(engine.sync_engine, "connect", _tune_sqlite)
    else:
        engine = create_async_engine(parsed, pool_pre_ping=True)
    try:
        await migrate(engine)
    except (OSError, SQLAlchemyError) as error:
        await engine.dispose()
        shown = parsed.render_as_string(hide_password=True)
        raise ConfigurationError(f"the history database {shown} cannot be used: {error}") from error
    return engine


async def migrate(engine: AsyncEngine) -> None:
    """Bring the tables to the newest revision; two workers may do so at once."""
    async with engine.begin() as connection:
        if engine.dialect.name == "postgresql":
            await connection.execute(sa.select(sa.func.pg_advisory_xact_lock(MIGRATION_LOCK)))
        else:
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
        await connection.run_sync(_upgrade)


def _upgrade(connection: sa.Connection) -> None:
    configuration = Config()
    configuration.set_main_option("script_location", "app.history:migrations")
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _tune_sqlite(connection: Any, _record: object) -> None:
    cursor = connection.cursor()
    for pragma in (f"busy_timeout={BUSY_TIMEOUT_MS}", "journal_mode=WAL", "synchronous=NORMAL"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
