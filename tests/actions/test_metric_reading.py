"""Readings from a real Prometheus and a real VictoriaMetrics, whose exporter's values the tests move."""

import uuid
from datetime import UTC, datetime, timedelta

import pytest
import yaml
from metric_servers import MetricServer as Server
from waiting import until

from app.actions.metric_reading import PrometheusReader
from app.clients.metric_targets import MetricTargets
from app.clients.prometheus import MetricServer, PrometheusClient
from app.core.commands import MetricCommand
from app.core.runbook import MetricCheck

EARLIER = timedelta(seconds=30)


@pytest.fixture(params=["prometheus", "victoria_metrics"])
def server(request) -> Server:
    return request.getfixturevalue(request.param)


@pytest.fixture
def service():
    return f"service-{uuid.uuid4().hex[:8]}"


@pytest.fixture
async def client():
    client = PrometheusClient(timeout_s=5.0)
    yield client
    await client.close()


class Bench:
    """A reader towards the server; pauses holds what it waited between attempts."""

    def __init__(self, client, url, service, folder) -> None:
        self.client, self.url, self.service, self.folder = client, url, service, folder
        self.pauses = []

    def reader(self, max_age_s=60.0, **content) -> PrometheusReader:
        file = self.folder / "queries.yaml"
        file.write_text(yaml.safe_dump(content))

        async def pause(seconds):
            self.pauses.append(seconds)

        return PrometheusReader(self.client, MetricTargets(MetricServer(self.url), file), max_age_s, pause)

    def command(self, metric="cpu", not_before=None, service=None, **check):
        bounds = check or {"rollback_if_value_exceeds": 90}
        return MetricCommand(
            command_id="e/1/1/metric/1",
            tenant="default",
            execution_id="e",
            run=1,
            attempt=1,
            check=MetricCheck(metric_name=metric, check_after_minutes=1, **bounds),
            service_id=self.service if service is None else service,
            not_before=not_before,
        )

    async def read(self, query=None, **command):
        reader = self.reader(**({"query": query} if isinstance(query, str) else query or {}))
        return await reader.read(self.command(**command), datetime.now(UTC))

    async def becomes(self, result, query=None, **command):
        """The first reading with this result."""

        async def is_so():
            reading = await self.read(query, **command)
            return reading if reading.result == result else None

        return await until(is_so)


@pytest.fixture
def bench(client, server, service, tmp_path):
    return Bench(client, server.url, service, tmp_path)


async def test_the_value_is_read_as_it_moves(bench, server, exporter, service):
    exporter.set(service, cpu=50)
    await exporter.scraped(server.kind)
    assert await bench.becomes("value") == (50, "", "value")
    exporter.set(service, cpu=95.5)
    moved = datetime.now(UTC)
    assert await bench.becomes("value", not_before=moved) == (95.5, "", "value")


async def test_what_was_measured_before_the_last_step_is_no_data(bench, server, exporter, service):
    exporter.set(service, cpu=50)
    await exporter.scraped(server.kind)
    await bench.becomes("value")
    now = datetime.now(UTC)
    stale = await bench.read(not_before=now)
    assert (stale.value, stale.result) == (None, "stale")
    assert "the newest was measured at" in stale.detail
    assert (await bench.becomes("value", not_before=now)).value == 50


async def test_a_series_that_is_gone_is_no_data(bench, server, exporter, service):
    exporter.set(service, cpu=50)
    await exporter.scraped(server.kind)
    await bench.becomes("value")
    del exporter.values[f'cpu{{service_id="{service}"}}']
    gone = await bench.becomes("no_data")
    assert gone == (None, "nothing was measured", "no_data")


async def test_of_several_series_the_worst_counts(bench, server, exporter, service):
    for pod, value in (("a", 20), ("b", 95), ("c", 60)):
        exporter.values[f'cpu{{service_id="{service}",pod="{pod}"}}'] = value
    await exporter.scraped(server.kind)

    async def all_three():
        reading = await bench.read()
        return reading if "3 series" in reading.detail else None

    assert await until(all_three) == (95, "the worst of 3 series", "value")
    assert (await bench.read(rollback_if_value_below=10)).value == 20
    assert (await bench.read("max({{ metric_name }}{service_id='{{ service_id }}'}) - 1")).value == 94


