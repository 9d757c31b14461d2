"""Parameters, ``when``, retries, time limits and ``continue_on_failure``, through the real worker and broker."""

import secrets
from contextlib import asynccontextmanager

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from waiting import until

REGION = "eu west/1"
ENDED = {"succeeded", "failed", "attention"}


class Target:
    """A server with a mind of its own a path; calls holds what was asked of it."""

    def __init__(self):
        self.calls: list[tuple[str, str, str, dict]] = []
        self.url = ""

    def called(self, path: str):
        return [call for call in self.calls if call[1] == path]

    @asynccontextmanager
    async def serving(self):
        application = web.Application(handler_args={"handler_cancellation": True})
        application.router.add_route("*", "/{path:.*}", self._answer)
        async with TestServer(application) as server:
            self.url = str(server.make_url("")).rstrip("/")
            yield self

    async def _answer(self, request: web.Request) -> web.Response:
        key = request.headers["Idempotency-Key"]
        body = await request.json() if request.can_read_body else {}
        self.calls.append((request.method, request.path_qs, key, body))
        times = len(self.called(request.path_qs))
        match request.path:
            case "/things":
                return web.json_response({"id": 42, "items": ["a", "b"]}, status=201)
            case "/busy" if times < 3:
                return web.Response(status=503, headers={"Retry-After": "0"})
            case "/stuck":
                await until(self._never, 60)
            case "/slow" if times == 1:
                await until(self._never, 60)
            case "/large":
                return web.json_response(secrets.token_urlsafe(60_000)[:60_000])
            case "/gone":
                return web.Response(status=404)
        return web.json_response({"ok": True})

    async def _never(self) -> bool:
        return False


@pytest.fixture
async def target():
    async with Target().serving() as target:
        yield target


@pytest.fixture
def run_all(worker, api, publish):
    """Bring runbooks into force, start each with an anomaly of its own, and give their ends by name."""

    async def run(**runbooks):
        for name, steps in runbooks.items():
            await api.put_runbook({"name": name, "trigger": {"service_id": name}, "steps": steps})
        anomaly = {"metric_name": "m", "labels": {"region": REGION}}
        await publish("anomaly-events", *({"service_id": name, **anomaly} for name in runbooks))

        async def over():
            items = await api.history()
            done = [item for item in items if item["status"] in ENDED]
            return {item["runbook_name"]: item for item in done} if len(done) == len(runbooks) else None

        return await until(over, 60)

    return run


def http(method, url, **fields):
    return {"type": "http", "method": method, "url": url, **fields}


def slack(message, **fields):
    return {"type": "slack", "channel": "#ops", "message": message, **fields}


async def test_steps_use_the_anomaly_and_what_earlier_steps_gave_back_and_are_skipped_when_they_say_so(
    run_all, target, stand_ins
):
    made = "{{ steps[0].output.body.id }}"
    items = await run_all(
        chain=[
            http("POST", f"{target.url}/things", body={"region": "{{ anomaly.labels.region }}"}),
            http("GET", f"{target.url}/things/{made}?in={{{{ anomaly.labels.region | urlencode }}}}"),
            slack("never said", when='labels.region == "us"'),
            slack(f"{made} of {{{{ steps[0].output.body.items | join('+') }}}}", when="steps[0].output.body.id == 42"),
            slack("{{ execution.id }} {{ runbook.name }} {{ steps[2].status }}"),
        ]
    )
    item = items["chain"]
    assert [(step["status"], step["attempts"]) for step in item["steps"]] == [
        ("succeeded", 1),
        ("succeeded", 1),
        ("skipped", 0),
        ("succeeded", 1),
        ("succeeded", 1),
    ], item
    assert item["steps"][2]["error"] == '`labels.region == "us"` is false'
    assert [call[:2] + call[3:] for call in target.calls] == [
        ("POST", "/things", {"region": REGION}),
        ("GET", "/things/42?in=eu%20west/1", {}),
    ]
    texts = [message["text"] for message in stand_ins.messages]
    assert texts == ["42 of a+b", f"{item['execution_id']} chain skipped"]
    assert stand_ins.messages[1]["thread_ts"] == "1.000100"


async def test_what_fails_hangs_or_is_passed_over(run_all, target):
    quick = {"backoff_seconds": 0.05}
    items = await run_all(
        busy=[http("POST", f"{target.url}/busy", retries={"max_attempts": 3, **quick})],
        busy_once=[http("POST", f"{target.url}/busy?once")],
        stuck=[http("POST", f"{target.url}/stuck", timeout_seconds=0.5), slack("never said")],
        slow=[http("GET", f"{target.url}/slow", timeout_seconds=0.5, retries=quick)],
        passed=[http("POST", f"{target.url}/gone", continue_on_failure=True), http("POST", f"{target.url}/fine")],
    )
    found = {
        name: (item["status"], [(step["status"], step["attempts"]) for step in item["steps"]])
        for name, item in items.items()
    }
    assert found == {
        "busy": ("succeeded", [("succeeded", 3)]),
        "busy_once": ("failed", [("failed", 1)]),
        "stuck": ("attention", [("unknown", 1), ("pending", 0)]),
        "slow": ("succeeded", [("succeeded", 2)]),
        "passed": ("succeeded", [("failed", 1), ("succeeded", 1)]),
    }
    assert items["stuck"]["steps"][0]["error"] == "no answer within 0.5 s"
    assert items["passed"]["reason"] == "step 1 failed and was passed over"
    assert items["busy_once"]["reason"] == "step 1 failed: the server answered 503: not a success"
    assert len(target.called("/stuck")) == 1
    for path, times in (("/busy", 3), ("/slow", 2)):
        keys = [call[2] for call in target.called(path)]
        assert (len(keys), len(set(keys))) == (times, 1)


async def test_the_outputs_of_many_steps_fit_into_one_record_and_the_last_ones_give_way(run_all, target):
    steps = [http("GET", f"{target.url}/large") for _ in range(30)]
    (item,) = (await run_all(large=steps)).values()
    assert item["status"] == "succeeded", item["reason"]
    assert [step["truncated"] for step in item["steps"]] == [False] * 17 + [True] * 13
    assert {step["output"]["status"] for step in item["steps"]} == {200}
