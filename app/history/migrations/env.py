"""Alembic's entry: runs on the connection that ``migrate`` hands over."""

from alembic import context

from app.history.schema import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,
)
context.run_migrations()