async def test_what_is_no_number_is_no_data(bench, server, exporter, service):
    exporter.set(service, cpu="NaN", memory="+Inf", there=1)
    await exporter.scraped(server.kind)
    await bench.becomes("value", metric="there")
    nan, infinite = await bench.read(), await bench.read(metric="memory")
    assert infinite == (None, "the value is +inf", "unclear")
    if server.kind == "prometheus":
        assert nan == (None, "the value is NaN", "unclear")
    else:  # VictoriaMetrics leaves such series out
        assert nan.value is None


@pytest.mark.parametrize(
    ("query", "value", "said"),
    [
        ("vector(7)", 7, ""),
        ("7", 7, ""),
        ("vector(7) > 8", None, "nothing was measured"),
        ("no_such_function({{ metric_name }})", None, "the metric server"),
        ("{{ metric_name }} {{ metric_name }}", None, "the metric server"),
    ],
)
async def test_other_queries_and_those_that_only_look_like_one(bench, query, value, said):
    reading = await bench.read(query)
    assert reading.value == value
    assert reading.detail.startswith(said)
    assert bench.pauses == []


async def test_a_text_is_no_data(bench, server):
    reading = await bench.read('"text"')
    assert reading.value is None
    assert server.kind != "prometheus" or reading.detail == "the query gives a text, not a number"


async def test_a_range_is_judged_by_its_last_samples_with_their_own_times(bench, server, exporter, service):
    exporter.set(service, cpu=50)
    await exporter.scraped(server.kind)
    query = '{{ metric_name }}{service_id="{{ service_id }}"}[1m]'
    assert await bench.becomes("value", query) == (50, "", "value")
    assert (await bench.read(query, not_before=datetime.now(UTC))).result == "stale"


async def test_when_it_was_measured_can_be_asked_for_beside_the_query(bench, server, exporter, service):
    exporter.set(service, cpu=50)
    await exporter.scraped(server.kind)
    await bench.becomes("value")
    selector = '{{ metric_name }}{service_id="{{ service_id }}"}'
    query = {"query": {"query": f"sum({selector})", "measured_at": f"min(timestamp({selector}))"}}
    assert (await bench.read(query, not_before=datetime.now(UTC) - EARLIER)).value == 50
    assert (await bench.read(query, not_before=datetime.now(UTC))).result == "stale"
    nothing = {"query": {"query": f"sum({selector})", "measured_at": "min(timestamp(nothing))"}}
    assert (await bench.read(nothing)).result == "stale"


HOSTILE = [
    '"} or vector(0) or x{a="',
    "a\\",
    "it's\n{{ metric_name }}",
    ".*",
    "tab\tü 😀 �",
    "a}b # c",
]


async def test_whatever_a_service_is_called_it_asks_for_that_very_service(bench, server, exporter, service):
    names = [service + hostile for hostile in HOSTILE]
    written = [name.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") for name in names]
    regex = '{{ metric_name }}{service_id=~"{{ service_id }}"}'
    exporter.set(service + "other", cpu=99)
    for number, name in enumerate(written):
        exporter.set(name, cpu=number)
    await exporter.scraped(server.kind)
    for number, name in enumerate(names):
        assert (await bench.becomes("value", service=name)).value == number
        assert (await bench.becomes("value", regex, service=name)).value == number
    for name in written:
        del exporter.values[f'cpu{{service_id="{name}"}}']
    for name in names:
        assert (await bench.becomes("no_data", service=name)).value is None
        assert (await bench.becomes("no_data", regex, service=name)).value is None
    assert (await bench.read(service=service + "other")).value == 99


async def test_names_that_cannot_be_asked_about_are_no_data(bench):
    no_name = await bench.read(metric="cpu usage")
    assert no_name.result == "error"
    assert "'cpu usage' is no metric's name in PromQL" in no_name.detail
    assert "there is no service_id" in (await bench.read(service="")).detail


async def test_a_server_that_is_away_is_asked_three_times(bench, unused_tcp_port):
    bench.url = f"http://127.0.0.1:{unused_tcp_port}"
    reading = await bench.read()
    assert (reading.value, reading.result) == (None, "error")
    assert "not connected" in reading.detail
    assert bench.pauses == [0.5, 1.0]


async def test_a_tenant_without_a_server_is_told_so(client, service, tmp_path):
    bench = Bench(client, "http://127.0.0.1:1", service, tmp_path)
    reader = PrometheusReader(client, MetricTargets(None), 60.0)
    reading = await reader.read(bench.command(), datetime.now(UTC))
    assert "the tenant default has no metric server" in reading.detail
