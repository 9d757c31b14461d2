"""Beside ansible-rulebook 1.3.2, in turn on one machine: what an event costs, a start, and a shell command on a host.

The peer is installed by `make bench-peers`; without it, and with --short, only our side is measured. Its events come
from its own process or from its webhook, ours through Kafka; its actions are run by Ansible on this machine, ours by an
sshd that runs here. Both have the same events, and rules of the shape `svc`: service_id, metric_name and score > 0.7.
"""

import asyncio
import contextlib
import itertools
import os
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import eda
import orjson
from aiokafka import AIOKafkaProducer
from bench import cpu_s, put_runbook, target, worker
from figures import Figure, part_arguments, report
from flow import GROUP, PARTITIONS, TOPIC, definition, folder_of, still_worker
from peers.rulebook_source import event

from app.broker.kafka import EmbeddedKafka
from app.streams.connection import KafkaConnection
from app.streams.topics import ensure_topics, read_topics

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
OURS, PEER, WEBHOOK = "ours", "ansible-rulebook", "its webhook"
NOBODY, BELOW = "no rule names its service", "below its rule's threshold"
STARTS, AGAIN = "start", "start again"
NO_HISTORY = "ours reads Kafka and keeps what each candidate answered; the peer reads no broker and keeps nothing"
Values = dict[tuple[str, ...], list[float]]
"""By figure and side, the values of the rounds."""


HOSTS = tuple(f"h{number}" for number in range(10))


@dataclass(frozen=True)
class Sizes:
    """How much of everything."""

    rules: tuple[int, ...]
    warm_up: int
    peer_events: int
    posts: int
    our_events: int
    paced: int
    peer_burst: int
    our_burst: int


FULL = Sizes((1, 100, 1000), 5000, 5000, 3000, 16_000, 10, 12, 400)
SHORT = Sizes((100,), 0, 0, 0, 1600, 2, 0, 20)


async def our_matching(sizes: Sizes, rules: int, values: Values) -> None:
    """A start with definitions of a folder, one without any change, and what an unmatched anomaly costs."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedKafka(data_dir=folder / "kafka") as kafka, target() as url:
            servers = kafka.bootstrap_servers
            await ensure_topics(KafkaConnection(servers), read_topics(Path("topics.yaml"), GROUP))
            definitions = folder_of((definition(number, url) for number in range(rules)), folder / "runbooks")
            settings = {"RUNBOOKS_RUNBOOKS_DIR": str(definitions)}
            async with contextlib.AsyncExitStack() as stack:
                begun = time.monotonic()
                await stack.enter_async_context(worker(servers, folder, **settings))
                values[STARTS, str(rules), OURS].append(time.monotonic() - begun)
                values[STARTS, "cpu", str(rules), OURS].append(cpu_s())
            begun = time.monotonic()
            async with still_worker(servers, folder, **settings) as still:
                values[AGAIN, str(rules), OURS].append(time.monotonic() - begun)
                for kind in (NOBODY, BELOW):
                    values[kind, str(rules), OURS].append(await _unmatched(still, sizes.our_events, rules, kind))


async def _unmatched(still, count: int, rules: int, kind: str) -> float:
    def event_of(number: int) -> dict:
        if number < PARTITIONS or number >= count - PARTITIONS:
            return event(number, "svc-0", 0.9)  # the first and last of each partition tell when all is done
        service = f"svc-{number % rules}" if kind == BELOW else f"other-{number % 100}"
        return event(number, service, 0.1)

    flow, _ = await still.handles(count, event_of, count if kind == BELOW else 2 * PARTITIONS)
    return flow.cpu_us


async def peer_matching(sizes: Sizes, rules: int, values: Values) -> None:
    """The same of the peer, with its events from its own process and, but with most rules, from its webhook."""
    count = sizes.peer_events
    plan = [("other", 0.1, 0), ("svc-{}", 0.1, sizes.warm_up), ("other-{}", 0.1, count), ("svc-{}", 0.1, count)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inside, port = eda.in_process(plan, rules, folder), eda.free_port()
        web = eda.webhook(port)
        rulesets = [eda.ruleset("bench", inside, rules, eda.says(inside, "mark"))]
        if with_webhook := rules < max(sizes.rules):
            rulesets.append(eda.ruleset("web", web, rules, eda.says(web, "web")))
        async with eda.running(folder, rulesets) as peer:
            seconds = await eda.timed(peer.go(0))
            if not with_webhook:
                values[STARTS, str(rules), PEER].append(seconds)
                values[STARTS, "cpu", str(rules), PEER].append(peer.cpu_s())
            await peer.go(1)
            for phase, kind in ((2, NOBODY), (3, BELOW)):
                values[kind, str(rules), PEER].append(await peer.go(phase) / count * 1e6)
            if with_webhook:
                await eda.listening(port)
                for number, kind in enumerate(("", NOBODY, BELOW)):  # the first one only warms up
                    used = await _posted(peer, port, number, sizes.posts, rules, kind)
                    if kind:
                        values[kind, str(rules), WEBHOOK].append(used / sizes.posts * 1e6)


async def _posted(peer: eda.Rulebook, port: int, phase: int, count: int, rules: int, kind: str) -> float:
    service = "other-{}" if kind == NOBODY else "svc-{}"
    before = peer.cpu_s()
    await eda.posted(port, count, lambda number: event(number, service.format(number % rules), 0.1))
    await eda.posted(port, 1, lambda _: event(phase, "svc-0", 0.9))
    await peer.until(f"web {phase} of the benchmark")
    return peer.cpu_s() - before


class Commands:
    """A file to which commands append when they began, and which anomaly they are of."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        path.chmod(0o666)

    def command(self, seq: str) -> str:
        """The command; seq: the template of the anomaly's number."""
        return f'echo "$(date +%s%N) {seq}" >> {self.path}'

    def began(self) -> dict[int, float]:
        """When each anomaly's command began, in seconds since 1970."""
        lines = [line.split() for line in self.path.read_text().splitlines()]
        return {int(line[1]): int(line[0]) / 1e9 for line in lines if len(line) == 2}

    async def until(self, count: int) -> None:
        """Wait until so many have begun."""
        while len(self.began()) < count:
            await asyncio.sleep(0.005)


