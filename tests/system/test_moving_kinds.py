"""A kind of step is given to workers of another consumer group: each step is done once all the same."""

import json
import signal
from collections import Counter

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.structs import TopicPartition
from faults.recorder import Recorder
from processes import Api, WorkerProcess
from waiting import until

from app.clients.kafka import Consumer
from app.core.ids import execution_id_for_anomaly
from app.streams.groups import subscription_of
from app.streams.topics import partition_of

TOPIC = "step-commands.http"
HTTP, SHELL = ("http",), ("http", "shell")


class Installation:
    """Its workers, as an operator starts and stops them; and what was asked of their target."""

    def __init__(self, environment, folder, port, session, publish, broker):
        self._environment = environment
        self._folder = folder
        self._probes = Api(f"http://127.0.0.1:{port}", session)
        self._port = port
        self._publish = publish
        self._broker = broker
        self.api = Api(f"http://127.0.0.1:{environment['RUNBOOKS_API__PORT']}", session)
        self.group = environment["RUNBOOKS_KAFKA__GROUP_ID"]
        self.recorder = Recorder()
        self.running: list[WorkerProcess] = []

    async def whole(self, elsewhere=()) -> WorkerProcess:
        """A whole worker that leaves some kinds to others."""
        return await self._start("whole", {"RUNBOOKS_WORKER__ELSEWHERE": json.dumps(elsewhere)}, self.api)

    async def near(self, kinds) -> WorkerProcess:
        """A worker for some kinds, in a data folder that it has had before."""
        own = {
            "RUNBOOKS_WORKER__ACTIONS": json.dumps(kinds),
            "RUNBOOKS_DATA_DIR": str(self._folder / "near"),
            "RUNBOOKS_API__PORT": str(self._port),
        }
        return await self._start("near", own, self._probes)

    async def _start(self, name, own, api) -> WorkerProcess:
        process = WorkerProcess(self._environment | own, self._folder / f"{name}.log")
        self.running.append(process)
        await process.start()
        await process.ready(api)
        return process

    async def ask(self, *names: str, path: str = "done") -> None:
        """Have an execution of one call for each anomaly."""
        fields = {"service_id": "s", "metric_name": path}
        await self._publish("anomaly-events", *({"anomaly_id": name, **fields} for name in names))

    def calls(self) -> Counter[str]:
        """How often each execution has called."""
        return Counter(one.place[0] for one in self.recorder.effects)

    async def sent(self, count: int) -> None:
        """Wait until so many commands were sent."""

        async def are_there():
            return sum((await self._ends()).values()) >= count

        await until(are_there)

    async def settled(self, *kinds: str) -> None:
        """Wait until the group for these kinds has nothing left to do; of whole workers, if there are none."""
        group = "-".join([self.group, *kinds])
        admin = AIOKafkaAdminClient(bootstrap_servers=self._broker)
        await admin.start()
        try:

            async def is_level():
                ends = {place: end for place, end in (await self._ends()).items() if end}
                committed = await admin.list_consumer_group_offsets(group, partitions=list(ends))
                return {place: one.offset for place, one in committed.items()} == ends

            await until(is_level)
        finally:
            await admin.close()

    async def does_three(self, runbook) -> None:
        """Have three executions carried out."""
        await self.api.put_runbook(runbook)
        await self.ask("a", "b", "c")
        await self.api.ended(3)

    async def did_all_four_once(self, *kinds: str) -> None:
        """They, and the one that waited, have called once each when the group for these kinds is through."""
        assert {one["status"] for one in await self.api.ended(4)} == {"succeeded"}
        await self.settled(*kinds)
        assert sorted(self.calls().values()) == [1, 1, 1, 1]

    async def given_up(self) -> None:
        """Wait until no member of the whole workers' group reads the commands, not even one that was killed."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self._broker)
        await admin.start()
        try:

            async def nobody_reads():
                (answer,) = await admin.describe_consumer_groups([self.group])
                return all(TOPIC not in subscription_of(member[3]) for group in answer.groups for member in group[5])

            await until(nobody_reads)
        finally:
            await admin.close()

    async def _ends(self):
        async with Consumer(bootstrap_servers=self._broker) as consumer:
            return await consumer.end_offsets([TopicPartition(TOPIC, one) for one in range(8)])


@pytest.fixture
async def installation(environment, tmp_path, unused_tcp_port_factory, session, publish, broker):
    quick = {"RUNBOOKS_WORKER__LEASE_S": "4", "RUNBOOKS_WORKER__HEARTBEAT_S": "1"}
    installation = Installation(environment | quick, tmp_path, unused_tcp_port_factory(), session, publish, broker)
    await installation.recorder.start()
    try:
        yield installation
    finally:
        for process in installation.running:
            await process.end(signal.SIGKILL)
        await installation.recorder.stop()


@pytest.fixture
def runbook(installation):
    """One that calls once and lets nobody try again."""
    url = f"{installation.recorder.url}/{{{{ anomaly.metric_name }}}}"
    step = {"type": "http", "method": "POST", "url": url, "on_unknown": "fail"}
    return {"name": "calls", "trigger": {"service_id": "s"}, "steps": [step]}


async def test_moved_out_nothing_is_done_again(installation, runbook):
    whole = await installation.whole()
    await installation.does_three(runbook)
    await whole.end()
    await installation.whole(HTTP)
    await installation.ask("waits")
    await installation.sent(4)
    await installation.near(HTTP)
    await installation.did_all_four_once("http")


async def test_with_another_set_of_kinds_nothing_is_done_again(installation, runbook):
    await installation.whole(SHELL)
    near = await installation.near(HTTP)
    await installation.does_three(runbook)
    await near.end()
    await installation.ask("waits")
    await installation.sent(4)
    await installation.near(SHELL)
    await installation.did_all_four_once("http", "shell")


async def test_moved_back_nothing_is_done_again(installation, runbook):
    whole = await installation.whole(HTTP)
    near = await installation.near(HTTP)
    await installation.does_three(runbook)
    await near.end()
    await installation.ask("waits")
    await installation.sent(4)
    await whole.end()
    await installation.whole()
    await installation.did_all_four_once()


async def test_what_a_killed_worker_was_doing_is_not_begun_by_the_other_group(installation, runbook):
    whole = await installation.whole()
    await installation.api.put_runbook(runbook)
    await installation.ask("hangs", path="hang-once")

    async def hangs():
        return len(installation.calls()) == 1

    await until(hangs)
    behind = beside("hangs", 2)
    await installation.ask(*behind)
    done = [execution_of(name) for name in behind]

    async def are_done():
        return [one for one in await installation.api.history() if one["finished_at"]][1:]

    await until(are_done)  # what stands behind the one that hangs is done and cannot be committed
    await whole.end(signal.SIGKILL)
    await installation.whole(HTTP)
    await installation.given_up()
    await installation.near(HTTP)
    items = await installation.api.ended(3)
    await installation.settled("http")
    ends = {execution_of("hangs"): "failed"} | dict.fromkeys(done, "succeeded")
    assert {one["execution_id"]: one["status"] for one in items} == ends
    assert installation.calls() == Counter(ends.keys())


def execution_of(name: str) -> str:
    """The execution that an anomaly starts."""
    return execution_id_for_anomaly("default", name, "calls")


def beside(name: str, count: int) -> list[str]:
    """Names of anomalies whose commands come into the partition of this one's."""

    def place(one: str) -> int:
        return partition_of(execution_of(one), range(8))

    return [one for one in map(str, range(1000)) if place(one) == place(name)][:count]
