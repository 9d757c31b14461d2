"""Questions to the why-not ledger: what was said of an anomaly, and what each runbook came to."""

from collections import Counter
from datetime import datetime, timedelta
from typing import NamedTuple

import orjson
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.core.coverage import RunbookFigures, ShadowRun
from app.core.execution import Execution
from app.history.database import reading
from app.history.schema import EPOCH, EXECUTIONS, MATCH_DECISIONS, microseconds, searchable
from app.history.store import CHUNK

MAX_SHADOW_RUNS = 10_000
MAX_CHECKED = 1_000
MAX_PLACES = 200
_MICROSECOND = timedelta(microseconds=1)
UNANSWERED = ("no_match", "would_request", "would_be_paused")


class Answered(NamedTuple):
    """What one candidate said of an anomaly, and its execution as it stands now; None where there is none yet."""

    runbook_name: str
    runbook_version: int
    result: str
    reason: str
    decided_at: datetime
    service_id: str
    metric_name: str
    execution_id: str | None
    status: str | None
    status_reason: str | None


class Unhandled(NamedTuple):
    """How many anomalies of a service and metric there were that candidates looked at and none took."""

    service_id: str
    metric_name: str
    anomalies: int


class DecisionQueries:
    """Read-only; every question names its tenant, and raises TemporaryError when the database does not answer."""

    def __init__(self, engine: AsyncEngine) -> None:
        """Ask this database."""
        self._engine = engine

    async def of_anomaly(self, tenant: str, anomaly_id: str) -> list[Answered]:
        """What every candidate said when the anomaly came last, by name; empty where none was, or it is forgotten."""
        table = MATCH_DECISIONS.c
        query = (
            sa.select(MATCH_DECISIONS)
            .where(table.tenant == tenant, table.anomaly_id == searchable(anomaly_id))
            .order_by(table.runbook_name)
        )
        async with reading(self._engine) as connection:
            rows = (await connection.execute(query)).all()
            ids = [row.execution_id for row in rows if row.execution_id is not None]
            states = await _latest(connection, tenant, ids)
        found = []
        for row in rows:
            state = states.get(row.execution_id)
            found.append(
                Answered(
                    runbook_name=row.runbook_name,
                    runbook_version=row.runbook_version,
                    result=row.result,
                    reason=row.reason,
                    decided_at=EPOCH + row.decided_us * _MICROSECOND,
                    service_id=row.service_id,
                    metric_name=row.metric_name,
                    execution_id=row.execution_id,
                    status=None if state is None else state.status.value,
                    status_reason=None if state is None else state.reason or None,
                )
            )
        return found

    async def figures(self, tenant: str, since: datetime) -> dict[str, RunbookFigures]:
        """What each runbook came to since then, by name: answers to anomalies, and executions that were no dry runs."""
        answers, runs = MATCH_DECISIONS.c, EXECUTIONS.c
        start = microseconds(since)
        said = (
            sa.select(answers.runbook_name, answers.result, sa.func.count().label("count"))
            .where(answers.tenant == tenant, answers.decided_us >= start)
            .group_by(answers.runbook_name, answers.result)
        )
        ended = (
            sa.select(runs.runbook_name, runs.status, sa.func.count().label("count"))
            .where(runs.tenant == tenant, runs.requested_us >= start, runs.dry_run.is_(False))
            .group_by(runs.runbook_name, runs.status)
        )
        found: dict[str, RunbookFigures] = {}
        async with reading(self._engine) as connection:
            for row in await connection.execute(said):
                found.setdefault(row.runbook_name, RunbookFigures()).answers[row.result] = row[2]
            for row in await connection.execute(ended):
                found.setdefault(row.runbook_name, RunbookFigures()).statuses[row.status] = row[2]
            for name, causes in (await _causes(connection, tenant, start)).items():
                found.setdefault(name, RunbookFigures()).causes.update(causes)
        return found

    async def shadow_runs(self, tenant: str, runbook: str, since: datetime) -> list[ShadowRun]:
        """What a shadow would have begun, the oldest first; at most the last 10,000."""
        table = MATCH_DECISIONS.c
        query = (
            sa.select(table.anomaly_id, table.acts_on, table.decided_us)
            .where(
                table.tenant == tenant,
                table.runbook_name == runbook,
                table.result == "would_request",
                table.decided_us >= microseconds(since),
            )
            .order_by(table.decided_us.desc())
            .limit(MAX_SHADOW_RUNS)
        )
        async with reading(self._engine) as connection:
            rows = (await connection.execute(query)).all()
        return [
            ShadowRun(row.anomaly_id, tuple(orjson.loads(row.acts_on or "[]")), EPOCH + row.decided_us * _MICROSECOND)
            for row in reversed(rows)
        ]

    async def unhandled(self, tenant: str, since: datetime) -> list[Unhandled]:
        """Anomalies that had candidates and started none, by service and metric, the most frequent first."""
        table = MATCH_DECISIONS.c
        taken = sa.func.sum(sa.case((table.result.in_(UNANSWERED), 0), else_=1))
        each = (
            sa.select(table.anomaly_id, table.service_id, table.metric_name)
            .where(table.tenant == tenant, table.decided_us >= microseconds(since))
            .group_by(table.anomaly_id, table.service_id, table.metric_name)
            .having(taken == 0)
            .subquery()
        )
        count = sa.func.count().label("count")
        query = (
            sa.select(each.c.service_id, each.c.metric_name, count)
            .group_by(each.c.service_id, each.c.metric_name)
            .order_by(count.desc(), each.c.service_id, each.c.metric_name)
            .limit(MAX_PLACES)
        )
        async with reading(self._engine) as connection:
            return [Unhandled(*row) for row in await connection.execute(query)]


async def _latest(connection: AsyncConnection, tenant: str, execution_ids: list[str]) -> dict[str, Execution]:
    """The latest runs of these executions."""
    found: dict[str, Execution] = {}
    for start in range(0, len(execution_ids), CHUNK):
        chosen = EXECUTIONS.c.execution_id.in_(execution_ids[start : start + CHUNK])
        query = sa.select(EXECUTIONS.c.state).where(EXECUTIONS.c.tenant == tenant, chosen).order_by(EXECUTIONS.c.run)
        for state in (await connection.execute(query)).scalars():
            execution = Execution.model_validate_json(state)
            found[execution.execution_id] = execution
    return found


async def _causes(connection: AsyncConnection, tenant: str, start: int) -> dict[str, Counter[str]]:
    """Why runs were taken back, by runbook; of the last 1,000."""
    runs = EXECUTIONS.c
    query = (
        sa.select(runs.runbook_name, runs.state)
        .where(
            runs.tenant == tenant,
            runs.requested_us >= start,
            runs.dry_run.is_(False),
            runs.status.in_(("failed", "rolled_back", "rollback_failed")),
        )
        .order_by(runs.requested_us.desc())
        .limit(MAX_CHECKED)
    )
    found: dict[str, Counter[str]] = {}
    for row in await connection.execute(query):
        rollback = Execution.model_validate_json(row.state).rollback
        if rollback is not None:
            found.setdefault(row.runbook_name, Counter())[rollback.cause] += 1
    return found
