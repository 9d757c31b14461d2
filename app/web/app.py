"""The aiohttp application, put together."""

from collections.abc import Callable

from aiohttp import web
from prometheus_client import CollectorRegistry

from app.web.auth import auth_middleware
from app.web.keys import Keys
from app.web.openapi import describe
from app.web.operations import (
    DESCRIPTION,
    READINESS,
    REGISTRY,
    WARNINGS,
    description_bytes,
    guarded,
    healthz,
    metrics,
    readyz,
    watched,
)
from app.web.parts import PARTS, WebParts
from app.web.problems import problems_middleware
from app.web.routes import ROUTES
from app.web.slack import DESK, open_desk


def build_web(parts: WebParts) -> web.Application:
    """The application over its ports; nothing listens before it is run."""
    required = {route.name: route.roles for route in ROUTES}
    keys = Keys(parts.tokens)
    middlewares = [watched(parts.registry), guarded, problems_middleware, auth_middleware(keys, required)]
    application = web.Application(middlewares=middlewares, client_max_size=parts.max_body_bytes)
    application.on_cleanup.append(lambda _: keys.stop())
    application[PARTS] = parts
    application[READINESS], application[REGISTRY] = parts.readiness, parts.registry
    application[WARNINGS] = parts.warnings
    desk = application[DESK] = open_desk(parts)
    if desk is not None:
        application.cleanup_ctx.append(lambda _: desk.connected())
    application[DESCRIPTION] = description_bytes(describe(ROUTES))
    for route in ROUTES:
        application.router.add_route(route.method, route.path, route.handler, name=route.name)
    return application


def build_probes(
    readiness: Callable[[], list[str]], registry: CollectorRegistry, warnings: Callable[[], list[str]]
) -> web.Application:
    """What a worker without an API serves: whether it lives, whether it is ready, and its figures."""
    application = web.Application(middlewares=[watched(registry), guarded])
    application[READINESS], application[REGISTRY], application[WARNINGS] = readiness, registry, warnings
    for path, handler in (("/healthz", healthz), ("/readyz", readyz), ("/metrics", metrics)):
        application.router.add_get(path, handler, name=path.removeprefix("/"))
    return application
