"""The why-not ledger: one record an anomaly, with the answer of every runbook that was a candidate for it.

A candidate is a runbook whose trigger names the anomaly's service and metric, or any. An anomaly without candidates has
no record: it is counted in a metric only, so that a flood of anomalies about nothing of ours costs nothing here.
What an execution's guards said later stands in its own log, under the id that the answer names.
"""

from typing import Annotated, Literal

import orjson
from pydantic import Field, ValidationError

from app.core.anomaly import Name, TenantId
from app.core.errors import Problem, RecordRefused
from app.core.model import Frozen, Instant
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


class AnomalyAnswered(Frozen):
    """One record of the topic ``match-decisions``."""

    type: Literal["anomaly_answered"] = "anomaly_answered"
    tenant: TenantId
    anomaly_id: Name
    service_id: Name
    metric_name: Name
    at: Instant
    answers: Annotated[tuple[RunbookAnswer, ...], Field(min_length=1)]


def write_answers(answered: AnomalyAnswered) -> bytes:
    """As it stands on the topic, what is empty left out; by hand, as every anomaly that has candidates pays for it."""
    record = {
        "tenant": answered.tenant,
        "anomaly_id": answered.anomaly_id,
        "service_id": answered.service_id,
        "metric_name": answered.metric_name,
        "at": answered.at,
        "answers": [_written(one) for one in answered.answers],
    }
    return orjson.dumps(record)


def _written(one: RunbookAnswer) -> dict[str, object]:
    record: dict[str, object] = {"runbook": one.runbook, "version": one.version, "result": one.result}
    if one.reason:
        record["reason"] = one.reason
    if one.execution_id is not None:
        record["execution_id"] = one.execution_id
    if one.keys:
        record["keys"] = one.keys
    return record


def read_answers(raw: bytes | None) -> AnomalyAnswered:
    """Read one record of the topic.

    Raises RecordRefused.
    """
    try:
        return AnomalyAnswered.model_validate(orjson.loads(raw or b""))
    except orjson.JSONDecodeError as error:
        raise RecordRefused([Problem("", f"not JSON: {error}")]) from error
    except ValidationError as error:
        details = error.errors(include_url=False)
        raise RecordRefused([Problem(".".join(map(str, one["loc"])), one["msg"]) for one in details]) from error


def shortened(reason: str) -> str:
    """A reason as it is kept: a long one is cut, and says so."""
    return reason if len(reason) <= MAX_REASON else reason[: MAX_REASON - 1] + "…"
