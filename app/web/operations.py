"""What operators and machines ask: alive, ready, figures, description."""

import time
from collections.abc import Callable
from typing import Any

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.web.answers import Alive, Readiness
from app.web.problems import Handler
from app.web.reading import answer

DESCRIPTION: web.AppKey[bytes] = web.AppKey("description", bytes)
READINESS: web.AppKey[Callable[[], list[str]]] = web.AppKey("readiness")
WARNINGS: web.AppKey[Callable[[], list[str]]] = web.AppKey("warnings")
REGISTRY: web.AppKey[CollectorRegistry] = web.AppKey("registry", CollectorRegistry)


async def healthz(_: web.Request) -> web.Response:
    """The process answers."""
    return answer(Alive())


async def readyz(request: web.Request) -> web.Response:
    """Whether the worker can do work, why not, and what somebody should look at."""
    reasons, warnings = request.app[READINESS](), request.app[WARNINGS]()
    if reasons:
        return answer(Readiness(status="not ready", reasons=reasons, warnings=warnings), 503)
    return answer(Readiness(status="ready", reasons=[], warnings=warnings))


async def metrics(request: web.Request) -> web.Response:
    """Prometheus metrics."""
    body = generate_latest(request.app[REGISTRY])
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI document."""
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


def description_bytes(document: dict[str, Any]) -> bytes:
    """The document as it is served."""
    return orjson.dumps(document)


def watched(registry: CollectorRegistry) -> Any:
    """A middleware that counts requests and their time, by route and status; paths that are none count as ``none``."""
    named = ["route", "status"]
    requests = Counter("runbooks_http_requests", "HTTP requests.", named, registry=registry)
    seconds = Histogram("runbooks_http_seconds", "Time to answer.", named, registry=registry)

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.perf_counter()
        response = await handler(request)
        labels = (request.match_info.route.name or "none", str(response.status))
        requests.labels(*labels).inc()
        seconds.labels(*labels).observe(time.perf_counter() - begun)
        return response

    return watch


@web.middleware
async def guarded(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Headers that keep answers out of caches and from being taken for another type."""
    response = await handler(request)
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers.setdefault("Cache-Control", "no-store")
    return response
