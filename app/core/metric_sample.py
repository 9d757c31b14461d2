"""The metric sample: the other public input, what ``rollback_metric_check`` reads where no metric server is named."""

from datetime import datetime, timedelta
from typing import Annotated

from pydantic import ConfigDict, Field, ValidationError

from app.core.anomaly import NO_MOMENT, Name, TenantId, Timestamp, read_object
from app.core.errors import Problem, RecordRefused
from app.core.model import Frozen, problems_of

MAX_SAMPLE_BYTES = 16 * 1024
AHEAD = timedelta(seconds=60)
"""How far a publisher's clock may be ahead: a sample of the future would stay the newest, and fresh, until then."""


class MetricSample(Frozen):
    """One value of one metric of one service.

    value: in the metric's own unit. timestamp: when it was measured, aware UTC. Other fields are not looked at.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    tenant_id: TenantId = "default"
    service_id: Name
    metric_name: Name
    value: Annotated[float, Field(strict=True)]
    timestamp: Timestamp


def read_metric_sample(raw: bytes | None, received_at: datetime | None) -> MetricSample:
    """Read one record of the topic; received_at, the record's time, stands in where it names none.

    None is a time that is no moment: then nobody can say whether the sample is of the future, and it is refused.

    Raises RecordRefused with the path of every field that is wrong.
    """
    body = read_object(raw, MAX_SAMPLE_BYTES)
    given = {"timestamp": received_at} | {key: value for key, value in body.items() if value is not None}
    try:
        sample = MetricSample.model_validate(given)
    except ValidationError as error:
        raise RecordRefused(problems_of(error, MetricSample)) from error
    if received_at is None:
        raise RecordRefused([Problem("timestamp", f"cannot be judged: {NO_MOMENT}")])
    if sample.timestamp > received_at + AHEAD:
        raise RecordRefused([Problem("timestamp", f"is more than {AHEAD.seconds} s ahead of when it was received")])
    return sample