async def paced(commands: Commands, send: Callable[[int], Awaitable[None]], count: int) -> list[float]:
    """Send one after the other: milliseconds from sending to the command's first moment; the first only warms up."""
    found = []
    for number in range(count + 1):
        sent = time.time()
        await send(number)
        await commands.until(number + 1)
        found.append((commands.began()[number] - sent) * 1000)
    return found[1:]


async def burst(commands: Commands, send: Callable[[int], Awaitable[None]], first: int, count: int) -> float:
    """Send many at once: commands a second, until the last of them began."""
    sent = time.time()
    for number in range(first, first + count):
        await send(number)
    await commands.until(first + count)
    return count / (max(commands.began().values()) - sent)


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder to which the account of the sshd may write."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder


async def our_actions(sizes: Sizes, values: Values) -> None:
    """A shell step on hosts of the inventory, which are one sshd: on one host executions run one after the other."""
    from sshd import inventory, running_sshd

    with public_folder() as public, tempfile.TemporaryDirectory() as name, running_sshd() as sshd:
        folder, commands = Path(name), Commands(public / "began")
        settings = {
            "RUNBOOKS_SSH__INVENTORY": str(inventory(folder, **dict.fromkeys(HOSTS, sshd.entry()))),
            "RUNBOOKS_LIMITS__MAX_CONCURRENT_RUNBOOKS": "100",
        }
        step = {"type": "shell", "command": commands.command("{{ anomaly.seq }}")}
        async with (
            EmbeddedKafka(data_dir=folder / "kafka") as kafka,
            worker(kafka.bootstrap_servers, folder, **settings) as session,
            AIOKafkaProducer(bootstrap_servers=kafka.bootstrap_servers, acks="all") as producer,
        ):
            for number, host in enumerate(HOSTS):
                steps = [step | {"host": host}]
                await put_runbook(session, {**definition(number, ""), "steps": steps, "cooldown_seconds": 0})

            async def send(number: int, hosts: int = 1) -> None:
                await producer.send(TOPIC, orjson.dumps(event(number, f"svc-{number % hosts}", 0.9)))

            async def send_to_all(number: int) -> None:
                await send(number, len(HOSTS))

            values["latency", OURS] += await paced(commands, send, sizes.paced)
            values["burst", OURS].append(await burst(commands, send_to_all, sizes.paced + 1, sizes.our_burst))


