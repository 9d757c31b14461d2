"""What operators and machines ask: alive, ready, figures, description."""

import time

import orjson
from aiohttp import web
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from app.web.parts import parts_of
from app.web.problems import Handler
from app.web.reading import answer

DESCRIPTION: web.AppKey[bytes] = web.AppKey("description", bytes)


async def healthz(_: web.Request) -> web.Response:
    """The process answers."""
    return answer({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Whether the worker can do work, and why not."""
    reasons = parts_of(request).readiness()
    return answer({"status": "not ready" if reasons else "ready", "reasons": reasons}, 503 if reasons else 200)


async def metrics(request: web.Request) -> web.Response:
    """Prometheus metrics."""
    body = generate_latest(parts_of(request).registry)
    return web.Response(body=body, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})


async def openapi(request: web.Request) -> web.Response:
    """The OpenAPI document."""
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


def description_bytes(document: dict[str, object]) -> bytes:
    """The document as it is served."""
    return orjson.dumps(document)


def watched(registry: CollectorRegistry) -> object:
    """A middleware that counts requests and their time by route."""
    requests = Counter("runbooks_http_requests", "HTTP requests.", ["route", "status"], registry=registry)
    seconds = Histogram("runbooks_http_seconds", "Time to answer.", ["route"], registry=registry)

    @web.middleware
    async def watch(request: web.Request, handler: Handler) -> web.StreamResponse:
        begun = time.perf_counter()
        response = await handler(request)
        route = request.match_info.route.name or "none"
        requests.labels(route, str(response.status)).inc()
        seconds.labels(route).observe(time.perf_counter() - begun)
        response.headers.setdefault("X-Content-Type-Options", "nosniff")
        response.headers.setdefault("Cache-Control", "no-store")
        return response

    return watch
