"""A source for ansible-rulebook: puts the phases of its plan on the queue, each when a file says that it may.

plan: a JSON file of phases, each a list of [service_id, score, how many] and a mark; folder: phase K begins once the
file go-K is there. A service_id may hold a `{}` for the number of the event by `services`. After its events a phase has
one that matches a rule, with `seq` the phase's number: what prints it has done all before it.
"""

import asyncio
import json
import time
from pathlib import Path


def event(seq: int, service: str, score: float) -> dict:
    return {
        "anomaly_id": f"{time.time_ns()}-{seq}",
        "seq": seq,
        "emitted_ns": time.time_ns(),
        "service_id": service,
        "metric_name": "cpu_usage",
        "anomaly_score": score,
        "timestamp": time.time(),
        "labels": {"region": "eu-west-1", "host": f"host-{seq % 50}", "team": "payments"},
    }


async def main(queue: asyncio.Queue, args: dict) -> None:
    for number, (service, score, count) in enumerate(json.loads(Path(args["plan"]).read_text())):
        go = Path(args["folder"]) / f"go-{number}"
        while not await asyncio.to_thread(go.exists):
            await asyncio.sleep(0.02)
        for seq in range(count):
            await queue.put(event(seq, service.format(seq % args["services"]), score))
        await queue.put(event(number, "svc-0", 0.9))
    while True:  # the end of a source would be the end of all
        await asyncio.sleep(3600)
