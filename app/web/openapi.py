"""The OpenAPI 3.1 document, made from the route table and the models."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from app import __version__
from app.core.anomaly import Anomaly
from app.core.runbook import Runbook
from app.web.anomalies import MAX_EVENTS
from app.web.answers import ProblemDocument
from app.web.routes import Route

Mode = Literal["validation", "serialization"]
Used = tuple[type[BaseModel], Mode]
REFERENCE = "#/components/schemas/{model}"
ASSIGNED: Mapping[Any, frozenset[str]] = {
    Anomaly: frozenset({"anomaly_id", "timestamp"}),
    Runbook: frozenset({"name"}),
}
"""What is stood in for where a body leaves it out."""


def describe(routes: Iterable[Route]) -> dict[str, Any]:
    """The document."""
    routes = tuple(routes)
    references, definitions = models_json_schema(sorted(set(_used(routes)), key=str), ref_template=REFERENCE)
    schemas: dict[str, Any] = definitions["$defs"]
    _leave_out_nested_mappings(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, references, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "InfraSage Runbooks", "version": __version__},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _leave_out_nested_mappings(value: Any) -> None:
    """OpenAPI maps a tag to one schema; where pydantic's tag leads to another choice, the choices say it all."""
    if isinstance(value, dict):
        found = value.get("discriminator")
        if isinstance(found, dict) and not all(isinstance(one, str) for one in found.get("mapping", {}).values()):
            del value["discriminator"]
        for inner in value.values():
            _leave_out_nested_mappings(inner)
    elif isinstance(value, list):
        for inner in value:
            _leave_out_nested_mappings(inner)


def _used(routes: Iterable[Route]) -> Iterable[Used]:
    yield ProblemDocument, "serialization"
    for route in routes:
        if route.body is not None:
            yield route.body, "validation"
        for model in route.answers.values():
            if model is not None:
                yield model, "serialization"


def _operation(route: Route, references: Mapping[Any, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    answers = {str(status): _answer(status, model, references) for status, model in route.answers.items()}
    problem = references[ProblemDocument, "serialization"]
    answers["default"] = {"description": "A problem.", "content": {"application/problem+json": {"schema": problem}}}
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "parameters": list(_parameters(route)),
        "responses": answers,
    }
    if route.roles:
        operation |= {"security": [{"token": []}], "x-roles": list(route.roles)}
    if route.body is not None:
        schema = _body(route.body, references[route.body, "validation"], schemas)
        optional = not schemas[route.body.__name__].get("required")
        operation["requestBody"] = {"required": not optional, "content": {"application/json": {"schema": schema}}}
    return operation


def _parameters(route: Route) -> Iterable[dict[str, Any]]:
    text = {"type": "string"}
    for part in route.path.split("/"):
        if part.startswith("{"):
            yield {"name": part[1:-1], "in": "path", "required": True, "schema": text}
    for name, schema in route.query.items():
        yield {"name": name, "in": "query", "schema": schema}
    for name in route.headers:
        yield {"name": name, "in": "header", "schema": text}


def _body(model: type[BaseModel], reference: Any, schemas: dict[str, Any]) -> dict[str, Any]:
    """The body's schema: what the API stands in for is not required of it, and anomaly events may come as a list."""
    if model not in ASSIGNED:
        return dict(reference)
    schema = dict(schemas[model.__name__])
    schema["required"] = [name for name in schema["required"] if name not in ASSIGNED[model]]
    schema["properties"] = dict(schema["properties"])
    if model is not Anomaly:
        return schema
    many = {"type": "array", "items": schema, "minItems": 1, "maxItems": MAX_EVENTS}
    wrapped = {"type": "object", "required": ["events"], "properties": {"events": many}, "additionalProperties": False}
    return {"anyOf": [schema, wrapped]}


def _answer(status: int, model: type[BaseModel] | None, references: Mapping[Any, Any]) -> dict[str, Any]:
    if model is None:
        return {"description": f"Answer {status}."}
    schema = references[model, "serialization"]
    return {"description": model.__doc__ or "", "content": {"application/json": {"schema": schema}}}
