"""The table match_decisions.

Revision ID: 0002_match_decisions
"""

import sqlalchemy as sa
from alembic import op

revision = "0002_match_decisions"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create it."""
    op.create_table(
        "match_decisions",
        sa.Column("tenant", sa.Text, primary_key=True),
        sa.Column("anomaly_id", sa.Text, primary_key=True),
        sa.Column("runbook_name", sa.Text, primary_key=True),
        sa.Column("runbook_version", sa.BigInteger, nullable=False),
        sa.Column("service_id", sa.Text, nullable=False),
        sa.Column("metric_name", sa.Text, nullable=False),
        sa.Column("result", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("execution_id", sa.Text),
        sa.Column("acts_on", sa.Text),
        sa.Column("decided_us", sa.BigInteger, nullable=False),
    )
    by_runbook = ["tenant", "runbook_name", "result", "decided_us"]
    op.create_index("match_decisions_by_runbook", "match_decisions", by_runbook)
    op.create_index("match_decisions_by_age", "match_decisions", ["decided_us"])


def downgrade() -> None:
    """Drop it: what the topic still holds gives it back."""
    op.drop_table("match_decisions")
