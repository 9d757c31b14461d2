"""A load for a long time without faults: how the memory of the workers grows."""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import psutil
from faults.loads import Approver, Load, Resolver
from faults.plans import FULL, make_plan
from faults.worlds import World, remove, world

SAMPLE_S = 5.0
WARM_UP = 0.2
"""This part of the samples, at the beginning, is left out of the slope: caches fill."""


async def soak(minutes: float, rate: float, results: Path, say: Callable[[str], None]) -> int:
    """Put the workers under load and print their resident memory and its slope."""
    folder = Path(tempfile.mkdtemp(prefix="soak-", dir="/tmp"))
    plan = make_plan(0, 0, FULL, rate, "sqlite")
    async with world(folder, plan, None, say) as one:
        load = Load(one.broker.bootstrap_servers, 0, rate, list(one.runbooks))
        enough = asyncio.Event()
        loading = asyncio.create_task(load.run(one.stand_ins.replicas, enough))
        people = [asyncio.create_task(person.run()) for person in (Approver(one.apis), Resolver(one.apis))]
        samples = await _sampled(one, load, minutes, say)
        enough.set()
        await loading
        for person in people:
            person.cancel()
        await asyncio.gather(*people, return_exceptions=True)
    remove(folder)
    slopes = [slope_mb_per_hour(column) for column in zip(*(values for _, values in samples), strict=True)]
    say(f"anomalies: {len(load.published)}; slope after the warm-up, MB an hour: {slopes}")
    results.mkdir(parents=True, exist_ok=True)
    content = {"minutes": minutes, "rate": rate, "mb_per_hour": slopes, "samples": samples}
    (results / "soak.json").write_text(json.dumps(content, indent=2) + "\n")
    return 0


async def _sampled(
    one: World, load: Load, minutes: float, say: Callable[[str], None]
) -> list[tuple[float, list[float]]]:
    """(seconds, resident megabytes of each worker), every few seconds."""
    begun = time.monotonic()
    samples: list[tuple[float, list[float]]] = []
    while (passed := time.monotonic() - begun) < minutes * 60:
        memory = [round(psutil.Process(pid).memory_info().rss / 1e6, 1) for pid in one.pids()]
        samples.append((round(passed, 1), memory))
        if len(samples) % 12 == 1:
            say(f"{passed / 60:6.1f} min  {len(load.published):7} anomalies  {memory} MB")
        await asyncio.sleep(SAMPLE_S)
    return samples


def slope_mb_per_hour(column: tuple[float, ...]) -> float:
    """The slope of a line through the samples, in megabytes an hour."""
    kept = column[int(len(column) * WARM_UP) :]
    if len(kept) < 2:
        return 0.0
    hours = [number * SAMPLE_S / 3600 for number in range(len(kept))]
    return round(statistics.linear_regression(hours, kept).slope, 1)
