"""Alertmanager's webhook: firing alerts become anomaly events.

Shape: https://prometheus.io/docs/alerting/latest/configuration/#webhook_config
"""

import logging
from typing import Any

from aiohttp import web

from app.core.errors import AnomalyRefused
from app.core.model import digest
from app.web.anomalies import checked_list, publish_all, read_events
from app.web.answers import PublishedAlerts, told
from app.web.auth import caller_of
from app.web.reading import answer, read_object

logger = logging.getLogger(__name__)


async def alertmanager(request: web.Request) -> web.Response:
    """Take the firing alerts of an Alertmanager webhook; resolved ones are only counted.

    An alert that cannot be taken does not keep the others back: Alertmanager would not send them again.
    """
    body = await read_object(request)
    alerts = checked_list("alerts", body.get("alerts"))
    firing = [(f"alerts[{place}]", one) for place, one in enumerate(alerts) if not _resolved(one)]
    taken, problems = read_events(request, [(path, _event_of(one)) for path, one in firing])
    if problems and not taken:
        raise AnomalyRefused(problems)
    if problems:
        said = [str(problem) for problem in problems]
        logger.warning("alerts_refused", extra={"tenant": caller_of(request).tenant, "problems": said})
    await publish_all(request, taken)
    ids = [anomaly.anomaly_id for anomaly in taken]
    ignored = len(alerts) - len(firing)
    return answer(PublishedAlerts(anomaly_ids=ids, ignored=ignored, problems=told(tuple(problems))), 202)


def _resolved(alert: Any) -> bool:
    return isinstance(alert, dict) and alert.get("status") == "resolved"


def _event_of(alert: Any) -> Any:
    """The event of an alert: service and metric from its labels, the score from a label or annotation, else 1."""
    if not isinstance(alert, dict):
        return alert
    labels, notes = _object(alert.get("labels")), _object(alert.get("annotations"))
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
