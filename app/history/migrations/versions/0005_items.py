"""The columns executions.item_offset and executions.item: what a page shows of an execution that has ended.

Revision ID: 0005_items
"""

import sqlalchemy as sa
from alembic import op

revision = "0005_items"
down_revision = "0004_anchors"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Add them, empty: what is shown of a row that has no item is made of its state."""
    op.add_column("executions", sa.Column("item_offset", sa.BigInteger))
    op.add_column("executions", sa.Column("item", sa.Text))


def downgrade() -> None:
    """Drop them: the states give them back."""
    op.drop_column("executions", "item")
    op.drop_column("executions", "item_offset")
