"""Backtests over the API: bounded, so that an answer comes, and says where it had to stop."""

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from app.core.backtest_report import Question
from app.core.errors import Problem, Refused
from app.core.model import Instant, JsonObject
from app.core.runbook import read_runbook
from app.history.items import Shown
from app.web.auth import caller_of
from app.web.parts import parts_of
from app.web.problems import ApiProblem
from app.web.reading import Body, answer, read_body

DEFAULT_SPAN = timedelta(days=1)
AWARE = Annotated[Instant, Field(strict=False)]


class BacktestBody(Body):
    """The definition, and the period: since is a day ago where it is not given, until is now.

    assume_seconds: how long a run lasts that the log does not have; None takes the median of those that it has.
    everything: also list what does not differ.
    """

    runbook: JsonObject
    since: AWARE | None = None
    until: AWARE | None = None
    assume_seconds: Annotated[float, Field(ge=0, le=7 * 24 * 3600)] | None = None
    everything: bool = False


class AnswerItem(Shown):
    """What would become of an anomaly, or became; guard: what blocks it or wants the approval."""

    result: Literal["runs", "asks", "plans", "blocked", "no_match", "repeated", "nothing", "unknown"]
    guard: str | None
    reason: str


class DecisionItem(Shown):
    """One anomaly, as it would be answered and as it was."""

    anomaly_id: str
    service_id: str
    metric_name: str
    at: datetime
    execution_id: str | None
    would: AnswerItem
    did: AnswerItem
    waits_for: str | None


class CountItem(Shown):
    """How many anomalies would be answered so, and were answered so."""

    would: str
    did: str
    anomalies: int


class ReasonItem(Shown):
    """How many anomalies would not simply start it, by why."""

    reason: str
    anomalies: int


class BacktestReport(Shown):
    """Differences first, then the others where they are asked for, at most 1,000 of each.

    complete: false where it had to stop, at read_until.
    """

    differences: list[DecisionItem]
    others: list[DecisionItem]
    differing: int
    same: int
    unknown: int
    decided: int
    would_first_wait: int
    counts: list[CountItem]
    reasons: list[ReasonItem]
    complete: bool
    read_until: datetime | None
    version_in_force: int | None
    same_as_in_force: bool
    assumed_seconds: float
    assumed_runs: int
    anomalies_read: int
    anomalies_refused: int
    events_read: int


async def backtest(request: web.Request) -> web.Response:
    """What a definition would have done with the recorded anomalies; 202 with what is known when it had to stop."""
    parts, caller = parts_of(request), caller_of(request)
    body = await read_body(request, BacktestBody)
    content: dict[str, Any] = dict(body.runbook)
    if content.pop("tenant", None) not in {None, caller.tenant}:
        raise Refused([Problem("runbook.tenant", f"must be '{caller.tenant}' as in the token, or be left out")])
    since = body.since or parts.clock() - DEFAULT_SPAN
    if body.until is not None and body.until <= since:
        raise Refused([Problem("until", "must be later than since")])
    if parts.backtests is None:
        raise ApiProblem(503, "no backtests can be run here")
    question = Question(
        tenant=caller.tenant,
        runbook=read_runbook(content),
        since=since,
        until=body.until,
        everything=body.everything,
        assume=None if body.assume_seconds is None else timedelta(seconds=body.assume_seconds),
    )
    report = BacktestReport.model_validate(await parts.backtests.bounded(question))
    return answer(report, 200 if report.complete else 202)
