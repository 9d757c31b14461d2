"""Anomalies a second through the real worker, beside bare readers of the same records, and what matching costs.

100 definitions, 1 in 100 anomalies matches one. Beside it, in turn, on the same records of the same topic: an aiokafka
consumer that decodes each with orjson, and a Faust agent that does nothing. Then the catalog and the conditions alone,
in this process, with 1 to 10,000 definitions.
"""

import asyncio
import json
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import orjson
from bench import target
from figures import Figure, part_arguments, report
from flow import PARTITIONS, TOPIC, Flow, StillWorker, begin_at, definition, folder_of, peer, still_worker
from peers.rulebook_source import event

from app.broker.kafka import EmbeddedKafka
from app.core.anomaly import Position, read_anomaly
from app.core.catalog import Catalog, RunbookPut
from app.core.matching import Match, match
from app.core.runbook import read_runbook

DEFINITIONS = 100
EVERY = 100
"""One in so many matches."""
PEERS = Path(__file__).parent / "peers"
OURS, RAW, BATCHES, FAUST = "worker", "aiokafka, record by record", "aiokafka, by batch", "Faust, does nothing"
NOBODY = "about services that no definition names"
BELOW = "below their definition's threshold, each answer kept"


def is_hit(number: int, count: int) -> bool:
    """Whether it matches: one in a hundred, and the first and the last of every partition."""
    return number % EVERY == EVERY // 2 or number < PARTITIONS or number >= count - PARTITIONS


def events_of(count: int, others: str):
    """What the n-th event is."""

    def event_of(number: int) -> dict:
        service = number % DEFINITIONS
        if is_hit(number, count):
            return event(number, f"svc-{service}", 0.9)
        return event(number, f"svc-{service}" if others == BELOW else f"other-{service}", 0.1)

    return event_of


async def round_of(
    servers: str, worker: StillWorker, folder: Path, count: int, others: str, turn: int
) -> dict[str, Flow]:
    """All sides once, each on the same records."""
    decided = count if others == BELOW else sum(is_hit(number, count) for number in range(count))
    ours, ranges = await worker.handles(count, events_of(count, others), decided)
    group = f"faust-{time.time_ns()}"
    await begin_at(servers, group, {partition: first for partition, (first, _) in ranges.items()})
    raw = (sys.executable, str(PEERS / "raw_consumer.py"), servers, TOPIC, json.dumps(ranges))
    faust = (sys.executable, str(PEERS / "faust_agent.py"), servers, group, TOPIC, str(count), str(folder / group))
    sides = [(RAW, (*raw, "one")), (BATCHES, (*raw, "many")), (FAUST, faust)]
    found = {OURS: ours}
    for name, command in sides[turn % 3 :] + sides[: turn % 3]:
        found[name] = await peer(count, *command)
        await worker.breathe()
    return found


async def streams(rounds: int, count: int, kinds: tuple[str, ...]) -> list[Figure]:
    """The figures of whole processes; kinds: what the anomalies are about that match nothing."""
    found: dict[str, list[dict[str, Flow]]] = {others: [] for others in kinds}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with EmbeddedKafka(data_dir=folder / "kafka") as kafka, target() as url:
            servers = kafka.bootstrap_servers
            folder_of((definition(number, url) for number in range(DEFINITIONS)), folder / "runbooks")
            settings = {"RUNBOOKS_RUNBOOKS_DIR": str(folder / "runbooks")}
            async with still_worker(servers, folder, **settings) as worker:
                # each definition runs once, and is in its cooldown from then on
                await worker.handles(DEFINITIONS, lambda number: event(number, f"svc-{number}", 0.9), DEFINITIONS)
                await worker.carries_out(DEFINITIONS)
                for turn in range(rounds):
                    for others, rows in found.items():
                        rows.append(await round_of(servers, worker, folder, count, others, turn))
                        told = {side: f"{one.per_second:,.0f}/s {one.cpu_us:.1f} µs" for side, one in rows[-1].items()}
                        print(f"1 % hits, the others {others}: {told}", flush=True)
    return [figure for others, rows in found.items() for figure in _figures(others, rows)]


