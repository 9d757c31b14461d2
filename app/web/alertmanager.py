"""Alertmanager's webhook: firing alerts become anomaly events.

Shape: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

import asyncio
import logging
from typing import Any

from aiohttp import web

from app.core.errors import AnomalyRefused, Problem, Refused
from app.core.model import digest
from app.web.anomalies import MAX_EVENTS, publish_all, read_events
from app.web.answers import PublishedAlerts, told
from app.web.auth import caller_of
from app.web.problems import MAX_PROBLEMS
from app.web.reading import answer, read_object

logger = logging.getLogger(__name__)


async def alertmanager(request: web.Request) -> web.Response:
    """Take the firing alerts of an Alertmanager webhook, however many fit into a body; resolved ones are only counted.

    An alert that cannot be taken does not keep the others back: Alertmanager would not send them again.
    """
    body = await read_object(request)
    alerts = body.get("alerts")
    if not isinstance(alerts, list) or not alerts:
        raise Refused([Problem("alerts", "must be a list of at least one")])
    firing = [place for place, one in enumerate(alerts) if not _resolved(one)]
    ids, problems = await _publish(request, alerts, firing)
    if problems and not ids:
        raise AnomalyRefused(problems)
    if problems:
        said = [str(problem) for problem in problems]
        extra = {"tenant": caller_of(request).tenant, "refused": len(firing) - len(ids), "problems": said}
        logger.warning("alerts_refused", extra=extra)
    ignored = len(alerts) - len(firing)
    return answer(PublishedAlerts(anomaly_ids=ids, ignored=ignored, problems=told(tuple(problems))), 202)


async def _publish(request: web.Request, alerts: list[Any], firing: list[int]) -> tuple[list[str], list[Problem]]:
    """The ids of those at these places that were published, and the first problems with the others.

    So many at a time as one call may publish, for the sake of the calls beside this one and of the producer's buffer.
    """
    ids: list[str] = []
    problems: list[Problem] = []
    for begin in range(0, len(firing), MAX_EVENTS):
        given = [(f"alerts[{place}]", alerts[place]) for place in firing[begin : begin + MAX_EVENTS]]
        # A body holds hundreds of thousands of nothings: they are not looked at as closely as events are.
        bare = [Problem(path, "must be an object with labels") for path, one in given if not _has_labels(one)]
        taken, wrong = read_events(request, [(path, _event_of(one)) for path, one in given if _has_labels(one)])
        problems += (bare + wrong)[: MAX_PROBLEMS - len(problems)]
        await publish_all(request, taken)
        ids += [anomaly.anomaly_id for anomaly in taken]
        await asyncio.sleep(0)  # publishing none gives nobody a turn
    return ids, problems


def _resolved(alert: Any) -> bool:
    return isinstance(alert, dict) and alert.get("status") == "resolved"


def _has_labels(alert: Any) -> bool:
    """Whether it is an alert at all: Alertmanager has none without labels, for they tell alerts apart."""
    return isinstance(alert, dict) and bool(_object(alert.get("labels")))


def _event_of(alert: dict[str, Any]) -> dict[str, Any]:
    """The event of an alert: service and metric from its labels, the score from a label or annotation, else 1."""
    labels, notes = alert["labels"], _object(alert.get("annotations"))
    event = {
        "anomaly_id": _stable_id(alert, labels),
        "service_id": labels.get("service_id") or labels.get("service") or labels.get("job"),
        "metric_name": labels.get("metric_name") or labels.get("alertname"),
        "anomaly_score": _number(labels.get("anomaly_score", notes.get("anomaly_score", 1.0))),
        "value": _number(notes.get("value")),
        "timestamp": alert.get("startsAt"),
        "severity": labels.get("severity"),
        "labels": labels,
        "annotations": notes,
    }
    return {name: value for name, value in event.items() if value is not None}


def _stable_id(alert: dict[str, Any], labels: dict[str, Any]) -> str:
    """The same for every notification of one alert: Alertmanager repeats them while it fires."""
    return f"{alert.get('fingerprint') or digest(labels)}/{alert.get('startsAt')}"


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _number(value: object) -> object:
    """Labels are text: a number in one is read; anything else is left for the event's own rules to refuse."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value
