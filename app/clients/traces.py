"""Spans on their way out, and the one that a command's own calls hang from; none of the tracing packages is needed."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from urllib.parse import urlsplit

from app.core.commands import Command
from app.core.spans import Span, SpanContext, carried_out, carried_out_span


@dataclass(frozen=True, slots=True)
class Traces:
    """Where spans go; a worker that exports none has none of these.

    tell: takes a span, at once. wants: whether the spans of a trace are exported, by its id. now: aware UTC.
    to_targets: whether http steps send a ``traceparent``. close: sends what is buffered.
    """

    tell: Callable[[Span], None]
    wants: Callable[[int], bool]
    now: Callable[[], datetime]
    to_targets: bool
    close: Callable[[], Awaitable[None]]


@dataclass(slots=True)
class Call:
    """One request to a target; status: of the answer, None while or where there is none."""

    header: str | None
    status: int | None = None


@dataclass(slots=True)
class Attempt:
    """A command that is being carried out; result: what came of it, empty while or where nothing did."""

    traces: Traces
    command: Command
    context: SpanContext
    parent: SpanContext
    started: datetime
    result: str = ""
    _calls: int = field(default=0)

    @classmethod
    def at(cls, traces: Traces, command: Command, parent: SpanContext, *, interrupted: bool) -> "Attempt":
        """Begin now; parent: the span that sent the command."""
        return cls(traces, command, carried_out(command, interrupted=interrupted), parent, traces.now())

    def end(self) -> None:
        """Tell of it; one that came to nothing is another worker's."""
        if self.result:
            now = self.traces.now()
            span = carried_out_span(self.command, self.context, self.parent, self.started, now, self.result)
            self.traces.tell(span)

    @contextlib.contextmanager
    def calling(self, method: str, url: str) -> Iterator[Call]:
        """A call to a target is under way; url: as the runbook has it, of which host and port are told."""
        self._calls += 1
        context = self.context.child(f"{self.command.command_id}/call/{self._calls}")
        call = Call(context.header if self.traces.to_targets else None)
        started = self.traces.now()
        try:
            yield call
        finally:
            attributes: dict[str, str | int | bool] = {"http.request.method": method, **_host_of(url)}
            if call.status is not None:
                attributes["http.response.status_code"] = call.status
            error = "no answer" if call.status is None else str(call.status) if call.status >= 400 else None
            ended = self.traces.now()
            self.traces.tell(Span(method, "client", context, self.context, started, ended, attributes, None, error))


def _host_of(url: str) -> dict[str, str | int]:
    """Host and port of a URL; nothing of one whose host is a secret's name, or none."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        return {}
    if not host or "$" in host:
        return {}
    return {"server.address": host} if port is None else {"server.address": host, "server.port": port}
