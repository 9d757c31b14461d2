"""One run: a world, a load, the planned faults, the settling, the verdict."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from faults.checking import Evidence, Violation, check, expected_id
from faults.injecting import Injected, inject
from faults.loads import Anomaly, Approver, Load, tenants
from faults.plans import Fault, Plan
from faults.reading import Logged, read_topics
from faults.recorder import Effect
from faults.recounting import recount, unsettled
from faults.worlds import World, world
from processes import Api
from sshd import Sshd

TOPICS = ("anomaly-events", "execution-events", "approval-decisions", "dead-letters", "faults-executions-changelog")
BEFORE_S, AFTER_S = 3.0, 3.0
"""How long the load goes on before the first and after the last fault."""
AGREES_S = 30.0
STILL_S = 30.0
"""A log to which nothing but these was added for so long does not move any more."""
TICKS = {"timer_fired", "approval_decided", "step_heartbeat"}
Say = Callable[[str], None]


@dataclass
class Result:
    """What a run came to; recovery_s: by the fault's number, see ``recovery``."""

    plan: Plan
    injected: list[Injected]
    violations: list[Violation]
    recovery_s: dict[int, float]
    anomalies: int
    effects: int
    statuses: dict[str, int]
    restarts: list[str]
    notes: list[str]

    @property
    def good(self) -> bool:
        """Whether nothing was wrong."""
        return not self.violations and not self.notes


async def run(plan: Plan, folder: Path, sshd: Sshd | None, say: Say) -> Result:
    """Do one run in a folder of its own."""
    for line in plan.lines():
        say(line)
    async with world(folder, plan, sshd, say) as one:
        scaled: list[tuple[str, float]] = []
        one.stand_ins.say = lambda line: scaled.append((line, time.time()))
        load = Load(one.broker.bootstrap_servers, plan.seed, plan.rate, list(one.runbooks))
        enough = asyncio.Event()
        loading = asyncio.create_task(load.run(one.stand_ins.replicas, enough))
        approving = asyncio.create_task(Approver(one.apis).run())
        try:
            injected = await _inject_all(one, plan, say)
            await asyncio.sleep(AFTER_S)
            enough.set()
            await loading
            settled = await _settled(one, load, say)
            evidence = await _evidence(one, load, scaled)
        finally:
            enough.set()
            for task in (loading, approving):
                task.cancel()
            await asyncio.gather(loading, approving, return_exceptions=True)
        return _result(one, evidence, injected, settled=settled)


async def _inject_all(one: World, plan: Plan, say: Say) -> list[Injected]:
    await asyncio.sleep(BEFORE_S)
    begun = time.monotonic()
    running: list[asyncio.Task[Injected]] = []

    async def told(fault: Fault) -> Injected:
        say(f"  {time.monotonic() - begun:6.1f} s  begins: {fault.kind}")
        done = await inject(one, fault)
        more = f": {done.said}" if done.said else ""
        say(f"  {time.monotonic() - begun:6.1f} s  is over: {fault.kind}{more}")
        return done

    async with asyncio.TaskGroup() as group:
        for fault in plan.faults:
            if not fault.overlaps:
                await asyncio.gather(*running)
            await asyncio.sleep(fault.after_s)
            running.append(group.create_task(told(fault)))
    return [fault.result() for fault in running]


async def _settled(one: World, load: Load, say: Say) -> bool:
    """Wait until every anomaly's execution has ended; False when the time for that is over.

    The time is the profile's, and goes on while the log still moves, three times as long at most: a machine that is
    busy with other things as well is no fault of the product's.
    """
    expected = {expected_id(each.tenant, each.anomaly_id, each.runbook) for each in load.published}
    begun, patience_s = time.monotonic(), one.plan.profile.settle_s
    while True:
        log = (await read_topics(one.broker.bootstrap_servers, "execution-events"))["execution-events"]
        counted = recount(log)
        left = (expected - counted.keys()) | unsettled(counted).keys()
        passed_s = time.monotonic() - begun
        moved = max((each.at for each in log if each.value["type"] not in TICKS), default=0.0)
        moves = time.time() - moved < STILL_S and passed_s < 3 * patience_s
        if not left or (passed_s > patience_s and not moves):
            say(f"  settled after {passed_s:.1f} s, {len(left)} of {len(expected)} left")
            return not left
        await asyncio.sleep(1)


