"""What has to be known of a log before a backtest: which anomalies it has a request for, and how long runs took."""

import bisect
import hashlib
import statistics
from array import array
from datetime import timedelta
from typing import Any

from app.core.anomaly import Anomaly
from app.core.errors import RecordRefused
from app.core.events import EVENTS, Event, ExecutionRequested
from app.core.execution import Execution, Status
from app.core.lifecycle import evolve
from app.core.model import read_document, validated

MAX_DURATIONS = 10_000
MAX_LIVE = 10_000  # a request told again, after its execution ended, would stay for ever
TIME_BITS = 63
DEFAULT_DURATION = timedelta(seconds=60)


class Survey:
    """Reads one tenant's log for one runbook; 16 bytes are kept of each of its requests: a hash and a time."""

    def __init__(self, tenant: str, runbook: str) -> None:
        """Nothing is read yet."""
        self._tenant = tenant
        self._runbook = runbook
        self._requested = array("Q")
        self._written = array("q")
        self._latest_ms = 0
        self._durations = array("d")
        self._live: dict[str, Execution] = {}
        self.read = 0

    def take(self, value: bytes | None, offset: int, written_ms: int) -> None:
        """One record, in the order of the log, and when it was written; what cannot be read is passed over."""
        self.read += 1
        self._latest_ms = max(self._latest_ms, written_ms)
        named = _named(value)
        if named is None or named.get("tenant") != self._tenant:
            return
        is_request = named.get("type") == "execution_requested"
        mine = is_request and named.get("runbook", {}).get("name") == self._runbook
        if not mine and named.get("execution_id") not in self._live:
            return
        try:
            event = validated(named, EVENTS)
        except RecordRefused:
            return
        anomaly = answered_by(event, self._runbook)
        if anomaly is not None:
            self._requested.append(short_hash(anomaly.anomaly_id))
            self._written.append(self._latest_ms)
        after, refusal = evolve(self._live.get(event.execution_id), event, offset)
        if refusal is None and isinstance(after, Execution):
            self._keep(after)

    def _keep(self, execution: Execution) -> None:
        if not execution.terminal:
            self._live[execution.execution_id] = execution
            if len(self._live) > MAX_LIVE:
                del self._live[next(iter(self._live))]
            return
        self._live.pop(execution.execution_id, None)
        ended, started = execution.finished_at, execution.started_at
        ran = execution.status != Status.skipped and not execution.request.dry_run
        if ran and ended is not None and started is not None and len(self._durations) < MAX_DURATIONS:
            self._durations.append((ended - started).total_seconds())

    def done(self) -> None:
        """All is read: from now on questions are answered."""
        both = sorted(one << TIME_BITS | at for one, at in zip(self._requested, self._written, strict=True))
        self._requested = array("Q", (one >> TIME_BITS for one in both))
        self._written = array("q", (one & ((1 << TIME_BITS) - 1) for one in both))
        self._live.clear()

    def has_request_for(self, anomaly_id: str, since_ms: int) -> bool:
        """Whether the log holds a request of the runbook for this anomaly that does not stand before what came then.

        A request counts as written with the latest record before it: no clock has it read before that.
        """
        if not self._requested:
            return False
        wanted = short_hash(anomaly_id)
        place = bisect.bisect_right(self._requested, wanted) - 1
        return place >= 0 and self._requested[place] == wanted and self._written[place] >= since_ms

    def usual_duration(self) -> timedelta:
        """The median of the recorded runs, from their first step to their end; 60 s when there are none."""
        return timedelta(seconds=statistics.median(self._durations)) if self._durations else DEFAULT_DURATION


def answered_by(event: Event, runbook: str) -> Anomaly | None:
    """The anomaly that an event is a runbook's request for; None where it is none, or one by hand."""
    if not isinstance(event, ExecutionRequested) or event.runbook.name != runbook:
        return None
    return None if event.requested_by is not None else event.anomaly


def short_hash(text: str) -> int:
    """64 bits of a text: among a million, two are the same once in 37 million times."""
    return int.from_bytes(hashlib.blake2b(text.encode(errors="surrogatepass"), digest_size=8).digest())


def _named(value: bytes | None) -> dict[str, Any] | None:
    try:
        decoded = read_document(value)
    except RecordRefused:
        return None
    return decoded if isinstance(decoded, dict) else None
