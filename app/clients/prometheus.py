"""The HTTP API of Prometheus, as VictoriaMetrics, Thanos and Mimir speak it too: instant queries.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

import ssl
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import BaseModel, Field, JsonValue, TypeAdapter, ValidationError

from app.clients.http import HttpAnswer, HttpClient
from app.clients.network import NetworkPolicy
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

MAX_SAID = 500
BUSY = {429, 500, 502, 503, 504}


@dataclass(frozen=True, slots=True)
class MetricServer:
    """Where a metric server is, and how to be let in.

    url: the base, with any prefix before ``/api/v1``. bearer_token_file, password_file: read for every request, so that
    a token that was replaced is used.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    bearer_token_file: Path | None = None
    username: str | None = None
    password_file: Path | None = None


class Series(NamedTuple):
    """One series of an answer: its value, and the time beside it: of the query, or of the sample in a range."""

    labels: Mapping[str, str]
    value: float
    at: datetime


class Answer(NamedTuple):
    """What a query gave.

    raw: the series are samples as they were measured. doubt: why some may be missing, empty when none are.
    """

    series: tuple[Series, ...]
    raw: bool
    doubt: str


Point = tuple[float, str]


class _Vector(BaseModel):
    metric: dict[str, str] = {}
    value: Point


class _Range(BaseModel):
    metric: dict[str, str] = {}
    values: Annotated[tuple[Point, ...], Field(min_length=1)]


class _VectorData(BaseModel):
    resultType: Literal["vector"]  # noqa: N815 - the API's name
    result: tuple[_Vector, ...]


class _MatrixData(BaseModel):
    resultType: Literal["matrix"]  # noqa: N815
    result: tuple[_Range, ...]


class _ScalarData(BaseModel):
    resultType: Literal["scalar"]  # noqa: N815
    result: Point


class _Success(BaseModel):
    status: Literal["success"]
    data: Annotated[_VectorData | _MatrixData | _ScalarData, Field(discriminator="resultType")]
    warnings: tuple[str, ...] | None = None
    isPartial: bool = False  # noqa: N815 - VictoriaMetrics: some of its storage nodes did not answer


_SUCCESS: TypeAdapter[_Success] = TypeAdapter(_Success)


class PrometheusClient:
    """Asks metric servers.

    The operator configured their addresses, so loopback and private ones are reached whatever http steps may reach;
    link-local and metadata addresses are not. Redirects are not followed, and proxies of the environment not used.
    """

    def __init__(self, trust: ssl.SSLContext | None = None, timeout_s: float = 10.0) -> None:
        """Nothing connects yet; trust None is the system's, timeout_s is for one query."""
        self._http = HttpClient(NetworkPolicy(allow_loopback=True, allow_private=True), trust=trust)
        self._timeout_s = timeout_s

    async def close(self) -> None:
        """Close the session."""
        await self._http.close()

    async def query(self, server: MetricServer, query: str, at: datetime) -> Answer:
        """What the query gives at that time.

        Raises PermanentError or TemporaryError: reading again does no harm, so an answer that was lost is temporary.
        """
        secrets = _secrets_of(server)
        form = {
            "query": query,
            "time": f"{at.timestamp():.3f}",
            "timeout": f"{self._timeout_s:g}",
            "nocache": "1",  # VictoriaMetrics otherwise answers with what was there 30 s ago; others do not look at it
        }
        try:
            answer = await self._http.request(
                "POST",
                server.url.rstrip("/") + "/api/v1/query",
                headers={**server.headers, **_authorization(server, secrets), "Accept": "application/json"},
                form=form,
                timeout_s=self._timeout_s,
            )
        except OutcomeUnknown as error:
            raise TemporaryError(str(error)) from error
        return _read(answer, secrets, at)


def _secrets_of(server: MetricServer) -> tuple[str, ...]:
    paths = [path for path in (server.bearer_token_file, server.password_file) if path is not None]
    try:
        return tuple(path.read_text(encoding="utf-8").strip() for path in paths)
    except (OSError, UnicodeDecodeError) as error:
        raise PermanentError(f"the credentials of the metric server cannot be read: {type(error).__name__}") from error


def _authorization(server: MetricServer, secrets: tuple[str, ...]) -> dict[str, str]:
    if not secrets:
        return {}
    if server.bearer_token_file is not None:
        return {"Authorization": f"Bearer {secrets[0]}"}
    return {"Authorization": "Basic " + b64encode(f"{server.username}:{secrets[0]}".encode()).decode()}


def _read(answer: HttpAnswer, secrets: Sequence[str], at: datetime) -> Answer:
    """The series of an answer; raises what it says otherwise."""
    body = answer.body
    if answer.status != 200:
        said = _said(body, secrets)
        message = f"the metric server answered {answer.status}" + (f": {said}" if said else "")
        if answer.status in BUSY:
            raise TemporaryError(message, answer.retry_after_s(at))
        raise PermanentError(message)
    if answer.truncated:
        raise PermanentError("the metric server's answer is larger than 64 KiB: aggregate the query")
    if isinstance(body, dict) and body.get("status") == "error":
        raise PermanentError(f"the metric server refuses the query: {_said(body, secrets)}")
    try:
        return _answer_of(_SUCCESS.validate_python(body))
    except ValidationError as error:
        raise PermanentError(_why_not_read(body)) from error
    except (OverflowError, OSError, ValueError) as error:
        raise PermanentError("the metric server's answer holds a value that is no number or no time") from error


def _said(body: JsonValue, secrets: Sequence[str]) -> str:
    """The error in an answer, without what let us in; nothing of an answer that is not the API's own."""
    said = body.get("error") if isinstance(body, dict) else None
    if not isinstance(said, str):
        return ""
    for secret in secrets:
        said = said.replace(secret, "***") if secret else said
    return " ".join(said.split())[:MAX_SAID]


def _why_not_read(body: JsonValue) -> str:
    data = body.get("data") if isinstance(body, dict) else None
    if isinstance(data, dict) and data.get("resultType") == "string":
        return "the query gives a text, not a number"
    if isinstance(data, dict) and any("histogram" in str(key) for one in _items(data.get("result")) for key in one):
        return "the query gives a histogram, not a number: use histogram_quantile"
    return "what answered is not the API of a metric server: check its url"


def _items(result: JsonValue) -> list[dict[str, Any]]:
    return [one for one in result if isinstance(one, dict)] if isinstance(result, list) else []


def _answer_of(success: _Success) -> Answer:
    doubts = list(success.warnings or ()) + (["a part of the storage did not answer"] if success.isPartial else [])
    doubt = f"the answer may not be complete: {' '.join('; '.join(doubts).split())}"[:MAX_SAID] if doubts else ""
    match success.data:
        case _VectorData(result=found):
            return Answer(tuple(_series(one.metric, one.value) for one in found), raw=False, doubt=doubt)
        case _MatrixData(result=ranges):
            return Answer(tuple(_series(one.metric, one.values[-1]) for one in ranges), raw=True, doubt=doubt)
        case _ScalarData(result=point):
            return Answer((_series({}, point),), raw=False, doubt=doubt)


def _series(labels: dict[str, str], point: Point) -> Series:
    return Series(labels, float(point[1]), datetime.fromtimestamp(point[0], UTC))
