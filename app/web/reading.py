"""Reading requests: bodies, whatever content type they claim, and query parameters, closed."""

import asyncio
import difflib
from collections.abc import Collection
from datetime import datetime
from typing import Any, TypeVar

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from app.core.errors import Problem, Refused
from app.core.model import Instant, depth_of, problems_of
from app.core.spans import TRACEPARENT, SpanContext, read_traceparent
from app.web.parts import parts_of
from app.web.problems import ApiProblem

MAX_DEPTH = 40
MAX_MEMBERS = 5000  # naming the nearest known field of each unknown one takes time: a flood of them is not looked at
MAX_VALUE = 200  # characters of a query parameter; a cursor may be longer
MAX_CURSOR = 1000
Model = TypeVar("Model", bound=BaseModel)
_INSTANT: TypeAdapter[datetime] = TypeAdapter(Instant)


class Body(BaseModel):
    """A request's body: closed, strict ("false" is no boolean), finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


async def read_whole(request: web.Request) -> bytes:
    """The body, which has to come within some time, however its bytes are spread over it.

    Raises ApiProblem: 408 where it does not, 400 where the client is gone, which nobody gets to read.
    """
    limit_s = parts_of(request).patience.body_s
    try:
        async with asyncio.timeout(limit_s):
            return await request.read()
    except TimeoutError:
        raise ApiProblem(408, f"the body did not come within {limit_s:g} s", headers={"Connection": "close"}) from None
    except ConnectionResetError:
        raise ApiProblem(400, "the client hung up within the body") from None


async def read_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object; the content type is not looked at (curl -d sends none of JSON's).

    Raises ApiProblem.
    """
    raw = await read_whole(request)
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise ApiProblem(400, f"the body is not JSON: {error}") from error
    if not isinstance(body, dict):
        raise ApiProblem(400, "the body must be a JSON object")
    if depth_of(body, MAX_DEPTH) > MAX_DEPTH:
        raise ApiProblem(400, f"the body is nested deeper than {MAX_DEPTH}")
    return body


async def read_small_object(request: web.Request) -> dict[str, Any]:
    """The body as a JSON object of at most 5,000 members, those of inner objects counted.

    Raises ApiProblem.
    """
    body = await read_object(request)
    if _members(body) > MAX_MEMBERS:
        raise ApiProblem(400, f"the body has more than {MAX_MEMBERS} members")
    return body


async def read_body(request: web.Request, model: type[Model]) -> Model:
    """The body as a model; raises Refused with the paths that are wrong."""
    body = await read_small_object(request)
    try:
        return model.model_validate(body)
    except ValidationError as error:
        raise Refused(problems_of(error, model)) from error


def _members(value: object) -> int:
    count, waiting = 0, [value]
    while waiting and count <= MAX_MEMBERS:
        inner = waiting.pop()
        if isinstance(inner, dict):
            count += len(inner)
            waiting.extend(inner.values())
        elif isinstance(inner, list):
            waiting.extend(inner)
    return count


def read_query(request: web.Request, known: Collection[str]) -> dict[str, str]:
    """The query parameters; raises Refused for one that is not known, stands twice, is too long or no plain text."""
    problems = [_unknown(name, known) for name in request.query if name not in known]
    twice = [name for name in set(request.query) if len(request.query.getall(name)) > 1]
    problems += [Problem(name, "is given more than once") for name in twice]
    problems += [
        Problem(name, "is too long, or no plain text") for name, text in request.query.items() if _odd(name, text)
    ]
    if problems:
        raise Refused(problems)
    return dict(request.query)


def _odd(name: str, text: str) -> bool:
    return len(text) > (MAX_CURSOR if name == "cursor" else MAX_VALUE) or not text.isprintable()


def _unknown(name: str, known: Collection[str]) -> Problem:
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return Problem(name, "unknown query parameter", near[0] if near else None)


def whole_number(name: str, text: str, low: int, high: int) -> int:
    """A whole number within bounds; raises Refused."""
    if not (text.isascii() and text.isdigit() and len(text) < 10 and low <= int(text) <= high):
        raise Refused([Problem(name, f"must be a whole number from {low} to {high}")])
    return int(text)


def truth(name: str, text: str) -> bool:
    """True or false; raises Refused."""
    if text not in {"true", "false"}:
        raise Refused([Problem(name, "must be true or false")])
    return text == "true"


def instant(name: str, text: str) -> datetime:
    """An RFC 3339 time; raises Refused."""
    try:
        return _INSTANT.validate_strings(text)
    except ValidationError as error:
        raise Refused([Problem(name, "must be an RFC 3339 time with an offset, its + written as %2B")]) from error


def came_from(request: web.Request) -> SpanContext | None:
    """The span in which the request was made, where traces are exported and the client tells of one."""
    return read_traceparent(request.headers.get(TRACEPARENT)) if parts_of(request).traced else None


def answer(body: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """A JSON answer; written by pydantic, as orjson refuses the whole numbers over 64 bits that an output may hold."""
    return written_answer(body.model_dump_json(), status, headers)


def written_answer(text: str, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    """An answer that is JSON already."""
    return web.Response(body=text.encode(), status=status, content_type="application/json", headers=headers)
