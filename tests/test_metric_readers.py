import asyncio
import contextlib

import pytest
from prometheus_client import CollectorRegistry
from pydantic import ValidationError

from app.actions.metric_reading import PrometheusReader
from app.core.errors import ConfigurationError
from app.metric_readers import metric_agents, metric_reader
from app.settings import MetricSettings, Settings
from app.streams.app import Agents, StreamSettings, build_app
from app.streams.connection import KafkaConnection
from app.streams.figures import Figures
from app.streams.metric_samples import SampleReader
from app.wiring import now

NOWHERE = KafkaConnection("127.0.0.1:1")


async def read_by(**fields):
    settings = Settings(metrics=MetricSettings(**fields))
    reader = await metric_reader(settings, NOWHERE, 1, now, Figures(CollectorRegistry()), pytest.fail)
    await reader.close()
    return reader


async def test_a_server_is_asked_where_one_is_named_and_the_topic_read_where_none_is(tmp_path):
    file = tmp_path / "queries.yaml"
    file.write_text("tenants: {acme: {url: 'http://acme'}}")
    assert isinstance(await read_by(), SampleReader)
    assert isinstance(await read_by(url="http://prometheus:9090"), PrometheusReader)
    assert isinstance(await read_by(queries_file=file), PrometheusReader)


async def test_a_reading_of_the_topic_that_ends_by_an_error_is_the_end_of_the_worker(tmp_path):
    figures, unreadable = Figures(CollectorRegistry()), KafkaConnection("127.0.0.1:port")
    agents = Agents(build_app(NOWHERE, StreamSettings("g", tmp_path)))
    async with contextlib.AsyncExitStack() as stack:
        await metric_agents(stack, agents, Settings(), unreadable, 1, None, figures)
        async with asyncio.timeout(10):
            assert "'port'" in str(await agents.failure)


async def test_a_mistake_in_a_file_is_told_before_anything_is_read(tmp_path):
    file = tmp_path / "file"
    file.write_text("query: 'sum('")
    with pytest.raises(ConfigurationError, match=r"file: query\.query: a \( is not closed"):
        await read_by(queries_file=file)
    with pytest.raises(ConfigurationError, match=r"RUNBOOKS_METRICS__CA_FILE: .*file holds no PEM"):
        await read_by(url="http://prometheus:9090", ca_file=file)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"url": "prometheus:9090"}, "should match pattern"),
        ({"url": "http://ann:secret@prometheus"}, "should match pattern"),
        ({"url": "http://p", "username": "ann"}, "username and password_file are needed together"),
        (
            {"url": "http://p", "username": "ann", "password_file": "p", "bearer_token_file": "t"},
            "bearer_token_file and username exclude each other",
        ),
        ({"headers": {"X-Scope-OrgID": "acme"}}, "set RUNBOOKS_METRICS__URL"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields, said):
    with pytest.raises(ValidationError, match=said):
        MetricSettings(**fields)


def test_they_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("RUNBOOKS_METRICS__URL", "https://mimir.example/prometheus")
    monkeypatch.setenv("RUNBOOKS_METRICS__HEADERS", '{"X-Scope-OrgID": "acme"}')
    metrics = Settings().metrics
    assert metrics.url == "https://mimir.example/prometheus"
    assert metrics.headers["X-Scope-OrgID"].get_secret_value() == "acme"
