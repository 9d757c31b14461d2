"""The anomaly event: the public input, lenient where it can be, never silently wrong."""

import contextlib
import itertools
import json
import math
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any, NamedTuple, cast

import orjson
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from app.core.errors import AnomalyRefused, Problem, RecordRefused
from app.core.model import MAX_PROBLEMS, Frozen, Instant, JsonObject, as_text, depth_of, problems_of

MAX_EVENT_BYTES = 256 * 1024
MAX_DEPTH = 32
EPOCH_MS_FROM = 1e11  # above it a number is milliseconds: as seconds it would be past the year 5138
NO_MOMENT = "the time of the record is not in the years 1900 to 8999"
ANOMALY_NAMESPACE = uuid.UUID("6f1d3a1e-1f0a-5c1b-9b7e-2f1f0c7d9a11")

DEFAULT_TENANT = "default"
TENANT_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$"
TenantId = Annotated[str, Field(pattern=TENANT_PATTERN)]
Name = Annotated[str, Field(strict=True, min_length=1, max_length=200)]


def _instant(value: object) -> object:
    """RFC 3339 text with an offset, or epoch seconds or milliseconds; None where a record's time was to stand in."""
    if value is None:
        raise ValueError(f"is needed: {NO_MOMENT}")
    if isinstance(value, bool) or not isinstance(value, str | int | float | datetime):
        raise ValueError("must be an RFC 3339 time or epoch seconds or milliseconds")  # noqa: TRY004 - pydantic wants ValueError
    if isinstance(value, int | float):
        seconds = value / 1000 if abs(value) >= EPOCH_MS_FROM else value
        try:
            return datetime.fromtimestamp(seconds, UTC)
        except (OverflowError, OSError, ValueError) as error:
            raise ValueError("is outside the range of dates") from error
    return value


def _utc(value: datetime) -> datetime:
    return value.astimezone(UTC)


Timestamp = Annotated[Instant, BeforeValidator(_instant), AfterValidator(_utc)]
"""A moment as publishers write it: RFC 3339 with an offset, or epoch seconds or milliseconds; aware UTC here."""


class Anomaly(Frozen):
    """One detected anomaly, as every later stage sees it.

    anomaly_score: 0 to 1, None when the detector gave none. value: the metric's value in the metric's own unit.
    timestamp: when it was seen, aware UTC. Fields not named here are kept and usable in conditions.
    """

    model_config = ConfigDict(frozen=True, extra="allow", allow_inf_nan=False)
    __pydantic_extra__: JsonObject

    anomaly_id: Name
    tenant_id: TenantId = DEFAULT_TENANT
    service_id: Name
    metric_name: Name
    anomaly_score: Annotated[float, Field(strict=True, ge=0, le=1)] | None = None
    value: Annotated[float, Field(strict=True)] | None = None
    timestamp: Timestamp
    severity: Annotated[str, Field(strict=True, max_length=200)] | None = None
    labels: dict[str, Annotated[str, Field(strict=True, max_length=4096)]] = Field(default_factory=dict)

    def variables(self) -> JsonObject:
        """The event as conditions and templates see it; absent fields are left out."""
        return {key: value for key, value in self.model_dump(mode="json").items() if value is not None}


class Position(NamedTuple):
    """Where a record stands: topic, partition, offset, and the record's time, aware; None where that is no moment."""

    topic: str
    partition: int
    offset: int
    timestamp: datetime | None

    def anomaly_id(self) -> str:
        """The id of an event that brings none: UUIDv5 of topic, partition and offset (design §1)."""
        return str(uuid.uuid5(ANOMALY_NAMESPACE, f"{self.topic}/{self.partition}/{self.offset}"))


def read_anomaly(raw: bytes | None, position: Position) -> Anomaly:
    """Read one record of the anomaly topic. The record's time matters only to an event that names none.

    Raises AnomalyRefused with the path of every field that is wrong.
    """
    try:
        body = read_object(raw, MAX_EVENT_BYTES)
    except RecordRefused as error:
        raise AnomalyRefused(error.problems) from error
    is_named = body.get("anomaly_id") is not None  # making an id costs as much as all the rest of the reading
    return anomaly_of(body, anomaly_id="" if is_named else position.anomaly_id(), received_at=position.timestamp)


def object_in(raw: bytes | None) -> dict[str, Any] | None:
    """The JSON object that an anomaly's record holds; None where it holds none, or too much."""
    if raw is None or len(raw) > MAX_EVENT_BYTES:
        return None
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError:
        return None
    return body if isinstance(body, dict) else None


def tenant_in(raw: bytes | None) -> str | None:
    """Whose event a record of the anomaly topic is, as ``read_anomaly`` would say, which costs several times as much.

    None where it cannot be told, as the record will be refused. The rest of the event is not checked.
    """
    body = object_in(raw)
    if body is None:
        return None
    tenant = body.get("tenant_id")
    if tenant is None:
        return DEFAULT_TENANT
    return tenant if isinstance(tenant, str) else None


def anomaly_of(body: dict[str, Any], *, anomaly_id: str, received_at: datetime | None) -> Anomaly:
    """Make the event of a decoded object; anomaly_id and received_at stand in where it names none.

    Raises AnomalyRefused.
    """
    if depth_of(body, MAX_DEPTH) > MAX_DEPTH:
        raise AnomalyRefused([Problem("", f"nested deeper than {MAX_DEPTH}")])
    given = {"anomaly_id": anomaly_id, "timestamp": received_at} | {
        key: value for key, value in body.items() if value is not None
    }
    try:
        return Anomaly.model_validate(given)
    except ValidationError as error:
        raise AnomalyRefused(problems_of(error, cast("type[BaseModel]", Anomaly))) from error


def read_object(raw: bytes | None, limit: int) -> dict[str, Any]:
    """The JSON object in one record of at most limit bytes.

    Raises RecordRefused.
    """
    if raw is None:
        raise RecordRefused([Problem("", "the record has no value")])
    if len(raw) > limit:
        raise RecordRefused([Problem("", f"{len(raw)} bytes, at most {limit} are taken")])
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RecordRefused(list(_why_not_json(raw, error))) from error
    if isinstance(body, list):
        raise RecordRefused([Problem("", "a JSON array in one record; publish one event a record")])
    if not isinstance(body, dict):
        raise RecordRefused([Problem("", "must be a JSON object")])
    return body


def _why_not_json(raw: bytes, error: orjson.JSONDecodeError) -> Iterator[Problem]:
    """NaN and Infinity are not JSON; name the fields that hold them, as the sender's own reader would not."""
    named = False
    with contextlib.suppress(ValueError, RecursionError):
        for path, value in itertools.islice(_not_finite(json.loads(raw)), MAX_PROBLEMS):
            named = True
            yield Problem(as_text(path), f"{value} is not a finite number")
    if not named:
        yield Problem("", f"not JSON: {error}")


def _not_finite(body: object) -> Iterator[tuple[str, float]]:
    """The paths of what is no finite number; what is nested deeper than an event may be is not looked at."""
    waiting: list[tuple[int, str, object]] = [(0, "", body)]
    while waiting:
        depth, path, value = waiting.pop()
        if isinstance(value, float) and not math.isfinite(value):
            yield path, value
        elif isinstance(value, dict) and depth < MAX_DEPTH:
            waiting += [(depth + 1, f"{path}.{key}" if path else key, value[key]) for key in reversed(value)]
        elif isinstance(value, list) and depth < MAX_DEPTH:
            waiting += [(depth + 1, f"{path}[{place}]", value[place]) for place in reversed(range(len(value)))]