async def _evidence(one: World, load: Load, scaled: list[tuple[str, float]]) -> Evidence:
    """Read everything, the history as soon as it agrees with the log or has had its time."""
    deadline = time.monotonic() + AGREES_S
    while True:
        topics = await read_topics(one.broker.bootstrap_servers, *TOPICS)
        tables = _last_values(topics["faults-executions-changelog"])
        effects = one.effects() + _scalings(load.published, scaled)
        evidence = Evidence(load.published, topics, effects, await _history(one.apis), tables)
        if time.monotonic() > deadline or not any(each.sort == "diverged" for each in check(evidence)):
            return evidence
        await asyncio.sleep(1)


def _last_values(changelog: list[Logged]) -> dict[str, Any]:
    return {str(record.key).strip('"'): record.value for record in changelog}


def _scalings(anomalies: list[Anomaly], scaled: list[tuple[str, float]]) -> list[Effect]:
    """The stand-in's scalings as effects: each deployment belongs to one anomaly."""
    by_number = {one.anomaly_id.rpartition("-")[2]: one for one in anomalies}
    found = []
    for line, at in scaled:
        if "faults/d-" in line:
            one = by_number[line.partition("faults/d-")[2].split()[0]]
            found.append(Effect((expected_id(one.tenant, one.anomaly_id, one.runbook), 0, "apply"), at))
    return found


async def _history(apis: list[Api]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for tenant in tenants():
        cursor = ""
        while True:
            page = await _page(apis, f"/api/v1/runbooks/history?limit=200{cursor}", tenant)
            found += page["items"]
            if page["next_cursor"] is None:
                break
            cursor = f"&cursor={page['next_cursor']}"
    return found


async def _page(apis: list[Api], path: str, tenant: str) -> dict[str, Any]:
    for api in apis * 20:
        with contextlib.suppress(aiohttp.ClientError, OSError, ValueError):
            status, body = await api.call("GET", path, tenant=tenant)
            if status == 200:
                return dict(body)
        await asyncio.sleep(0.5)
    raise AssertionError(f"no worker's API gave {path}")


def _result(one: World, evidence: Evidence, injected: list[Injected], *, settled: bool) -> Result:
    violations = check(evidence)
    counted = recount(evidence.topics["execution-events"])
    statuses: dict[str, int] = {}
    for each in counted.values():
        statuses[each.status] = statuses.get(each.status, 0) + 1
    if not settled and not violations:
        one.notes.append("it settled only while the evidence was read")
    if one.recorder.unnamed:
        one.notes.append(f"calls without a command's key: {one.recorder.unnamed[:3]}")
    return Result(
        plan=one.plan,
        injected=injected,
        violations=violations,
        recovery_s=recovery(evidence, injected),
        anomalies=len(evidence.anomalies),
        effects=len(evidence.effects),
        statuses=statuses,
        restarts=[said for worker in one.workers for said in worker.ended],
        notes=one.notes,
    )


def recovery(evidence: Evidence, injected: list[Injected]) -> dict[int, float]:
    """Seconds from each fault's end until everything published before that end had been begun, by its number.

    Begun: the first record of the execution after its request stands in the log. 0 when nothing had to wait.
    """
    begun: dict[str, float] = {}
    for record in evidence.topics["execution-events"]:
        name = record.value["execution_id"]
        if record.value["type"] not in {"execution_requested", "timer_fired"}:
            begun.setdefault(name, record.at)
    found = {}
    for one in injected:
        waiting = [each for each in evidence.anomalies if one.begun - 1 <= each.at <= one.ended]
        names = [expected_id(each.tenant, each.anomaly_id, each.runbook) for each in waiting]
        last = max((begun[name] for name in names if name in begun), default=one.ended)
        found[one.fault.number] = max(0.0, last - one.ended)
    return found
