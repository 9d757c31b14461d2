"""Every route: its path, the role it needs, what it takes and gives. The OpenAPI document is made from this table."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from pydantic import BaseModel

from app.core.runbook import Runbook
from app.history.items import HistoryItem
from app.web import anomalies, executions, operations, runbooks


@dataclass(frozen=True, slots=True)
class Route:
    """One route.

    role: None is public. body, answers: models where there are any; answers by status. query: parameter names.
    """

    method: str
    path: str
    name: str
    role: str | None
    handler: Callable[[web.Request], Awaitable[web.Response]]
    answers: dict[int, type[BaseModel] | None]
    body: type[BaseModel] | None = None
    query: tuple[str, ...] = field(default=())

    @property
    def summary(self) -> str:
        """The handler's first sentence."""
        return (self.handler.__doc__ or "").split("\n", maxsplit=1)[0]


_ONE = "/api/v1/executions/{execution_id}"
_RUNBOOK = "/api/v1/runbooks/{name}"
ROUTES: tuple[Route, ...] = (
    Route(
        "POST",
        "/api/v1/runbooks/execute",
        "execute",
        "operator",
        executions.execute,
        {200: HistoryItem, 202: None},
        executions.ExecuteBody,
    ),
    Route(
        "GET",
        "/api/v1/runbooks/history",
        "history",
        "viewer",
        executions.history,
        {200: None},
        query=executions.HISTORY_PARAMETERS,
    ),
    Route("GET", _ONE, "execution", "viewer", executions.show, {200: HistoryItem}),
    Route("POST", f"{_ONE}/cancel", "cancel", "operator", executions.cancel, {202: HistoryItem}, executions.CancelBody),
    Route(
        "POST",
        f"{_ONE}/approvals",
        "decide",
        "approver",
        executions.decide,
        {200: HistoryItem, 202: None},
        executions.ApprovalBody,
    ),
    Route(
        "POST", f"{_ONE}/resolve", "resolve", "operator", executions.resolve, {202: HistoryItem}, executions.ResolveBody
    ),
    Route("GET", "/api/v1/runbooks", "runbooks", "viewer", runbooks.index, {200: None}),
    Route("POST", "/api/v1/runbooks/validate", "validate", "viewer", runbooks.validate, {200: None}, Runbook),
    Route("GET", _RUNBOOK, "runbook", "viewer", runbooks.show, {200: None}),
    Route("PUT", _RUNBOOK, "put_runbook", "author", runbooks.put, {200: None, 201: None}, Runbook),
    Route("DELETE", _RUNBOOK, "delete_runbook", "author", runbooks.delete, {204: None}),
    Route("GET", f"{_RUNBOOK}/versions", "versions", "viewer", runbooks.versions, {200: None}),
    Route("POST", "/api/v1/anomalies", "publish", "publisher", anomalies.publish, {202: None}),
    Route("POST", "/api/v1/webhooks/alertmanager", "alertmanager", "publisher", anomalies.alertmanager, {202: None}),
    Route("GET", "/healthz", "healthz", None, operations.healthz, {200: None}),
    Route("GET", "/readyz", "readyz", None, operations.readyz, {200: None, 503: None}),
    Route("GET", "/metrics", "metrics", None, operations.metrics, {200: None}),
    Route("GET", "/openapi.json", "openapi", None, operations.openapi, {200: None}),
)


def describe(routes: tuple[Route, ...] = ROUTES) -> dict[str, Any]:
    """The OpenAPI 3.1 document of the routes."""
    schemas: dict[str, Any] = {"Problem": _PROBLEM}
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "InfraSage Runbooks", "version": "1"},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


_PROBLEM = {
    "type": "object",
    "required": ["type", "title", "status", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "problems": {"type": "array", "items": {"type": "object"}},
    },
}


def _operation(route: Route, schemas: dict[str, Any]) -> dict[str, Any]:
    named = [part[1:-1] for part in route.path.split("/") if part.startswith("{")]
    parameters = [{"name": one, "in": "path", "required": True, "schema": {"type": "string"}} for one in named]
    parameters += [{"name": one, "in": "query", "schema": {"type": "string"}} for one in route.query]
    answers: dict[str, Any] = {str(status): _answer(model, schemas) for status, model in route.answers.items()}
    answers["default"] = {
        "description": "A problem document.",
        "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": parameters,
        "responses": answers,
    }
    if route.role is not None:
        operation |= {"security": [{"token": []}], "x-role": route.role}
    if route.body is not None:
        operation["requestBody"] = {
            "content": {"application/json": {"schema": _schema(route.body, schemas, "validation")}}
        }
    return operation


def _answer(model: type[BaseModel] | None, schemas: dict[str, Any]) -> dict[str, Any]:
    if model is None:
        return {"description": "Done."}
    return {
        "description": "Done.",
        "content": {"application/json": {"schema": _schema(model, schemas, "serialization")}},
    }


def _schema(model: type[BaseModel], schemas: dict[str, Any], mode: Any) -> dict[str, str]:
    made = model.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
    schemas.update(made.pop("$defs", {}))
    schemas[model.__name__] = made
    return {"$ref": f"#/components/schemas/{model.__name__}"}
