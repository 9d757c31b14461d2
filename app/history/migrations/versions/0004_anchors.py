"""The table anchors: tamper evidence of the log; and the order in which an audit reads the runs.

Revision ID: 0004_anchors
"""

import sqlalchemy as sa
from alembic import op

revision = "0004_anchors"
down_revision = "0003_waiting"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create them; what was projected before has no anchor."""
    op.create_table(
        "anchors",
        sa.Column("topic", sa.Text, primary_key=True),
        sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("first_offset", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("next_offset", sa.BigInteger, nullable=False),
        sa.Column("head", sa.LargeBinary, nullable=False),
        sa.Column("digests", sa.LargeBinary, nullable=False),
    )
    op.create_index("executions_by_run", "executions", ["partition", "run", "execution_id"])


def downgrade() -> None:
    """Drop them: the anchors are lost, the log does not give back what it was."""
    op.drop_index("executions_by_run", "executions")
    op.drop_table("anchors")
