"""What reads metrics: which reader the settings ask for, and its agents."""

import contextlib
from collections.abc import Callable
from datetime import datetime

from app.actions.metric_reading import MetricReader, PrometheusReader
from app.clients.metric_targets import MetricTargets
from app.clients.network import trust_in
from app.clients.prometheus import MetricServer, PrometheusClient
from app.ending import Ended
from app.settings import MetricSettings, Settings
from app.streams.app import Agents
from app.streams.connection import KafkaConnection
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.metric_checking import MetricChecker
from app.streams.metric_samples import SampleInspector, SampleReader
from app.wiring import now


async def metric_agents(
    stack: contextlib.AsyncExitStack,
    agents: Agents,
    settings: Settings,
    connection: KafkaConnection,
    partitions: int,
    log: Log,
    figures: Figures,
) -> tuple[MetricChecker | None, SampleInspector | None]:
    """What reads metrics, where this worker does; partitions is how many the topic of samples has.

    Samples are inspected whatever is read from: all workers of a group have the same agents, for Faust shares out the
    topics among all of them alike.
    """
    if "metric" not in settings.worker.kinds:
        return None, None
    reader = await metric_reader(settings, connection, partitions, now, figures, agents.fail_with)
    stack.push_async_callback(reader.close)
    checker = MetricChecker(reader, log, now, figures, concurrency=settings.metrics.concurrency)
    return checker, SampleInspector(log, figures)


async def metric_reader(
    settings: Settings,
    connection: KafkaConnection,
    partitions: int,
    clock: Callable[[], datetime],
    figures: Figures,
    ended: Ended,
) -> MetricReader:
    """A reader that has begun its work: of the topic of samples where no metric server is named.

    partitions: how many the topic has. ended: called when the reading of it ends, which only ``close`` may bring about.
    Raises ConfigurationError when the queries file or the CA file is not as it must be.
    """
    metrics = settings.metrics
    if metrics.url is None and metrics.queries_file is None:
        samples = SampleReader(connection, partitions, metrics.max_age_s, clock, figures)
        await samples.start(ended)
        return samples
    targets = MetricTargets(_server(metrics), metrics.queries_file)
    trust = (
        trust_in(settings.network.ca_file)
        if metrics.ca_file is None
        else trust_in(metrics.ca_file, "RUNBOOKS_METRICS__CA_FILE")
    )
    return PrometheusReader(PrometheusClient(trust, metrics.timeout_s), targets, metrics.max_age_s)


def _server(metrics: MetricSettings) -> MetricServer | None:
    """The server of all tenants that have none of their own."""
    if metrics.url is None:
        return None
    return MetricServer(
        url=metrics.url,
        headers={name: value.get_secret_value() for name, value in metrics.headers.items()},
        bearer_token_file=metrics.bearer_token_file,
        username=metrics.username,
        password_file=metrics.password_file,
    )
