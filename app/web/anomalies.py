"""Anomaly events over HTTP: ours, and Alertmanager's."""

import asyncio
from typing import Any

import orjson
from aiohttp import web

from app.core.anomaly import Anomaly, anomaly_of
from app.core.errors import AnomalyRefused, Problem, Refused
from app.web.auth import caller_of
from app.web.parts import parts_of
from app.web.problems import ApiProblem
from app.web.reading import answer, read_object

MAX_EVENTS = 500


async def publish(request: web.Request) -> web.Response:
    """Take one event, or ``{"events": […]}``; all or none."""
    body = await read_object(request)
    given = body["events"] if set(body) == {"events"} else [body]
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_EVENTS:
        raise Refused([Problem("events", f"must be a list of 1 to {MAX_EVENTS} events")])
    anomalies = [
        _anomaly(request, one, f"events[{place}]." if "events" in body else "") for place, one in enumerate(given)
    ]
    await _publish(request, anomalies)
    return answer({"anomaly_ids": [anomaly.anomaly_id for anomaly in anomalies]}, 202)


async def alertmanager(request: web.Request) -> web.Response:
    """Take the firing alerts of an Alertmanager webhook; resolved ones are only counted."""
    body = await read_object(request)
    alerts = body.get("alerts")
    if not isinstance(alerts, list) or not all(isinstance(alert, dict) for alert in alerts):
        raise Refused([Problem("alerts", "must be a list of alerts")])
    firing = [alert for alert in alerts if alert.get("status") == "firing"]
    anomalies = [_anomaly(request, _of_alert(alert), f"alerts[{place}].") for place, alert in enumerate(firing)]
    await _publish(request, anomalies)
    ids = [anomaly.anomaly_id for anomaly in anomalies]
    return answer({"anomaly_ids": ids, "ignored": len(alerts) - len(firing)}, 202)


def _anomaly(request: web.Request, given: Any, where: str) -> Anomaly:
    parts, caller = parts_of(request), caller_of(request)
    if not isinstance(given, dict):
        raise AnomalyRefused([Problem(where.rstrip("."), "must be a JSON object")])
    if given.get("tenant_id", caller.tenant) != caller.tenant:
        raise ApiProblem(403, f"{where}tenant_id is not the token's tenant")
    try:
        return anomaly_of({**given, "tenant_id": caller.tenant}, anomaly_id=parts.new_id(), received_at=parts.clock())
    except AnomalyRefused as error:
        raise AnomalyRefused([Problem(where + one.path, one.message, one.nearest) for one in error.problems]) from error


async def _publish(request: web.Request, anomalies: list[Anomaly]) -> None:
    log = parts_of(request).log
    await asyncio.gather(
        *(log.publish_anomaly(orjson.dumps(anomaly.variables()), anomaly.service_id) for anomaly in anomalies)
    )


def _of_alert(alert: dict[str, Any]) -> dict[str, Any]:
    """The event of an alert: service and metric from its labels, the score from a label or annotation, else 1."""
    labels = alert.get("labels") if isinstance(alert.get("labels"), dict) else {}
    notes = alert.get("annotations") if isinstance(alert.get("annotations"), dict) else {}
    assert isinstance(labels, dict)
    assert isinstance(notes, dict)
    service = labels.get("service_id") or labels.get("service") or labels.get("job")
    event = {
        "anomaly_id": f"{alert.get('fingerprint')}/{alert.get('startsAt')}",
        "service_id": service,
        "metric_name": labels.get("metric_name") or labels.get("alertname"),
        "anomaly_score": _number(labels.get("anomaly_score", notes.get("anomaly_score", 1.0))),
        "value": _number(notes.get("value")),
        "timestamp": alert.get("startsAt"),
        "severity": labels.get("severity"),
        "labels": labels,
        "annotations": notes,
    }
    return {name: value for name, value in event.items() if value is not None}


def _number(value: object) -> object:
    """Labels are text: a number in one is read; anything else is left for the event's own rules to refuse."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
