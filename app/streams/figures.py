"""The worker's metrics."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from app.core.approval import NoticeKind
from app.core.commands import STEP_KINDS
from app.core.execution import TERMINAL
from app.core.step_state import RollbackCause
from app.streams.backlog import Backlog, Reader
from app.streams.index import ExecutionIndex


class Figures:
    """What a worker counts; one instance a registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register all of them."""
        self.anomalies = Counter(
            "runbooks_anomalies", "Anomaly events read, by what became of them.", ["result"], registry=registry
        )
        self.held = Gauge(
            "runbooks_anomalies_held",
            "Anomalies that wait until their tenant is less far ahead.",
            registry=registry,
        )
        self.events = Counter(
            "runbooks_execution_events",
            "Records of the log folded, by type and effect.",
            ["type", "effect"],
            registry=registry,
        )
        self.executions = Counter(
            "runbooks_executions", "Executions that ended, by status.", ["status"], registry=registry
        )
        self.verdicts = Counter(
            "runbooks_start_verdicts", "What the guards said of requests.", ["effect", "guard"], registry=registry
        )
        self.rollbacks = Counter(
            "runbooks_rollbacks", "Rollbacks that ended, by cause and status.", ["cause", "status"], registry=registry
        )
        self.commands = Counter(
            "runbooks_commands",
            "Commands taken by the executors, by kind and what was done.",
            ["kind", "result"],
            registry=registry,
        )
        self.step_seconds = Histogram(
            "runbooks_step_seconds", "From taking a command to telling the log its end.", ["kind"], registry=registry
        )
        self.unknown_outcomes = Counter(
            "runbooks_unknown_outcomes",
            "Attempts whose outcome is unknown, by kind of step and by why: the lease ended, or the executor said so.",
            ["kind", "reason"],
            registry=registry,
        )
        self.dead_letters = Counter(
            "runbooks_dead_letters", "Records put aside, by topic.", ["topic"], registry=registry
        )
        self.metric_readings = Counter(
            "runbooks_metric_readings",
            "Readings of metrics for rollback_metric_check, by source and by what came of them.",
            ["source", "result"],
            registry=registry,
        )
        self.metric_samples = Counter(
            "runbooks_metric_samples",
            "Records of metric-samples read by this worker, by what became of them.",
            ["result"],
            registry=registry,
        )
        self.approval_messages = Counter(
            "runbooks_approval_messages",
            "Messages about approvals, by kind and by whether they were delivered.",
            ["kind", "result"],
            registry=registry,
        )
        self.in_flight = Gauge("runbooks_steps_in_flight", "Steps being carried out.", ["kind"], registry=registry)
        self._begin_at_nought()

    def _begin_at_nought(self) -> None:
        """What alerts watch is there from the start: Prometheus sees no rise from nothing to 1."""
        for kind, reason in product(STEP_KINDS, ("said", "lease_ended")):
            self.unknown_outcomes.labels(kind, reason)
        for kind, result in product(get_args(NoticeKind), ("failed", "unknown")):
            self.approval_messages.labels(kind, result)
        for cause in get_args(RollbackCause):
            self.rollbacks.labels(cause, "failed")
        for status in sorted(TERMINAL):
            self.executions.labels(status)
        self.verdicts.labels("skip", "circuit_breaker")


class IndexFigures(Collector):
    """The sizes of the index and the ages of what waits, counted when somebody asks."""

    def __init__(self, index: ExecutionIndex, markers: Callable[[], int], clock: Callable[[], datetime]) -> None:
        """Count this one; markers says how many there are."""
        self._index = index
        self._markers = markers
        self._clock = clock

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One sample each; what waits by tenant."""
        found, now = self._index.survey(), self._clock()
        yield GaugeMetricFamily("runbooks_live_executions", "Executions that have not ended.", found.live)
        yield GaugeMetricFamily("runbooks_markers", "Ended executions kept for the dedup window.", self._markers())
        yield _by("tenant", "runbooks_queued_executions", "Executions that wait for a slot.", self._index.queued())
        yield _by(
            "tenant",
            "runbooks_oldest_queued_seconds",
            "Since the request of what has waited longest for its start.",
            {tenant: _seconds(now, at) for tenant, at in self._index.oldest_queued().items()},
        )
        yield _by(
            "tenant",
            "runbooks_attention_executions",
            "Executions that wait for a person's word about an unknown outcome.",
            found.attention,
        )
        yield _by(
            "tenant",
            "runbooks_waiting_approvals",
            "Executions that wait for an approval.",
            {tenant: len(asked) for tenant, asked in found.asked.items()},
        )
        yield _by(
            "tenant",
            "runbooks_oldest_approval_seconds",
            "Since what has waited longest for its approval was asked for.",
            {tenant: _seconds(now, min(asked)) for tenant, asked in found.asked.items()},
        )


class LagFigures(Collector):
    """How far this worker is behind in the partitions that it reads, and the dead letters, counted when asked."""

    def __init__(self, backlog: Backlog, consumer: Reader, projectors: Iterable[Reader] = ()) -> None:
        """Of the streams' consumer and of the projectors."""
        self._backlog = backlog
        self._consumer = consumer
        self._projectors = tuple(projectors)

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One sample a topic; none where the broker did not say how far the topic goes."""
        lags = self._backlog.lags(self._consumer)
        projected = {topic: lag for one in self._projectors for topic, lag in self._backlog.lags(one).items()}
        yield _by(
            "topic",
            "runbooks_consumer_lag_events",
            "Records of this worker's partitions that are not done with.",
            {topic: lag.events for topic, lag in lags.items()},
        )
        yield _by(
            "topic",
            "runbooks_projector_lag_events",
            "Records of the projector's partitions that are not in the database.",
            {topic: lag.events for topic, lag in projected.items()},
        )
        yield _by(
            "topic",
            "runbooks_projector_lag_seconds",
            "How long the database has not been level with the topic, at most.",
            {topic: lag.seconds for topic, lag in projected.items()},
        )
        waiting = self._backlog.waiting_letters()
        letters = GaugeMetricFamily("runbooks_dead_letters_waiting", "Dead letters that nobody has requeued.")
        if waiting is not None:
            letters.add_metric([], waiting)
        yield letters


def _by(label: str, name: str, what: str, values: Mapping[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, what, labels=[label])
    for value in sorted(values):
        family.add_metric([value], values[value])
    return family


def _seconds(now: datetime, since: datetime) -> float:
    return max(0.0, (now - since).total_seconds())
