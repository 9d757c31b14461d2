"""Every route: its path, the roles it takes, what it reads and answers. The OpenAPI document is made of it."""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from app.core.anomaly import Anomaly
from app.core.runbook import Runbook
from app.history.items import HistoryItem
from app.web import (
    alertmanager,
    anomalies,
    answers,
    approvals,
    backtests,
    decisions,
    execute,
    executions,
    history,
    operations,
    pauses,
    runbooks,
    slack,
)
from app.web.auth import Role


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    roles: one of them is needed; empty is public. answers: by status, None where there is no JSON body. body: None
    where there is none, or where it is not ours to say. query, headers: by name, the schema.
    """

    method: str
    path: str
    name: str
    roles: tuple[Role, ...]
    handler: Callable[[web.Request], Awaitable[web.Response]]
    answers: Mapping[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: Mapping[str, Any] = field(default_factory=dict)
    headers: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """The handler's first sentence."""
        return (self.handler.__doc__ or "").split("\n", maxsplit=1)[0]


_API = "/api/v1"
_ONE = f"{_API}/executions/{{execution_id}}"
_RUNBOOK = f"{_API}/runbooks/{{name}}"
_PAUSE = f"{_API}/pauses/{{name}}"
_CONDITIONS = ("If-Match", "If-None-Match")
_VIEW: tuple[Role, ...] = ("viewer",)
_OPERATE: tuple[Role, ...] = ("operator",)
_PUBLISH: tuple[Role, ...] = ("publisher",)
_AUTHOR: tuple[Role, ...] = ("author",)

EXECUTIONS = (
    Route(
        "POST",
        f"{_API}/runbooks/execute",
        "execute",
        _OPERATE,
        execute.execute,
        {200: answers.DryRun, 202: answers.Accepted},
        body=execute.ExecuteBody,
        headers=("Idempotency-Key",),
    ),
    Route(
        "GET",
        f"{_API}/runbooks/history",
        "history",
        _VIEW,
        history.history,
        {200: answers.HistoryPage},
        query=history.PARAMETERS,
    ),
    Route("GET", _ONE, "execution", _VIEW, executions.show, {200: answers.ExecutionItem}),
    Route("GET", f"{_ONE}/events", "events", _VIEW, executions.events, {200: answers.EventList}),
    Route("POST", f"{_ONE}/cancel", "cancel", _OPERATE, executions.cancel, {202: HistoryItem}, executions.CancelBody),
    Route(
        "POST",
        f"{_ONE}/rollback",
        "roll_back",
        _OPERATE,
        executions.roll_back,
        {202: HistoryItem},
        executions.RollbackBody,
    ),
    Route(
        "POST",
        f"{_ONE}/approvals",
        "decide",
        ("approver",),
        approvals.decide,
        {200: answers.Decided, 202: answers.DecisionRecorded},
        approvals.ApprovalBody,
    ),
    Route(
        "GET",
        f"{_API}/approvals",
        "approvals",
        ("viewer", "approver"),
        approvals.waiting,
        {200: answers.WaitingList},
        query=approvals.PARAMETERS,
    ),
    Route("POST", "/slack/interactions", "slack_interactions", (), slack.interactions, {200: None}),
    Route(
        "POST", f"{_ONE}/resolve", "resolve", _OPERATE, executions.resolve, {202: HistoryItem}, executions.ResolveBody
    ),
)

DEFINITIONS = (
    Route("GET", f"{_API}/runbooks", "runbooks", _VIEW, runbooks.index, {200: answers.DefinitionList}),
    Route(
        "POST",
        f"{_API}/runbooks/validate",
        "validate",
        ("viewer", "author"),
        runbooks.validate,
        {200: answers.Validation},
        Runbook,
    ),
    Route(
        "POST",
        f"{_API}/runbooks/backtest",
        "backtest",
        ("viewer", "author"),
        backtests.backtest,
        {200: backtests.BacktestReport, 202: backtests.BacktestReport},
        backtests.BacktestBody,
    ),
    Route("GET", _RUNBOOK, "runbook", _VIEW, runbooks.show, {200: answers.DefinitionItem}),
    Route(
        "PUT",
        _RUNBOOK,
        "put_runbook",
        _AUTHOR,
        runbooks.put,
        {200: answers.DefinitionItem, 201: answers.DefinitionItem},
        body=Runbook,
        headers=_CONDITIONS,
    ),
    Route("DELETE", _RUNBOOK, "delete_runbook", _AUTHOR, runbooks.delete, {204: None}, headers=_CONDITIONS),
    Route("GET", f"{_RUNBOOK}/versions", "versions", _VIEW, runbooks.versions, {200: answers.DefinitionList}),
)

PAUSES = (
    Route("GET", f"{_API}/pauses", "pauses", _VIEW, pauses.index, {200: answers.PauseList}),
    Route("PUT", _PAUSE, "pause", _OPERATE, pauses.put, {200: answers.PauseItem}, pauses.PauseBody),
    Route("DELETE", _PAUSE, "resume", _OPERATE, pauses.delete, {204: None}),
)

DECISIONS = (
    Route(
        "GET",
        f"{_API}/anomalies/{{anomaly_id}}/decisions",
        "decisions",
        _VIEW,
        decisions.decisions,
        {200: decisions.AnomalyDecisions},
    ),
    Route(
        "GET",
        f"{_API}/coverage",
        "coverage",
        _VIEW,
        decisions.coverage,
        {200: decisions.Coverage},
        query=decisions.PARAMETERS,
    ),
)

INPUT = (
    Route(
        "POST",
        f"{_API}/anomalies",
        "publish",
        _PUBLISH,
        anomalies.publish,
        {202: answers.PublishedAnomalies},
        Anomaly,
    ),
    Route(
        "POST",
        f"{_API}/webhooks/alertmanager",
        "alertmanager",
        _PUBLISH,
        alertmanager.alertmanager,
        {202: answers.PublishedAlerts},
    ),
)

OPERATIONS = (
    Route("GET", "/healthz", "healthz", (), operations.healthz, {200: answers.Alive}),
    Route("GET", "/readyz", "readyz", (), operations.readyz, {200: answers.Readiness, 503: answers.Readiness}),
    Route("GET", "/metrics", "metrics", (), operations.metrics, {200: None}),
    Route("GET", "/openapi.json", "openapi", (), operations.openapi, {200: None}),
)

ROUTES = (*EXECUTIONS, *DEFINITIONS, *PAUSES, *DECISIONS, *INPUT, *OPERATIONS)
