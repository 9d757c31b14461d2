"""Errors as problem documents (RFC 9457)."""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from app.core.errors import Problem, RecordTooLarge, Refused, TemporaryError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RETRY_AFTER_S = 2
MAX_PROBLEMS = 50
MAX_DETAIL = 2000  # characters: problems may quote what was sent
MEDIA_TYPE = "application/problem+json"
logger = logging.getLogger(__name__)


class ApiProblem(Exception):
    """An answer that is a refusal.

    problems: what is wrong with the input, each with its path; at most 50 are told. A 503 says when to try again.
    """

    def __init__(
        self, status: int, detail: str, *, problems: Iterable[Problem] = (), headers: dict[str, str] | None = None
    ) -> None:
        """Keep the parts."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = tuple(problems)
        later = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
        self.headers = later | (headers or {})

    def response(self) -> web.Response:
        """The document."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": _shortened(self.detail),
        }
        if self.problems:
            document["problems"] = [problem_item(one) for one in self.problems[:MAX_PROBLEMS]]
        body = orjson.dumps(document)
        return web.Response(body=body, status=self.status, content_type=MEDIA_TYPE, headers=self.headers)


def problem_item(problem: Problem) -> dict[str, str | None]:
    """One problem as it is told."""
    return {"path": _shortened(problem.path), "message": _shortened(problem.message), "nearest": problem.nearest}


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_DETAIL else f"{text[:MAX_DETAIL]} …"


def _refused(error: Refused) -> ApiProblem:
    told = "; ".join(str(problem) for problem in error.problems[:MAX_PROBLEMS])
    more = len(error.problems) - MAX_PROBLEMS
    return ApiProblem(400, f"{told}; and {more} more" if more > 0 else told, problems=error.problems)


def _later(error: TemporaryError) -> ApiProblem:
    """What did not answer may still have taken the record: only a request with an id of its own is safe to repeat."""
    delay_s = RETRY_AFTER_S if error.delay_s is None else math.ceil(error.delay_s)
    detail = "what this needs does not answer now: try again (what starts something, with its Idempotency-Key or id)"
    return ApiProblem(503, detail, headers={"Retry-After": str(delay_s)})


@web.middleware
async def problems_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document; what nobody foresaw is logged and tells the client nothing."""
    try:
        return await handler(request)
    except ApiProblem as problem:
        return problem.response()
    except Refused as error:
        return _refused(error).response()
    except TemporaryError as error:
        logger.warning("request_not_taken", extra={"error": str(error)})
        return _later(error).response()
    except RecordTooLarge as error:
        return ApiProblem(413, f"what this asks for cannot be recorded: {error}").response()
    except web.RequestPayloadError:
        return ApiProblem(400, "the body is cut off, or not what its Content-Encoding says").response()
    except web.HTTPRequestEntityTooLarge:
        return ApiProblem(413, "the body is larger than this API takes").response()
    except web.HTTPException as error:
        return _of_router(request, error).response()
    except Exception:
        logger.exception("request_broke", extra={"route": str(request.match_info.route.name)})
        return ApiProblem(500, "something broke that should not; the log has the details").response()


def _of_router(request: web.Request, error: web.HTTPException) -> ApiProblem:
    kept = {name: value for name, value in error.headers.items() if name == "Allow"}
    match error.status:
        case HTTPStatus.NOT_FOUND:
            return ApiProblem(404, "there is nothing at this path")
        case HTTPStatus.METHOD_NOT_ALLOWED:
            return ApiProblem(405, f"this path does not take {request.method}", headers=kept)
        case _:
            return ApiProblem(error.status, HTTPStatus(error.status).phrase, headers=kept)
