"""The tables: one row a run of an execution, and how far each partition of the log has been folded.

Times are microseconds since the epoch, so that they order and compare the same on every database. The column
``state`` is the truth; the others are for finding it. ``waits_until_us`` is the deadline of the request for approval
that waits, NULL where none does. ``item`` is what a page shows of an execution that has ended, as JSON; it counts where
``item_offset`` is ``last_offset``. Elsewhere a page makes it of the state: while an execution goes on, and where the
row was last written by a version that knew of no items.
"""

from datetime import UTC, datetime

import sqlalchemy as sa

METADATA = sa.MetaData()
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MAX_SEARCHED = 200  # characters: three such columns still fit into an index entry of PostgreSQL (2704 bytes)
MAX_BIGINT = 2**63 - 1
DAY_S = 24 * 60 * 60

EXECUTIONS = sa.Table(
    "executions",
    METADATA,
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
    sa.Column("waits_until_us", sa.BigInteger),
    sa.Column("last_offset", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("item_offset", sa.BigInteger),
    sa.Column("item", sa.Text),
    sa.Index("executions_by_time", "tenant", "requested_us", "execution_id", "run"),
    sa.Index("executions_by_service", "tenant", "service_id", "requested_us", "execution_id", "run"),
    sa.Index("executions_by_runbook", "tenant", "runbook_name", "requested_us", "execution_id", "run"),
    sa.Index("executions_by_status", "tenant", "status", "requested_us", "execution_id", "run"),
    sa.Index("executions_live", "partition", "terminal"),
    sa.Index("executions_waiting", "tenant", "waits_until_us", "execution_id", "run"),
    sa.Index("executions_by_run", "partition", "run", "execution_id"),
)

ANCHORS = sa.Table(
    "anchors",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("first_offset", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
    sa.Column("head", sa.LargeBinary, nullable=False),
    sa.Column("digests", sa.LargeBinary, nullable=False),
)

MATCH_DECISIONS = sa.Table(
    "match_decisions",
    METADATA,
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
    sa.Index("match_decisions_by_runbook", "tenant", "runbook_name", "result", "decided_us"),
    sa.Index("match_decisions_by_age", "decided_us"),
)
"""What each candidate said of an anomaly when it came last; acts_on is a JSON list, of a shadow only."""

OFFSETS = sa.Table(
    "offsets",
    METADATA,
    sa.Column("topic", sa.Text, primary_key=True),
    sa.Column("partition", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("next_offset", sa.BigInteger, nullable=False),
)


def microseconds(moment: datetime) -> int:
    """A moment as microseconds since the epoch."""
    since = moment - EPOCH
    return (since.days * DAY_S + since.seconds) * 1_000_000 + since.microseconds


def searchable(text: str) -> str:
    """A text as it stands in a searched column: PostgreSQL takes no NUL, and no index takes any length."""
    return text[:MAX_SEARCHED].replace("\x00", "\ufffd")
