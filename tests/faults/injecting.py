"""How each kind of fault is done, and when it was."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from typing import NamedTuple

from faults.plans import WORKERS, Fault
from faults.worlds import SupervisedWorker, World


class Injected(NamedTuple):
    """A fault as it was injected: epoch seconds of its begin and of its end, when all was whole again."""

    fault: Fault
    begun: float
    ended: float
    said: str


async def inject(world: World, fault: Fault) -> Injected:
    """Inject one fault at its moment and take it back."""
    begun = time.time()
    said = await _INJECTORS[fault.kind](world, fault)
    return Injected(fault, begun, time.time(), said)


async def _worker_killed(world: World, fault: Fault) -> str:
    async with _worker(world, fault) as worker:
        await worker.end(signal.SIGKILL)
        await asyncio.sleep(fault.lasts_s)
        await worker.start()
    return ""


async def _worker_terminated(world: World, fault: Fault) -> str:
    async with _worker(world, fault) as worker:
        asked = time.monotonic()
        status = await worker.end(signal.SIGTERM)
        said = f"exit status {status} after {time.monotonic() - asked:.1f} s"
        if status is None:
            world.notes.append(f"worker {worker.number} did not end within a minute of SIGTERM")
        await asyncio.sleep(fault.lasts_s)
        await worker.start()
    return said


async def _worker_stopped(world: World, fault: Fault) -> str:
    async with _worker(world, fault) as worker:
        pid = worker.pid
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(fault.lasts_s)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
    return ""


async def _broker_killed(world: World, fault: Fault) -> str:
    async with world.broker_lock:
        await world.broker.kill()
        await asyncio.sleep(fault.lasts_s)
        await world.broker.start()
    return ""


async def _rebalance(world: World, fault: Fault) -> str:
    worker = world.workers[WORKERS]
    async with worker.lock:
        await worker.start()
        await asyncio.sleep(fault.lasts_s)
        await worker.end(signal.SIGTERM if fault.detail == "leaves" else signal.SIGKILL)
    return ""


async def _network_cut(world: World, fault: Fault) -> str:
    chosen = world.proxies if fault.worker is None else [world.proxies[fault.worker]]
    for proxy in chosen:
        await proxy.cut()
    await asyncio.sleep(fault.lasts_s)
    for proxy in chosen:
        await proxy.mend()
    return ""


async def _network_stalled(world: World, fault: Fault) -> str:
    chosen = world.proxies if fault.worker is None else [world.proxies[fault.worker]]
    for proxy in chosen:
        proxy.stall()
    await asyncio.sleep(fault.lasts_s)
    for proxy in chosen:
        await proxy.mend()
    return ""


async def _disk_full(world: World, fault: Fault) -> str:
    pids = world.pids()
    how = world.disk.fill(pids)
    await asyncio.sleep(fault.lasts_s)
    world.disk.clear(pids)
    return how


async def _slow_targets(world: World, fault: Fault) -> str:
    world.recorder.behave(fault.detail)
    await asyncio.sleep(fault.lasts_s)
    world.recorder.behave("ok")
    return ""


async def _database_gone(world: World, fault: Fault) -> str:
    await world.lock_database(fault.lasts_s)
    return world.plan.database


@contextlib.asynccontextmanager
async def _worker(world: World, fault: Fault) -> AsyncIterator[SupervisedWorker]:
    """The worker that is hit, alone: two faults of one process wait for each other."""
    assert fault.worker is not None
    worker = world.workers[fault.worker]
    async with worker.lock:
        yield worker


_INJECTORS = {
    "worker_killed": _worker_killed,
    "worker_terminated": _worker_terminated,
    "worker_stopped": _worker_stopped,
    "broker_killed": _broker_killed,
    "rebalance": _rebalance,
    "network_cut": _network_cut,
    "network_stalled": _network_stalled,
    "disk_full": _disk_full,
    "slow_targets": _slow_targets,
    "database_gone": _database_gone,
}
