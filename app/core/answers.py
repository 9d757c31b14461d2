"""The why-not ledger: for each anomaly the answer of every runbook that was a candidate for it.

A candidate is a runbook whose trigger names the anomaly's service and metric, or any. An anomaly without candidates is
not in it: it is counted in a metric only, so that a flood of anomalies about nothing of ours costs nothing here.
What an execution's guards said later stands in its own log, under the id that the answer names.
"""

from collections.abc import Iterable
from typing import Annotated, Literal

import orjson
from pydantic import Field, TypeAdapter

from app.core.anomaly import Name, TenantId
from app.core.model import Frozen, Instant, read_document, validated
from app.core.runbook import RunbookName

MAX_REASON = 1024

Result = Literal["requested", "paused", "no_match", "would_request", "would_be_paused"]
"""requested: the log has a request of execution_id, and tells what became of it. would_…: of a shadow."""


class RunbookAnswer(Frozen):
    """What one candidate said.

    reason: the clause that failed, or who paused it. keys: what a shadow would act on: its targets, else its service.
    """

    runbook: RunbookName
    version: Annotated[int, Field(ge=1)]
    result: Result
    reason: Annotated[str, Field(max_length=MAX_REASON)] = ""
    execution_id: str | None = None
    keys: tuple[str, ...] = ()


class Answered(Frozen):
    """What the candidates said of one anomaly."""

    anomaly_id: Name
    service_id: Name
    metric_name: Name
    at: Instant
    answers: Annotated[tuple[RunbookAnswer, ...], Field(min_length=1)]


class AnomalyAnswered(Answered):
    """A record of ``match-decisions`` as it was when each anomaly had one of its own: it is read, and not written."""

    type: Literal["anomaly_answered"] = "anomaly_answered"
    tenant: TenantId


class AnomaliesAnswered(Frozen):
    """One record of the topic ``match-decisions``: anomalies of one tenant that were answered in the same moment."""

    type: Literal["anomalies_answered"] = "anomalies_answered"
    tenant: TenantId
    anomalies: Annotated[tuple[Answered, ...], Field(min_length=1)]


OLD_RECORDS: TypeAdapter[AnomalyAnswered] = TypeAdapter(AnomalyAnswered)
RECORDS: TypeAdapter[AnomaliesAnswered] = TypeAdapter(AnomaliesAnswered)
MATCH_DECISIONS: TypeAdapter[AnomaliesAnswered | AnomalyAnswered] = TypeAdapter(AnomaliesAnswered | AnomalyAnswered)


def write_answered(answered: Answered) -> bytes:
    """Its part of a record, what is empty left out; by hand, as every anomaly that has candidates pays for it."""
    return orjson.dumps(
        {
            "anomaly_id": answered.anomaly_id,
            "service_id": answered.service_id,
            "metric_name": answered.metric_name,
            "at": answered.at,
            "answers": [_written(one) for one in answered.answers],
        }
    )


def write_answers(tenant: str, parts: Iterable[bytes]) -> bytes:
    """A record of such parts, at least one."""
    anomalies = [*map(orjson.Fragment, parts)]
    return orjson.dumps({"type": "anomalies_answered", "tenant": tenant, "anomalies": anomalies})


def _written(one: RunbookAnswer) -> dict[str, object]:
    record: dict[str, object] = {"runbook": one.runbook, "version": one.version, "result": one.result}
    if one.reason:
        record["reason"] = one.reason
    if one.execution_id is not None:
        record["execution_id"] = one.execution_id
    if one.keys:
        record["keys"] = one.keys
    return record


def read_answers(raw: bytes | None) -> AnomaliesAnswered:
    """Read one record of the topic, of either form.

    Raises RecordRefused.
    """
    body = read_document(raw)
    if isinstance(body, dict) and body.get("type") == "anomalies_answered":
        record: AnomaliesAnswered = validated(body, RECORDS)
        return record
    one: AnomalyAnswered = validated(body, OLD_RECORDS)
    return AnomaliesAnswered(tenant=one.tenant, anomalies=(one,))


def shortened(reason: str) -> str:
    """A reason as it is kept: a long one is cut, and says so."""
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