async def peer_actions(sizes: Sizes, strategy: str, values: Values) -> None:
    """Its `run_module` with a shell command, after a post to its webhook."""
    with public_folder() as folder:
        commands, port = Commands(folder / "began"), eda.free_port()
        source = eda.webhook(port)
        module = {"name": "ansible.builtin.shell", "module_args": {"cmd": commands.command("{{ event.payload.seq }}")}}
        rules = eda.ruleset("web", source, 1, {"run_module": module})
        async with eda.running(folder, [rules], strategy), aiohttp.ClientSession() as session:
            await eda.listening(port)

            async def send(number: int) -> None:
                await eda.post(session, port, event(number, "svc-0", 0.9))

            if strategy == "sequential":
                values["latency", PEER] += await paced(commands, send, sizes.paced)
            else:
                await paced(commands, send, 0)
            first = len(commands.began())
            values["burst", strategy].append(await burst(commands, send, first, sizes.peer_burst))


def why_no_sshd() -> str | None:
    """Why our actions cannot be measured here; None where they can."""
    return None if os.geteuid() == 0 and Path("/usr/sbin/sshd").exists() else "needs root and an sshd"


async def measured(rounds: int, sizes: Sizes, with_peer: bool) -> Values:  # noqa: FBT001 - named at its one call
    """All values, the sides in turn."""
    values: Values = defaultdict(list)
    for turn in range(rounds):
        for rules in sizes.rules:
            sides = [our_matching] + [peer_matching] * with_peer
            for side in sides[:: 1 if turn % 2 else -1]:
                await side(sizes, rules, values)
        if why_no_sshd() is None:
            await our_actions(sizes, values)
        for strategy in ("sequential", "parallel") if with_peer else ():
            await peer_actions(sizes, strategy, values)
    return values


def figures_of(values: Values, sizes: Sizes, missing: str) -> list[Figure]:
    """The rows; missing: why the peer has no values, empty where it has."""
    found = []
    for rules, kind in itertools.product(map(str, sizes.rules), (NOBODY, BELOW)):
        sides = {OURS: values[kind, rules, OURS], PEER: values[kind, rules, PEER]}
        if web := values.get((kind, rules, WEBHOOK)):
            sides[WEBHOOK] = web
        name = f"processor, an event that matches none of {rules}: {kind}"
        note = missing or NO_HISTORY
        found.append(Figure(name, "µs each", sides, "<= 0.5", at_most=0.5, note=note))
    most = str(max(sizes.rules))
    starts = {OURS: values[STARTS, most, OURS], PEER: values[STARTS, most, PEER], AGAIN: values[AGAIN, most, OURS]}
    found.append(
        Figure(
            f"start with {most}",
            "s",
            starts,
            "<= 0.2",
            at_most=0.2,
            note=missing
            or "ours from files, to ready; the peer's to its first action; again: ours from what it knows already",
        )
    )
    starts = {side: values[STARTS, "cpu", most, side] for side in (OURS, PEER)}
    found.append(Figure(f"processor, start with {most}", "s", starts, "<= 0.2", at_most=0.2))
    hosts = f"ours through sshd, many at once on {len(HOSTS)} hosts that are one machine; the peer's on its own machine"
    slow = missing or why_no_sshd() or f"{hosts}; all rounds' values"
    latency = {OURS: values["latency", OURS], PEER: values["latency", PEER]}
    found.append(Figure("anomaly sent → its shell command began", "ms", latency, "<= 0.05", at_most=0.05, note=slow))
    bursts = {
        OURS: values["burst", OURS],
        PEER: values["burst", "sequential"],
        "in parallel": values["burst", "parallel"],
    }
    found.append(Figure("shell commands begun, as fast as it can", "1/s", bursts, ">= 100", at_least=100, note=slow))
    return found


def main() -> None:
    arguments = part_arguments(__doc__ or "")
    sizes = SHORT if arguments.short else FULL
    missing = "not measured in short mode" if arguments.short else "" if eda.is_installed() else eda.MISSING
    if missing:
        print(f"ansible-rulebook: {missing}", flush=True)
    values = asyncio.run(measured(arguments.rounds, sizes, with_peer=not missing))
    report(arguments, figures_of(values, sizes, missing))


if __name__ == "__main__":
    main()
