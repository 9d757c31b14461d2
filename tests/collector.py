"""An OpenTelemetry collector's OTLP/HTTP door, and what came through it."""

import gzip
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from aiohttp import web
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from waiting import until


class Told(NamedTuple):
    """One span as a collector has it; ids in hex, parent empty for none, times in nanoseconds."""

    name: str
    kind: int
    trace: str
    id: str
    parent: str
    started: int
    ended: int
    links: tuple[tuple[str, str], ...]
    error: str
    attributes: dict
    resource: dict


class Collector:
    """Keeps all spans; refuses as long as it is told to."""

    def __init__(self) -> None:
        self.spans: list[Told] = []
        self.headers: list[dict] = []
        self.is_away = False
        self.url = ""

    async def take(self, request: web.Request) -> web.Response:
        if self.is_away:
            return web.Response(status=503)
        raw = await request.read()
        if request.headers.get("Content-Encoding") == "gzip" and raw[:2] == b"\x1f\x8b":
            raw = gzip.decompress(raw)
        self.headers.append(dict(request.headers))
        for resource_spans in ExportTraceServiceRequest.FromString(raw).resource_spans:
            resource = _plain(resource_spans.resource.attributes)
            for scope in resource_spans.scope_spans:
                self.spans += [_told(span, resource) for span in scope.spans]
        return web.Response(
            body=ExportTraceServiceResponse().SerializeToString(), content_type="application/x-protobuf"
        )

    async def spans_of(self, trace: str, names: set[str]) -> list[Told]:
        """The spans of a trace, once it has some of each of these names."""

        async def all_there():
            mine = [span for span in self.spans if span.trace == trace]
            return mine if names <= {span.name for span in mine} else None

        return await until(all_there, 30)


def _told(span, resource: dict) -> Told:
    return Told(
        name=span.name,
        kind=span.kind,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        started=span.start_time_unix_nano,
        ended=span.end_time_unix_nano,
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        error=span.status.message if span.status.code == 2 else "",
        attributes=_plain(span.attributes),
        resource=resource,
    )


def _plain(attributes) -> dict:
    return {one.key: getattr(one.value, one.value.WhichOneof("value")) for one in attributes}


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    collector = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.take)
    runner = web.AppRunner(application)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    collector.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield collector
    finally:
        await runner.cleanup()