def _figures(others: str, rows: list[dict[str, Flow]]) -> list[Figure]:
    def sides(value, *names: str) -> dict[str, list[float]]:
        return {name: [value(row[name]) for row in rows] for name in names}

    def rate(flow: Flow) -> float:
        return flow.per_second

    name = f"anomalies matched, 1 % hits, the others {others}"
    note = "hits are requested and end in their runbook's cooldown, in the same worker at the same time"
    return [
        Figure(name, "1/s", sides(rate, OURS, RAW, BATCHES), ">= 0.5", at_least=0.5, note=note),
        Figure(name, "1/s", sides(rate, OURS, FAUST), ">= 0.8", at_least=0.8),
        Figure(f"processor, {name}", "µs each", sides(lambda one: one.cpu_us, OURS, RAW, FAUST, BATCHES)),
    ]


def catalog(definitions: int) -> Catalog:
    """So many of the shape `svc`, each with a condition of its own."""
    found = Catalog()
    for number in range(definitions):
        content = definition(number, "https://x.example/y")
        content["trigger"]["condition"] = f"anomaly_score > 0.7{number:05}"
        found.apply(RunbookPut(tenant="default", runbook=read_runbook(content), by="bench", at=datetime.now(UTC)))
    return found


def matching_us(definitions: Catalog, records: list[bytes], matched: int) -> float:
    """Processor microseconds an event: read it, ask the catalog, evaluate the conditions."""
    seen = datetime.now(UTC)
    hits, begun = 0, time.process_time()
    for offset, raw in enumerate(records):
        anomaly = read_anomaly(raw, Position(topic=TOPIC, partition=0, offset=offset, timestamp=seen))
        hits += sum(isinstance(one, Match) for one in match(anomaly, definitions))
    used = time.process_time() - begun
    assert hits == matched, (hits, matched)
    return used / len(records) * 1e6


def costs(rounds: int, sizes: tuple[int, ...], count: int) -> list[Figure]:
    """The figures of matching alone."""
    catalogs = {size: catalog(size) for size in sizes}
    kinds = {
        "no definition names its service": lambda number, _: event(number, "other", 0.9),
        "its definition does not match": lambda number, size: event(number, f"svc-{number * 7919 % size}", 0.1),
        "its definition matches": lambda number, size: event(number, f"svc-{number * 7919 % size}", 0.9),
    }
    figures = []
    for kind, event_of in kinds.items():
        sides: dict[str, list[float]] = {f"{size:,} definitions": [] for size in reversed(sizes)}
        sides = {name: sides[name] for name in (*list(sides)[:1], *reversed(list(sides)[1:]))}
        matched = count if kind.endswith("matches") else 0
        for turn in range(rounds + 1):
            for size in sizes if turn % 2 else reversed(sizes):
                records = [orjson.dumps(event_of(number, size)) for number in range(count)]
                value = matching_us(catalogs[size], records, matched)
                if turn:  # the first one only warms up
                    sides[f"{size:,} definitions"].append(value)
        figures.append(Figure(f"matching one anomaly, {kind}", "µs", sides, "<= 1.2", at_most=1.2))
    return figures


def main() -> None:
    arguments = part_arguments(__doc__ or "", rounds=5)
    if arguments.short:
        figures = costs(arguments.rounds, (1, 100), 200)
        figures += asyncio.run(streams(arguments.rounds, 1600, (BELOW,)))
    else:
        figures = costs(arguments.rounds, (1, 100, 1000, 10_000), 10_000)
        figures += asyncio.run(streams(arguments.rounds, 40_000, (NOBODY, BELOW)))
    report(arguments, figures)


if __name__ == "__main__":
    main()
