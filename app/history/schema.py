"""The tables: one row a run of an execution, and how far each partition of the log has been folded.

Times are microseconds since the epoch, so that they order and compare the same on every database.
"""

from datetime import UTC, datetime, timedelta

import sqlalchemy as sa

METADATA = sa.MetaData()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

EXECUTIONS = sa.Table(
    "executions",
    METADATA,
    sa.Column("execution_id", sa.Text, primary_key=True),
    sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("tenant", sa.Text, nullable=False),
    sa.Column("partition", sa.Integer, nullable=False),
    sa.Column("service_id", sa.Text),
    sa.Column("runbook_name", sa.Text, nullable=False),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("dry_run", sa.Boolean, nullable=False),
    sa.Column("terminal", sa.Boolean, nullable=False),
    sa.Column("requested_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Index("executions_by_time", "tenant", "requested_us", "execution_id"),
    sa.Index("executions_by_service", "tenant", "service_id", "requested_us", "execution_id"),
    sa.Index("executions_by_runbook", "tenant", "runbook_name", "requested_us", "execution_id"),
    sa.Index("executions_by_status", "tenant", "status", "requested_us", "execution_id"),
    sa.Index("executions_live", "partition", "terminal"),
)

OFFSETS = sa.Table(
    "offsets",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)


def microseconds(moment: datetime) -> int:
    """A moment as microseconds since the epoch."""
    return (moment - EPOCH) // timedelta(microseconds=1)
