"""Stopping a worker: what acts is let finish, what has not begun is handed over."""

import asyncio
import signal

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from processes import SECRET
from waiting import until

from app.development import make_token


class Target:
    """A server that keeps its callers waiting until it is told to answer."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.answer = asyncio.Event()

    async def post(self, request: web.Request) -> web.Response:
        self.asked.append(request.headers["Idempotency-Key"])
        await self.answer.wait()
        return web.json_response({})


@pytest.fixture
async def target():
    state = Target()
    application = web.Application()
    application.router.add_post("/", state.post)
    async with TestServer(application) as server:
        state.url = str(server.make_url("/"))
        yield state
        state.answer.set()


def calling(url: str, **fields):
    step = {"type": "http", "method": "POST", "url": url, **fields}
    return {"name": "r", "trigger": {"service_id": "s"}, "steps": [step, {**step, "method": "PUT"}][:1]}


async def test_a_step_in_flight_is_finished_before_the_worker_ends(worker, api, publish, target):
    await api.put_runbook(calling(target.url))
    await publish("anomaly-events", {"service_id": "s", "metric_name": "m"})
    await until(lambda: _truth(target.asked))
    ending = asyncio.create_task(worker.end(signal.SIGTERM))
    await asyncio.wait([ending], timeout=0.5)
    assert not ending.done()
    target.answer.set()
    assert await ending == 0
    await worker.start()
    await worker.ready(api)
    (item,) = await api.ended(1)
    assert (item["status"], len(target.asked)) == ("succeeded", 1)


async def test_a_worker_that_dies_while_a_step_acts_leaves_it_unknown(worker, api, publish, target):
    await api.put_runbook(calling(target.url))
    await publish("anomaly-events", {"service_id": "s", "metric_name": "m"})
    await until(lambda: _truth(target.asked))
    await worker.end(signal.SIGKILL)
    await worker.start()
    await worker.ready(api)

    async def attention():
        return [item for item in await api.history() if item["status"] == "attention"]

    (item,) = await until(attention, 60)
    assert "stopped answering" in item["reason"]
    assert len(target.asked) == 1
    path = f"/api/v1/executions/{item['execution_id']}/resolve"
    assert (await api.call("POST", path, {"outcome": "succeeded", "comment": "saw it"}))[0] == 202
    (item,) = await api.ended(1)
    assert item["status"] == "succeeded"


async def test_a_worker_that_still_recovers_its_tables_ends_when_it_is_told_to(worker, api):
    await worker.end(signal.SIGTERM)
    for _ in range(3):
        said = worker.log.stat().st_size
        await worker.start()

        async def recovers(since=said):
            return "DeferredTable: step_ledger]: Starting" in worker.log.read_text()[since:]

        await until(recovers, 60)
        async with asyncio.timeout(45):
            assert await worker.end(signal.SIGTERM) == 0
    await worker.start()
    await worker.ready(api)


async def test_a_request_that_never_arrives_whole_does_not_keep_the_worker(worker, api):
    port = int(api.url.rpartition(":")[2])
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    token = make_token(SECRET, "tester", ["admin"])
    head = f"PUT /api/v1/runbooks/r HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 9\r\n\r\n{{"
    writer.write(head.encode())
    await writer.drain()
    await api.get("/readyz")  # it has begun to read by then
    async with asyncio.timeout(40):  # aiohttp would wait for a minute
        assert await worker.end(signal.SIGTERM) == 0
    writer.close()


async def _truth(value: object) -> bool:
    return bool(value)
