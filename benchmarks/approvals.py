"""Decision -> step started: an approval is sent to the API, and its step's start stands in the log.

Also API answered: the same decision until the caller is told that it counted. Prints p50, p99 and max in milliseconds,
and what the worker used of the processor for each decision, which other load on the machine changes less.
Run: .venv/bin/python benchmarks/approvals.py [APPROVALS] [PER_SECOND] [CHECKOUT ...]
Each CHECKOUT (a folder with app/) is measured in turn on a broker of its own, so that two can stand side by side.
"""

import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from bench import cpu_s, paced, put_runbook, shown, target, worker

from app.broker.kafka import EmbeddedKafka


async def asked(session: aiohttp.ClientSession, servers: str, count: int) -> list[str]:
    """The ids of so many executions that wait for approval, after as many anomalies."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    await producer.start()
    for number in range(count):
        event = {"anomaly_id": f"a-{number}", "service_id": "s", "metric_name": "m", "anomaly_score": 0.9}
        await producer.send("anomaly-events", json.dumps(event).encode())
    await producer.stop()
    while True:
        names = [name async for name in waiting(session)]
        if len(names) == count:
            return names
        await asyncio.sleep(1)


async def waiting(session: aiohttp.ClientSession) -> AsyncIterator[str]:
    """The ids of what waits, page by page of the history."""
    query = {"status": "awaiting_approval", "limit": "200"}
    while True:
        async with session.get("/api/v1/runbooks/history", params=query) as answer:
            page = await answer.json()
        for item in page["items"]:
            yield item["execution_id"]
        if page["next_cursor"] is None:
            return
        query["cursor"] = page["next_cursor"]


async def decided(
    session: aiohttp.ClientSession, servers: str, names: list[str], per_second: float
) -> tuple[list[float], list[float]]:
    """Approve all at a steady rate: seconds until each step started, and until each call was answered."""
    watcher = AIOKafkaConsumer("execution-events", bootstrap_servers=servers, auto_offset_reset="latest")
    await watcher.start()
    await watcher.seek_to_end()
    sent: dict[str, float] = {}
    started: dict[str, float] = {}
    answered: list[float] = []
    unanswered: list[str] = []

    async def watch() -> None:
        async for record in watcher:
            event = json.loads(record.value)
            if event["type"] == "step_started" and event["execution_id"] in sent:
                started[event["execution_id"]] = time.time()
                if len(started) == len(names):
                    return

    async def approve(name: str) -> None:
        sent[name] = time.time()
        async with session.post(f"/api/v1/executions/{name}/approvals", json={"decision": "approve"}) as answer:
            assert answer.status in (200, 202), await answer.text()
            late = answer.status == 202
        unanswered.extend([name] if late else [])
        answered.append(time.time() - sent[name])

    watching = asyncio.create_task(watch())
    approving = [asyncio.create_task(approve(names[number])) async for number in paced(len(names), per_second)]
    await asyncio.gather(*approving)
    await watching
    await watcher.stop()
    if unanswered:
        print(f"{'callers who were not told in time':48} {len(unanswered)}", flush=True)
    return [started[name] - at for name, at in sent.items()], answered


async def measure(code: Path, count: int, per_second: float) -> None:
    """One round with one checkout."""
    print(f"-- {code}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = str(count + 10)
        async with (
            EmbeddedKafka(data_dir=folder / "kafka") as kafka,
            target() as url,
            worker(
                kafka.bootstrap_servers, folder, code=code, RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS=many
            ) as session,
        ):
            step = {"type": "http", "method": "POST", "url": url, "require_approval": True}
            await put_runbook(session, {"name": "bench", "trigger": {"service_id": "s"}, "steps": [step]})
            names = await asked(session, kafka.bootstrap_servers, count)
            before = cpu_s()
            started, answered = await decided(session, kafka.bootstrap_servers, names, per_second)
            each = (cpu_s() - before) / count
            shown(f"decision -> step started at {per_second:g}/s", started)
            shown(f"decision -> the caller is told at {per_second:g}/s", answered)
            print(f"{'processor time of the worker for each':48} {each * 1000:.1f} ms", flush=True)


async def main(count: int, per_second: float, checkouts: list[Path]) -> None:
    for code in checkouts:
        await measure(code, count, per_second)


if __name__ == "__main__":
    given = dict(enumerate(sys.argv[1:]))
    folders = [Path(name) for name in sys.argv[3:]] or [Path()]
    asyncio.run(main(int(given.get(0, "300")), float(given.get(1, "20")), folders))
