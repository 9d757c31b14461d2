"""Which reader of metrics the settings ask for."""

from collections.abc import Callable
from datetime import datetime

from app.actions.metric_reading import MetricReader, PrometheusReader
from app.clients.metric_targets import MetricTargets
from app.clients.network import trust_in
from app.clients.prometheus import MetricServer, PrometheusClient
from app.settings import MetricSettings, Settings
from app.streams.connection import KafkaConnection
from app.streams.figures import Figures
from app.streams.metric_samples import SampleReader


async def metric_reader(
    settings: Settings, connection: KafkaConnection, partitions: int, clock: Callable[[], datetime], figures: Figures
) -> MetricReader:
    """A reader that has begun its work: of the topic of samples where no metric server is named.

    partitions: how many the topic has.
    Raises ConfigurationError when the queries file or the CA file is not as it must be.
    """
    metrics = settings.metrics
    if metrics.url is None and metrics.queries_file is None:
        samples = SampleReader(connection, partitions, metrics.max_age_s, clock, figures)
        await samples.start()
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
