"""Why an anomaly started what it did, and what the runbooks cover."""

from datetime import datetime, timedelta

from aiohttp import web

from app.core.coverage import RunbookFigures, judge_shadow, remarks_on
from app.core.errors import Problem, Refused
from app.history.decisions import Answered
from app.history.items import Shown
from app.web.auth import caller_of
from app.web.parts import DecisionPorts, parts_of
from app.web.problems import ApiProblem
from app.web.reading import answer, instant, read_query

DEFAULT_SPAN = timedelta(days=7)
PARAMETERS = {"since": {"type": "string", "format": "date-time"}}
TOLD = {
    "requested": "matched; its execution is not known yet",
    "paused": "matched, and was not started",
    "no_match": "did not match",
    "would_request": "is a shadow: would have started",
    "would_be_paused": "is a shadow: would have been kept from starting",
}


class RunbookAnswerItem(Shown):
    """What one candidate runbook said. told: the whole answer in words; status: of the execution, as it stands now."""

    runbook_name: str
    runbook_version: int
    result: str
    reason: str
    told: str
    decided_at: datetime
    execution_id: str | None
    status: str | None
    status_reason: str | None


class AnomalyDecisions(Shown):
    """What the candidates said when the anomaly came last."""

    anomaly_id: str
    service_id: str
    metric_name: str
    items: list[RunbookAnswerItem]


class PlaceItem(Shown):
    """Anomalies of one service and metric."""

    service_id: str
    metric_name: str
    anomalies: int


class CoverageItem(Shown):
    """One runbook. answers: to anomalies, by result; runs: by status; shadow: what guards would have said, by guard."""

    runbook_name: str
    runbook_version: int
    mode: str
    answers: dict[str, int]
    runs: dict[str, int]
    shadow: dict[str, int] | None
    remarks: list[str]


class Coverage(Shown):
    """What is covered since then.

    uncovered: anomalies that no runbook is about, uncovered_others of further services and metrics. unhandled: those
    that runbooks are about and none took. complete: whether all anomalies of the period were read.
    """

    since: datetime
    anomalies: int
    complete: bool
    uncovered: list[PlaceItem]
    uncovered_others: int
    unhandled: list[PlaceItem]
    runbooks: list[CoverageItem]


async def decisions(request: web.Request) -> web.Response:
    """Why each runbook that is about the anomaly was started by it, or was not."""
    anomaly_id = request.match_info["anomaly_id"]
    found = await _ports(request).ledger.of_anomaly(caller_of(request).tenant, anomaly_id)
    if not found:
        said = "no runbook is about its service and metric, or it is not known, or too long ago"
        raise ApiProblem(404, f"nothing is kept of the anomaly: {said}")
    items = [RunbookAnswerItem(told=told(one), **_fields(one)) for one in found]
    first = found[0]
    body = AnomalyDecisions(
        anomaly_id=anomaly_id, service_id=first.service_id, metric_name=first.metric_name, items=items
    )
    return answer(body)


def told(one: Answered) -> str:
    """The answer in words: ``skipped: cooldown: execution … is at work``."""
    if one.status is not None:
        return one.status + (f": {one.status_reason}" if one.status_reason else "")
    return TOLD[one.result] + (f": {one.reason}" if one.reason else "")


def _fields(one: Answered) -> dict[str, object]:
    return {name: value for name, value in one._asdict().items() if name not in {"service_id", "metric_name"}}


async def coverage(request: web.Request) -> web.Response:
    """Which anomalies no runbook handles, and which runbooks never fire, are mostly rejected or do not help."""
    parts, ports, tenant = parts_of(request), _ports(request), caller_of(request).tenant
    given = read_query(request, PARAMETERS)
    since = instant("since", given["since"]) if "since" in given else parts.clock() - DEFAULT_SPAN
    if since > parts.clock():
        raise Refused([Problem("since", "must be in the past")])
    uncovered = await ports.reader.uncovered(tenant, since)
    figures = await ports.ledger.figures(tenant, since)
    items = []
    for definition in parts.definitions.catalog.all_of(tenant):
        one = figures.get(definition.name, RunbookFigures())
        shadow = None
        if definition.runbook.mode == "shadow":
            runs = await ports.ledger.shadow_runs(tenant, definition.name, since)
            shadow = dict(judge_shadow(definition.runbook, runs))
        items.append(
            CoverageItem(
                runbook_name=definition.name,
                runbook_version=definition.version,
                mode=definition.runbook.mode,
                answers=dict(one.answers),
                runs=dict(one.statuses),
                shadow=shadow,
                remarks=list(remarks_on(definition.runbook, one)),
            )
        )
    body = Coverage(
        since=since,
        anomalies=uncovered.anomalies,
        complete=uncovered.complete,
        uncovered=[
            PlaceItem(service_id=service, metric_name=metric, anomalies=count)
            for (service, metric), count in uncovered.places.most_common()
        ],
        uncovered_others=uncovered.others,
        unhandled=[PlaceItem.model_validate(one._asdict()) for one in await ports.ledger.unhandled(tenant, since)],
        runbooks=items,
    )
    return answer(body)


def _ports(request: web.Request) -> DecisionPorts:
    ports = parts_of(request).decisions
    if ports is None:
        raise ApiProblem(503, "the ledger cannot be asked here")
    return ports
