"""Anomaly published -> first step started, at a steady rate, beside two bare Kafka hops in the same run.

Prints p50, p99 and max of both in milliseconds, the worker's start-up time and its resident memory.
Run: .venv/bin/python benchmarks/latency.py [EVENTS] [PER_SECOND]
"""

import asyncio
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import psutil
from aiohttp import web
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic

from app.broker.kafka import EmbeddedKafka
from app.development import make_token

SECRET = "a secret of the benchmarks, long enough"
PORT = 18099
HOPS = ("hop-one", "hop-two")


def shown(name: str, seconds: list[float]) -> dict[str, float]:
    ordered = sorted(value * 1000 for value in seconds)
    row = {
        "n": len(ordered),
        "p50_ms": round(statistics.median(ordered), 2),
        "p99_ms": round(ordered[int(len(ordered) * 0.99) - 1], 2),
        "max_ms": round(ordered[-1], 2),
    }
    print(f"{name:48} {row}", flush=True)
    return row


async def paced(count: int, per_second: float):
    begun = time.monotonic()
    for number in range(count):
        await asyncio.sleep(max(0.0, begun + number / per_second - time.monotonic()))
        yield number


async def bare_hops(servers: str, count: int, per_second: float) -> list[float]:
    """Publish, consume and publish again, consume: what any two-hop pipeline costs here."""
    admin = AIOKafkaAdminClient(bootstrap_servers=servers)
    await admin.start()
    await admin.create_topics([NewTopic(name, 8, 1) for name in HOPS])
    await admin.close()
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all", enable_idempotence=True)
    first, second = (AIOKafkaConsumer(name, bootstrap_servers=servers, auto_offset_reset="earliest") for name in HOPS)
    for part in (producer, first, second):
        await part.start()
    taken: list[float] = []

    async def echo() -> None:
        async for record in first:
            await producer.send_and_wait(HOPS[1], record.value)

    async def measure() -> None:
        async for record in second:
            taken.append(time.time() - float(record.value))
            if len(taken) == count:
                return

    echoing, measuring = asyncio.create_task(echo()), asyncio.create_task(measure())
    async for _ in paced(count, per_second):
        await producer.send(HOPS[0], str(time.time()).encode())
    await measuring
    echoing.cancel()
    for part in (first, second, producer):
        await part.stop()
    return taken


async def engine(servers: str, folder: Path, count: int, per_second: float) -> list[float]:
    async def ok(_: web.Request) -> web.Response:
        return web.json_response({})

    application = web.Application()
    application.router.add_post("/", ok)
    target = web.AppRunner(application, access_log=None)
    await target.setup()
    await web.TCPSite(target, "127.0.0.1", 0).start()
    url = f"http://127.0.0.1:{target.addresses[0][1]}/"
    environment = os.environ | {
        "RUNBOOKS_KAFKA__BOOTSTRAP_SERVERS": servers,
        "RUNBOOKS_DATA_DIR": str(folder / "worker"),
        "RUNBOOKS_RUNBOOKS_DIR": str(folder / "none"),
        "RUNBOOKS_API__PORT": str(PORT),
        "RUNBOOKS_API__JWT_SECRET": SECRET,
        "RUNBOOKS_NETWORK__ALLOW_LOOPBACK": "true",
        "RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS": "100",
    }
    worker = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "app.cli", "worker", env=environment, stderr=(folder / "worker.log").open("w")
    )
    begun = time.monotonic()
    headers = {"Authorization": f"Bearer {make_token(SECRET, 'bench', ['admin'])}"}
    async with aiohttp.ClientSession(f"http://127.0.0.1:{PORT}", headers=headers) as session:
        await ready(session)
        memory = psutil.Process(worker.pid).memory_info().rss / 1e6
        print(f"{'worker ready after':48} {time.monotonic() - begun:.2f} s, {memory:.0f} MB resident", flush=True)
        runbook = {
            "name": "bench",
            "trigger": {"service_id": "s", "condition": "anomaly_score > 0.7"},
            "steps": [{"type": "http", "method": "POST", "url": url} for _ in range(3)],
        }
        async with session.put("/api/v1/runbooks/bench", json=runbook) as answer:
            assert answer.status == 201, await answer.text()
        taken = await started(servers, count, per_second)
    print(f"{'worker afterwards':48} {psutil.Process(worker.pid).memory_info().rss / 1e6:.0f} MB resident", flush=True)
    worker.terminate()
    await worker.wait()
    await target.cleanup()
    return taken


async def ready(session: aiohttp.ClientSession) -> None:
    while True:
        try:
            async with session.get("/readyz") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            pass
        await asyncio.sleep(0.02)


async def started(servers: str, count: int, per_second: float) -> list[float]:
    """Publish and watch the log: each anomaly's time until its first step_started stands there."""
    producer = AIOKafkaProducer(bootstrap_servers=servers, acks="all")
    watcher = AIOKafkaConsumer("execution-events", bootstrap_servers=servers, auto_offset_reset="latest")
    await producer.start()
    await watcher.start()
    await watcher.seek_to_end()
    published: dict[str, float] = {}
    anomalies: dict[str, str] = {}
    seen: dict[str, float] = {}

    async def watch() -> None:
        async for record in watcher:
            event = json.loads(record.value)
            if event["type"] == "execution_requested":
                anomalies[event["execution_id"]] = event["anomaly"]["anomaly_id"]
            elif event["type"] == "step_started" and event["step"] == 0:
                seen[anomalies[event["execution_id"]]] = time.time()
                if len(seen) == count:
                    return

    watching = asyncio.create_task(watch())
    async for number in paced(count, per_second):
        name = f"{per_second}-{number}"
        event = {"anomaly_id": name, "service_id": "s", "metric_name": "m", "anomaly_score": 0.9}
        published[name] = time.time()
        await producer.send("anomaly-events", json.dumps(event).encode())
    await watching
    await watcher.stop()
    await producer.stop()
    return [seen[name] - at for name, at in published.items()]


async def main(count: int, per_second: float) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedKafka(data_dir=folder / "kafka") as kafka:
            bare = shown(
                f"two bare hops at {per_second:g}/s", await bare_hops(kafka.bootstrap_servers, count, per_second)
            )
            ours = await engine(kafka.bootstrap_servers, folder, count, per_second)
            row = shown(f"anomaly -> first step started at {per_second:g}/s", ours)
            print(f"{'ratio of the medians':48} {row['p50_ms'] / bare['p50_ms']:.2f}")


if __name__ == "__main__":
    asyncio.run(main(int((sys.argv[1:] or ["500"])[0]), float((sys.argv[2:] or ["20"])[0])))
