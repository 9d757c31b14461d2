"""Traces, where the settings want them: what exports spans, and who tells it of what."""

import contextlib

from app.clients.traces import Traces
from app.core.errors import ConfigurationError
from app.settings import TraceSettings
from app.streams.app import Executors, Parts
from app.streams.tracing import CommandTracing, FoldTracing, MatchTracing
from app.wiring import now


def start_traces(
    stack: contextlib.AsyncExitStack,
    settings: TraceSettings,
    incarnation: str,
    executors: Executors,
    parts: Parts | None = None,
) -> None:
    """Let the agents tell of what they do; what is buffered is sent when the stack unwinds.

    Raises ConfigurationError where traces are wanted and the extra ``otel`` is not installed.
    """
    traces = traces_of(settings, incarnation)
    if traces is None:
        return
    stack.push_async_callback(traces.close)
    tracing = CommandTracing(traces)
    for executor in executors.steps:
        executor.tracing = tracing
    if executors.checker is not None:
        executors.checker.tracing = tracing
    if parts is not None:
        parts.matcher.tracing, parts.advancer.tracing = MatchTracing(traces), FoldTracing(traces)


def traces_of(settings: TraceSettings, incarnation: str) -> Traces | None:
    """What exports spans; None where the settings want none, and nothing of the extra is imported then."""
    if not settings.enabled:
        return None
    try:
        from app.clients.opentelemetry_export import exported
    except ImportError as error:
        said = f"traces need the extra otel (pip install 'infrasage-runbooks[otel]'): {error}"
        raise ConfigurationError(said) from error
    return exported(incarnation, now, to_targets=settings.send_to_targets)
