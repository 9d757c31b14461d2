"""Alembic migrations, run by ``app.history.database``."""
