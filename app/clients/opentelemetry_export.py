"""Spans to an OpenTelemetry collector: the extra ``otel``, imported only where traces are exported.

The SDK reads its own settings from the environment (``OTEL_EXPORTER_OTLP_…``, ``OTEL_TRACES_SAMPLER``,
``OTEL_RESOURCE_ATTRIBUTES``, ``OTEL_SERVICE_NAME``, ``OTEL_BSP_…``). It batches, and sends in a thread of its own; what
a collector that is away does not take is dropped.
"""

import asyncio
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_INSTANCE_ID, SERVICE_NAME, SERVICE_VERSION, Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import IdGenerator
from opentelemetry.sdk.trace.sampling import Decision
from opentelemetry.trace import Link, NonRecordingSpan, SpanKind, Status, StatusCode, TraceFlags, set_span_in_context
from opentelemetry.trace import SpanContext as SdkContext

from app import __version__
from app.clients.traces import Traces
from app.core.spans import Span, SpanContext

NAME = "infrasage-runbooks"
UNNAMED = "unknown_service"  # what the SDK calls a service that nobody has named
CLOSE_S = 5.0
KINDS = {one.name.lower(): one for one in SpanKind}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND = timedelta(microseconds=1)


class _GivenIds(IdGenerator):
    """Gives the ids of the span that is being made; spans are made in one thread, one after the other."""

    def __init__(self) -> None:
        self.context = SpanContext(0, 0)

    def generate_trace_id(self) -> int:
        """The id of its trace."""
        return self.context.trace_id

    def generate_span_id(self) -> int:
        """Its own id."""
        return self.context.span_id


def exported(
    instance: str, now: Callable[[], datetime], *, to_targets: bool, processor: SpanProcessor | None = None
) -> Traces:
    """What sends spans; instance names this worker. processor: in place of the exporter, in tests."""
    ids = _GivenIds()
    provider = TracerProvider(resource=_resource(instance), id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(processor or BatchSpanProcessor(OTLPSpanExporter()))
    tracer, sampler = provider.get_tracer(NAME, __version__), provider.sampler

    def tell(span: Span) -> None:
        ids.context = span.context
        made = tracer.start_span(
            span.name,
            Context() if span.parent is None else set_span_in_context(NonRecordingSpan(_sdk(span.parent)), Context()),
            KINDS[span.kind],
            span.attributes,
            None if span.link is None else [Link(_sdk(span.link))],
            _nanoseconds(span.started),
        )
        if span.error is not None:
            made.set_status(Status(StatusCode.ERROR, span.error))
        made.end(_nanoseconds(span.ended))

    def wants(trace_id: int) -> bool:
        return sampler.should_sample(None, trace_id, NAME).decision is Decision.RECORD_AND_SAMPLE

    async def close() -> None:
        """Send what is buffered, for some seconds at most: the SDK's own wait would keep a worker from ending."""
        closing = threading.Thread(target=provider.shutdown, daemon=True)
        closing.start()
        await asyncio.to_thread(closing.join, CLOSE_S)

    return Traces(tell, wants, now, to_targets, close)


def _resource(instance: str) -> Resource:
    found = Resource.create({SERVICE_INSTANCE_ID: instance, SERVICE_VERSION: __version__})
    named = not str(found.attributes[SERVICE_NAME]).startswith(UNNAMED)
    return found if named else found.merge(Resource({SERVICE_NAME: NAME}))


def _sdk(context: SpanContext) -> SdkContext:
    flags = TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT)
    return SdkContext(context.trace_id, context.span_id, is_remote=True, trace_flags=flags)


def _nanoseconds(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND * 1000
