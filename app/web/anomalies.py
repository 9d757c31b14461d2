"""Anomaly events over HTTP."""

import asyncio
from typing import Any

import orjson
from aiohttp import web

from app.core.anomaly import MAX_EVENT_BYTES, Anomaly, anomaly_of
from app.core.errors import AnomalyRefused, Problem, Refused
from app.web.answers import PublishedAnomalies
from app.web.auth import caller_of
from app.web.parts import parts_of
from app.web.problems import ApiProblem
from app.web.reading import answer, came_from, read_object

MAX_EVENTS = 500


async def publish(request: web.Request) -> web.Response:
    """Take one event, or ``{"events": […]}``; all or none."""
    body = await read_object(request)
    many = set(body) == {"events"}
    given = _checked(body["events"]) if many else [body]
    taken, problems = read_events(
        request, [(f"events[{place}]" if many else "", one) for place, one in enumerate(given)]
    )
    if problems:
        raise AnomalyRefused(problems)
    await publish_all(request, taken)
    return answer(PublishedAnomalies(anomaly_ids=[anomaly.anomaly_id for anomaly in taken]), 202)


def _checked(given: Any) -> list[Any]:
    """A list of 1 to 500 events; raises Refused."""
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_EVENTS:
        raise Refused([Problem("events", f"must be a list of 1 to {MAX_EVENTS}")])
    return given


def read_events(request: web.Request, given: list[tuple[str, Any]]) -> tuple[list[Anomaly], list[Problem]]:
    """The events that can be taken, and what is wrong with the others; each is given with its path in the body.

    Raises ApiProblem with 403 when one names another tenant.
    """
    taken: list[Anomaly] = []
    problems: list[Problem] = []
    for path, one in given:
        try:
            taken.append(_anomaly(request, path, one))
        except AnomalyRefused as error:
            problems += [Problem(_under(path, found.path), found.message, found.nearest) for found in error.problems]
    return taken, problems


def _anomaly(request: web.Request, path: str, given: Any) -> Anomaly:
    parts, caller = parts_of(request), caller_of(request)
    if not isinstance(given, dict):
        raise AnomalyRefused([Problem("", "must be a JSON object")])
    if given.get("tenant_id") not in (None, caller.tenant):
        raise ApiProblem(403, f"{_under(path, 'tenant_id')} is not the token's tenant")
    named = {**given, "tenant_id": caller.tenant}
    anomaly = anomaly_of(named, anomaly_id=parts.new_id(), received_at=parts.clock())
    size = len(_written(anomaly))
    if size > MAX_EVENT_BYTES:
        raise AnomalyRefused([Problem("", f"{size} bytes, at most {MAX_EVENT_BYTES} are taken")])
    return anomaly


def _under(path: str, inner: str) -> str:
    return f"{path}.{inner}" if path and inner else path or inner


async def publish_all(request: web.Request, anomalies: list[Anomaly]) -> None:
    """Publish them at once, each under its service.

    Raises TemporaryError when the broker did not take one of them; others may be published.
    """
    log, context = parts_of(request).log, came_from(request)
    await asyncio.gather(
        *(log.publish_anomaly(_written(anomaly), anomaly.service_id, context) for anomaly in anomalies)
    )


def _written(anomaly: Anomaly) -> bytes:
    return orjson.dumps(anomaly.variables())
