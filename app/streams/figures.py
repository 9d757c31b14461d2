"""The worker's metrics."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

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
            "Matched anomalies that wait until their tenant is less far ahead.",
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


class IndexFigures(Collector):
    """The sizes of the index, counted when somebody asks."""

    def __init__(self, index: ExecutionIndex) -> None:
        """Count this one."""
        self._index = index

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One sample each; the queue by tenant."""
        live, markers = self._index.sizes()
        yield GaugeMetricFamily("runbooks_live_executions", "Executions that have not ended.", live)
        yield GaugeMetricFamily("runbooks_markers", "Ended executions kept for the dedup window.", markers)
        queued = GaugeMetricFamily("runbooks_queued_executions", "Executions that wait for a slot.", labels=["tenant"])
        for tenant, waiting in self._index.queued().items():
            queued.add_metric([tenant], waiting)
        yield queued
