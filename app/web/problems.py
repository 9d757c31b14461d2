"""Errors as problem documents (RFC 9457)."""

import logging
from collections.abc import Awaitable, Callable, Iterable
from http import HTTPStatus
from typing import Any

import orjson
from aiohttp import web

from app.core.errors import Problem, Refused, TemporaryError

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
RETRY_AFTER_S = 2
MEDIA_TYPE = "application/problem+json"
logger = logging.getLogger(__name__)


class ApiProblem(Exception):
    """An answer that is a refusal.

    problems: what is wrong with the input, each with its path.
    """

    def __init__(
        self, status: int, detail: str, *, problems: Iterable[Problem] = (), headers: dict[str, str] | None = None
    ) -> None:
        """Keep the parts."""
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.problems = tuple(problems)
        self.headers = headers or {}

    def response(self) -> web.Response:
        """The document."""
        document: dict[str, Any] = {
            "type": "about:blank",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
        }
        if self.problems:
            document["problems"] = [
                {"path": one.path, "message": one.message, "nearest": one.nearest} for one in self.problems
            ]
        body = orjson.dumps(document)
        return web.Response(body=body, status=self.status, content_type=MEDIA_TYPE, headers=self.headers)


def refused(error: Refused, status: int = 400) -> ApiProblem:
    """The answer to input that is not taken."""
    return ApiProblem(status, str(error), problems=error.problems)


@web.middleware
async def problems_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turn every error into a problem document; what nobody foresaw is logged and tells the client nothing."""
    try:
        return await handler(request)
    except ApiProblem as problem:
        return problem.response()
    except Refused as error:
        return refused(error).response()
    except TemporaryError as error:
        logger.warning("request_not_taken", extra={"error": str(error)})
        later = {"Retry-After": str(RETRY_AFTER_S)}
        return ApiProblem(503, "Kafka does not answer: nothing was recorded, try again", headers=later).response()
    except web.HTTPRequestEntityTooLarge:
        return ApiProblem(413, "the body is larger than this API takes").response()
    except web.HTTPException as error:
        kept = {name: value for name, value in error.headers.items() if name == "Allow"}
        return ApiProblem(error.status, error.reason, headers=kept).response()
    except Exception:
        logger.exception("request_broke", extra={"route": str(request.rel_url.path)})
        return ApiProblem(500, "something broke that should not; the log has the details").response()
