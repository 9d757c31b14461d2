"""The load: runbooks of every sort for every tenant, anomalies at a steady rate, and a person who approves."""

import asyncio
import contextlib
import itertools
import json
import random
import time
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.partitioner import DefaultPartitioner
from processes import Api

PARTITIONS = 8
REJECTED = 5
"""One in so many requests for approval is rejected."""
SHARES = {
    "plain": 5,
    "put": 2,
    "flaky": 2,
    "hangs": 1,
    "hangs-once": 1,
    "unclear": 1,
    "gated": 2,
    "undone": 2,
    "long": 3,
    "shell": 2,
    "scaled": 2,
}


class Anomaly(NamedTuple):
    """One published anomaly: it must start the runbook that has its service's name.

    at: epoch seconds when it was handed to the producer.
    """

    tenant: str
    anomaly_id: str
    runbook: str
    at: float


def tenants() -> list[str]:
    """One for each partition."""
    places = list(range(PARTITIONS))
    partition_of = DefaultPartitioner()
    found: dict[int, str] = {}
    for number in itertools.count():
        name = f"t{number}"
        found.setdefault(partition_of(name.encode(), places, []), name)
        if len(found) == PARTITIONS:
            return sorted(found.values())
    raise AssertionError


def steps_of(url: str, effects_file: Path | None) -> dict[str, dict[str, Any]]:
    """The definitions, without name and trigger; no shell where there is no host, which effects_file None says."""

    def call(method: str, path: str, **fields: Any) -> dict[str, Any]:
        return {"type": "http", "method": method, "url": f"{url}/{path}", "timeout_seconds": 8, **fields}

    quick = {"max_attempts": 6, "backoff_seconds": 0.3, "max_backoff_seconds": 2}
    found: dict[str, dict[str, Any]] = {
        "plain": {"steps": [call("POST", "effect"), call("POST", "effect")]},
        "put": {"steps": [call("PUT", "effect"), call("POST", "effect", on_unknown="fail")]},
        "flaky": {"steps": [call("POST", "flaky", retries=quick)]},
        "hangs": {"steps": [call("POST", "hang", timeout_seconds=1, on_unknown="fail")]},
        "hangs-once": {"steps": [call("POST", "hang-once", timeout_seconds=1, on_unknown="retry")]},
        "unclear": {"steps": [call("POST", "hang", timeout_seconds=1), call("POST", "effect")]},
        "gated": {"steps": [call("POST", "effect"), call("POST", "effect", require_approval=True)]},
        "undone": {
            "rollback_on_failure": True,
            "steps": [call("POST", "effect", rollback=call("DELETE", "effect")), call("POST", "refuse")],
        },
        "long": {"steps": [call("POST", "long"), call("PUT", "long")]},
        "scaled": {
            "steps": [
                {
                    "type": "kubernetes",
                    "action": "scale",
                    "namespace": "faults",
                    "deployment": "{{ anomaly.labels.deployment }}",
                    "replicas": 5,
                }
            ]
        },
    }
    if effects_file is not None:
        command = f"echo {{{{ execution.id }}}} $(date +%s.%N) >> {effects_file}; sleep 0.3"
        found["shell"] = {"steps": [{"type": "shell", "host": "target", "command": command, "timeout_seconds": 8}]}
    return found


def write_runbooks(folder: Path, url: str, effects_file: Path | None) -> dict[str, dict[str, Any]]:
    """Write them all for all tenants as a folder of definitions; the definitions by name."""
    folder.mkdir(parents=True)
    content = steps_of(url, effects_file)
    for tenant in tenants():
        for name, fields in content.items():
            runbook = {"name": name, "tenant": tenant, "trigger": {"service_id": name}, **fields}
            (folder / f"{tenant}-{name}.json").write_text(json.dumps(runbook))
    return content


