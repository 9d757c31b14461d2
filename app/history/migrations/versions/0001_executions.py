"""The tables executions and offsets.

Revision ID: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them."""
    op.create_table(
        "executions",
        sa.Column("execution_id", sa.Text, primary_key=True),
        sa.Column("run", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.Text, nullable=False),
        sa.Column("partition", sa.Integer, nullable=False),
        sa.Column("service_id", sa.Text),
        sa.Column("runbook_name", sa.Text, nullable=False),
        sa.Column("runbook_version", sa.BigInteger, nullable=False),
        sa.Column("trigger_anomaly_id", sa.Text),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("dry_run", sa.Boolean, nullable=False),
        sa.Column("terminal", sa.Boolean, nullable=False),
        sa.Column("requested_us", sa.BigInteger, nullable=False),
        sa.Column("started_us", sa.BigInteger),
        sa.Column("finished_us", sa.BigInteger),
        sa.Column("last_offset", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
    )
    order = ["requested_us", "execution_id", "run"]
    op.create_index("executions_by_time", "executions", ["tenant", *order])
    for name, column in (("service", "service_id"), ("runbook", "runbook_name"), ("status", "status")):
        op.create_index(f"executions_by_{name}", "executions", ["tenant", column, *order])
    op.create_index("executions_live", "executions", ["partition", "terminal"])
    op.create_table(
        "offsets",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
    )


def downgrade() -> None:
    """Drop them: the log gives them back."""
    op.drop_table("offsets")
    op.drop_table("executions")
