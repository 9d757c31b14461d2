"""``rollback_metric_check`` through the real worker, with a real Prometheus and with the topic of samples."""

import asyncio
import contextlib

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from metric_servers import running_metric_server
from waiting import until

SERVICE = "payment-api"
SCALE = {
    "type": "kubernetes",
    "action": "scale",
    "namespace": "production",
    "deployment": "payment-api",
    "replicas": 5,
}
CHECK = {
    "metric_name": "cpu",
    "check_after_minutes": 0.04,
    "interval_seconds": 0.5,
    "rollback_if_value_exceeds": 90,
}


@pytest.fixture
def metrics() -> dict[str, str]:
    """The worker's settings of metrics; none read the topic."""
    return {}


@pytest.fixture
def environment(environment, metrics):
    return environment | metrics


@pytest.fixture
async def act():
    """A server that does what a test wants when the runbook's last step calls it: ``act.does``; at ``act.url``."""

    class Act:
        def __init__(self):
            self.url, self.does = "", lambda: None

        async def answer(self, _request):
            self.does()
            return web.json_response({})

    act = Act()
    application = web.Application()
    application.router.add_post("/", act.answer)
    async with TestServer(application) as server:
        act.url = str(server.make_url("/"))
        yield act


@pytest.fixture
def start(worker, api, publish, act):
    """Start runbooks whose last step acts and that are checked; each check's fields by the runbook's name."""

    async def run(*before, **checks):
        steps = [*before, {"type": "http", "method": "POST", "url": act.url}]
        for name, check in checks.items():
            trigger = {"service_id": SERVICE}
            await api.put_runbook(
                {"name": name, "trigger": trigger, "steps": steps, "rollback_metric_check": {**CHECK, **check}}
            )
        await publish("anomaly-events", {"service_id": SERVICE, "metric_name": "cpu", "anomaly_score": 0.9})

    return run


@pytest.fixture
def settled(api):
    """The history by runbook, once each has one of these statuses."""

    async def wait(count, statuses=("succeeded", "rolled_back", "attention", "rollback_failed", "failed")):
        async def all_are():
            items = await api.history()
            there = {item["runbook_name"]: item for item in items if item["status"] in statuses}
            return there if len(there) == count else None

        return await until(all_are, 60)

    return wait


def values(item):
    check = item["metric_check"]
    return check["before"] and check["before"]["value"], [one["value"] for one in check["after"]]


class TestPrometheus:
    @pytest.fixture
    def metrics(self, prometheus):
        return {"RUNBOOKS_METRICS__URL": prometheus.url}

    async def test_a_value_that_worsens_takes_the_steps_back(
        self, start, settled, act, api, stand_ins, prometheus, exporter
    ):
        exporter.set(SERVICE, cpu=50)
        await exporter.scraped(prometheus.kind)
        act.does = lambda: exporter.set(SERVICE, cpu=97.5)
        await start(SCALE, worsens={"samples": 2})
        item = (await settled(1))["worsens"]
        assert (item["status"], item["reason"]) == ("rolled_back", "cpu is 97.5, over 90, bad in 2 of 2 readings")
        assert values(item) == (50, [97.5, 97.5])
        assert item["rollback"]["reason"] == item["reason"]
        assert [step["status"] for step in item["rollback"]["steps"]] == ["manual", "succeeded"]
        assert [count for _, count in stand_ins.scalings] == [5, 3]
        async with api.session.get(f"{api.url}/metrics") as answer:
            told = await answer.text()
        assert 'runbooks_metric_readings_total{result="value",source="prometheus"} 3.0' in told

    async def test_a_value_that_stays_good_ends_it_well(self, start, settled, act, stand_ins, prometheus, exporter):
        exporter.set(SERVICE, cpu=95)
        await exporter.scraped(prometheus.kind)
        act.does = lambda: exporter.set(SERVICE, cpu=60)
        await start(SCALE, improves={})
        item = (await settled(1))["improves"]
        assert (item["status"], item["reason"]) == ("succeeded", None)
        assert values(item) == (95, [60])
        assert item["metric_check"]["before"]["at"] < item["metric_check"]["after"][0]["at"]
        assert (item["rollback"]["status"], len(stand_ins.scalings)) == ("none", 1)


class TestKilledPrometheus:
    @pytest.fixture
    def mortal(self, exporter):
        with running_metric_server("prometheus", exporter.target) as server:
            yield server

    @pytest.fixture
    def metrics(self, mortal):
        return {"RUNBOOKS_METRICS__URL": mortal.url}

    async def test_killed_in_the_middle_there_is_no_data_and_the_runbook_says_what_then(
        self, start, settled, act, mortal, exporter
    ):
        exporter.set(SERVICE, cpu=50)
        act.does = mortal.kill
        call = {"type": "http", "method": "POST", "url": act.url}
        await start(
            {**call, "rollback": call}, keeps={"on_no_data": "keep"}, asks={}, reverts={"on_no_data": "rollback"}
        )
        ended = await settled(3)
        assert {name: item["status"] for name, item in ended.items()} == {
            "keeps": "succeeded",
            "asks": "attention",
            "reverts": "rolled_back",
        }
        for item in ended.values():
            assert item["reason"].startswith("no data for cpu: not connected")
            (reading,) = item["metric_check"]["after"]
            assert reading["value"] is None
            assert reading["detail"].startswith("not connected")


@pytest.fixture
async def publisher(publish):
    """Publishes the value it is set to ten times a second, as who measures does; None publishes nothing."""

    class Publisher:
        value = 50.0

        async def run(self):
            while True:
                if self.value is not None:
                    sample = {"service_id": SERVICE, "metric_name": "cpu", "value": self.value}
                    await publish("metric-samples", sample, key=SERVICE.encode())
                await asyncio.sleep(0.1)

    publisher = Publisher()
    running = []

    def begin():
        running.append(asyncio.create_task(publisher.run()))
        return publisher

    yield begin
    for task in running:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class TestSamples:
    async def test_the_topic_is_read_where_no_server_is_configured(
        self, start, settled, act, stand_ins, publisher, worker
    ):
        publishing = publisher()
        act.does = lambda: setattr(publishing, "value", 97)
        await start(SCALE, worsens={})
        item = (await settled(1))["worsens"]
        assert (item["status"], item["reason"]) == ("rolled_back", "cpu is 97, over 90")
        assert values(item) == (50, [97])
        assert [count for _, count in stand_ins.scalings] == [5, 3]

    async def test_where_the_samples_end_before_the_steps_there_is_no_data(
        self, start, settled, act, publisher, worker
    ):
        publishing = publisher()
        act.does = lambda: setattr(publishing, "value", None)
        await start(asks={"on_no_data": "attention"})
        item = (await settled(1))["asks"]
        assert item["status"] == "attention"
        assert item["reason"].startswith("no data for cpu: the newest was measured at")

    async def test_what_is_no_sample_is_put_aside_once_with_its_field(self, worker, publish, read_topic):
        good = {"service_id": SERVICE, "metric_name": "cpu", "value": 1}
        await publish("metric-samples", {**good, "value": "much"}, good, b"[]", key=SERVICE.encode())

        async def both():
            letters = await read_topic("dead-letters")
            return letters if len(letters) >= 2 else None

        letters = await until(both)
        told = [dict(letter.headers) for letter in letters]
        assert [one["source-topic"] for one in told] == [b"metric-samples"] * 2
        assert [one["error"] for one in told] == [
            b"value: input should be a valid number",
            b"a JSON array in one record; publish one event a record",
        ]