class Load:
    """Publishes anomalies until it is stopped; each is published until the broker has it."""

    def __init__(self, servers: str, seed: int, rate: float, runbooks: list[str]) -> None:
        """Nothing connects yet; rate: anomalies a second."""
        self.published: list[Anomaly] = []
        self.deployments: list[str] = []
        self._chance = random.Random(seed)
        self._rate = rate
        self._shares = {name: share for name, share in SHARES.items() if name in runbooks}
        self._seed = seed
        self._servers = servers
        self._tenants = itertools.cycle(tenants())
        self._sending: set[asyncio.Task[None]] = set()

    async def run(self, register: dict[str, int], until: asyncio.Event) -> None:
        """Publish until the event is set, then wait until all is acknowledged; register knows deployments."""
        producer = AIOKafkaProducer(bootstrap_servers=self._servers, acks="all", enable_idempotence=True)
        await producer.start()
        try:
            begun = time.monotonic()
            for number in itertools.count():
                wait_s = begun + number / self._rate - time.monotonic()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(max(wait_s, 0.001)):
                        await until.wait()
                if until.is_set():
                    break
                self._publish(producer, number, register)
            await asyncio.gather(*self._sending)
        finally:
            await producer.stop()

    def _publish(self, producer: AIOKafkaProducer, number: int, register: dict[str, int]) -> None:
        (name,) = self._chance.choices(list(self._shares), list(self._shares.values()))
        one = Anomaly(next(self._tenants), f"{self._seed}-{number}", name, time.time())
        event = {"anomaly_id": one.anomaly_id, "tenant_id": one.tenant, "service_id": name, "metric_name": "m"}
        if name == "scaled":
            event["labels"] = {"deployment": f"d-{number}"}
            register[f"faults/d-{number}"] = 3
        self.published.append(one)
        copies = 2 if self._chance.random() < 0.1 else 1  # sources repeat themselves
        for _ in range(copies):
            sending = asyncio.create_task(self._until_taken(producer, json.dumps(event).encode()))
            self._sending.add(sending)
            sending.add_done_callback(self._sending.discard)

    async def _until_taken(self, producer: AIOKafkaProducer, value: bytes) -> None:
        while True:
            try:
                await producer.send_and_wait("anomaly-events", value)
            except KafkaError:
                await asyncio.sleep(0.2)
            else:
                return


class Person:
    """Does something for every tenant again and again, through whichever worker's API answers."""

    def __init__(self, apis: list[Api]) -> None:
        """Ask these."""
        self._apis = apis
        self._turn = itertools.count()
        self.answers: dict[int, int] = {}

    async def run(self) -> None:
        """Go on until cancelled."""
        while True:
            for tenant in tenants():
                with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError, ValueError):
                    async with asyncio.timeout(5):
                        await self._visit(self._apis[next(self._turn) % len(self._apis)], tenant)
            await asyncio.sleep(0.5)

    async def _visit(self, api: Api, tenant: str) -> None:
        raise NotImplementedError


class Approver(Person):
    """Decides on all that waits."""

    async def _visit(self, api: Api, tenant: str) -> None:
        status, found = await api.call("GET", "/api/v1/approvals", tenant=tenant, roles=["approver"], sub="ann")
        for item in found["items"] if status == 200 else ():
            name = item["execution_id"]
            decision = "reject" if int(name[:6], 16) % REJECTED == 0 else "approve"
            path, body = f"/api/v1/executions/{name}/approvals", {"decision": decision}
            status, _ = await api.call("POST", path, body, tenant=tenant, roles=["approver"], sub="ann")
            self.answers[status] = self.answers.get(status, 0) + 1


class Resolver(Person):
    """Says of every step whose outcome nobody knows that it failed."""

    async def _visit(self, api: Api, tenant: str) -> None:
        common = {"tenant": tenant, "roles": ["operator"], "sub": "ann"}
        status, found = await api.call("GET", "/api/v1/runbooks/history?status=attention", **common)
        for item in found["items"] if status == 200 else ():
            path = f"/api/v1/executions/{item['execution_id']}/resolve"
            status, _ = await api.call("POST", path, {"outcome": "failed"}, **common)
            self.answers[status] = self.answers.get(status, 0) + 1
