"""The verdict on a run: anomalies in, side effects out, the log, the tables and the history, held against each other.

Nothing of the product is used: ids are derived again, the log is counted again (``recounting``).
"""

import uuid
from bisect import bisect_right
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any, NamedTuple

from faults.loads import Anomaly
from faults.reading import Logged
from faults.recorder import Effect
from faults.recounting import Counted, recount, unsettled

NAMESPACE = uuid.UUID("8d6c1a52-7f2f-5a55-8f5f-0d7f3c1f6b29")
CLOCK_S = 0.002
"""The broker's time of appending is in whole milliseconds."""


class Violation(NamedTuple):
    """What must not be: sort is lost, doubled or diverged. at: epoch seconds of the execution's request, 0 if none."""

    sort: str
    execution_id: str
    what: str
    at: float = 0.0


class Evidence(NamedTuple):
    """All that a run left behind.

    history: the items of the history API. tables: the last value of each key of the ``executions`` changelog.
    """

    anomalies: list[Anomaly]
    topics: dict[str, list[Logged]]
    effects: list[Effect]
    history: list[dict[str, Any]]
    tables: dict[str, Any]


def expected_id(tenant: str, anomaly_id: str, runbook: str) -> str:
    """The id that an anomaly's execution must have."""
    return str(uuid.uuid5(NAMESPACE, f"anomaly\x00{tenant}\x00{anomaly_id}\x00{runbook}"))


def check(evidence: Evidence) -> list[Violation]:
    """Everything that is not as it must be."""
    log = evidence.topics["execution-events"]
    counted = recount(log)
    found = [
        *_lost(evidence, counted),
        *_doubled(log, evidence.effects, counted),
        *_without_effect(log, evidence.effects, counted),
        *_without_approval(log, evidence.effects, counted),
        *_diverged(evidence.history, evidence.tables, counted),
    ]
    began = {}
    for record in log:
        began.setdefault(record.value["execution_id"], record.at)
    return [one._replace(at=began.get(one.execution_id, 0.0)) for one in found]


def _lost(evidence: Evidence, counted: dict[str, Counted]) -> Iterator[Violation]:
    topic = {record.value["anomaly_id"] for record in evidence.topics["anomaly-events"]}
    expected = {}
    for one in evidence.anomalies:
        if one.anomaly_id not in topic:
            yield Violation("lost", one.anomaly_id, "an acknowledged anomaly is not on the topic")
        expected[expected_id(one.tenant, one.anomaly_id, one.runbook)] = one
    for name, anomaly in expected.items():
        if name not in counted:
            yield Violation("lost", name, f"{anomaly} started nothing")
    for name in counted.keys() - expected.keys():
        yield Violation("doubled", name, "an execution that no anomaly accounts for")
    for name, one in unsettled(counted).items():
        yield Violation("lost", name, f"it is still {one.status} at {one.standing()}")
    for letter in evidence.topics["dead-letters"]:
        yield Violation("lost", "", f"a dead letter at {letter.offset}")


Windows = dict[tuple[str, int, str], list[Logged]]


def _started(log: list[Logged]) -> Windows:
    """The ``step_started`` records of each step and direction, in log order."""
    found: Windows = defaultdict(list)
    for record in log:
        event = record.value
        if event["type"] == "step_started":
            phase = "rollback" if event["phase"] == "rollback" else "apply"
            found[event["execution_id"], event["step"], phase].append(record)
    return found


def _doubled(log: list[Logged], effects: list[Effect], counted: dict[str, Counted]) -> Iterator[Violation]:
    started = _started(log)
    commands = Counter(record.value["command_id"] for records in started.values() for record in records)
    for command, times in commands.items():
        if times > 1:
            yield Violation("doubled", command.split("/")[0], f"{times} step_started of {command}")
    of_place: dict[tuple[str, int, str], list[float]] = defaultdict(list)
    for effect in effects:
        of_place[_normal(effect.place)].append(effect.at)
    for place, times in of_place.items():
        records = started.get(place, [])
        if len(times) > len(records):
            said = f"{len(times)} side effects of {place[1:]} after {len(records)} started attempts"
            yield Violation("doubled", place[0], said)
        used: Counter[int] = Counter(bisect_right([one.at for one in records], at + CLOCK_S) for at in times)
        if used[0]:
            yield Violation("doubled", place[0], f"a side effect of {place[1:]} before its step_started")
        for number, count in used.items():
            if number and count > 1:
                attempt = records[number - 1].value["attempt"]
                yield Violation("doubled", place[0], f"{count} side effects of attempt {attempt} of {place[1:]}")
            if number and place[0] in counted and records[number - 1].offset not in counted[place[0]].accepted:
                said = f"a side effect of {place[1:]} under a start that did not count"
                yield Violation("doubled", place[0], said)


def _normal(place: tuple[str, int, str]) -> tuple[str, int, str]:
    return place if place[2] == "rollback" else (place[0], place[1], "apply")


def _without_effect(log: list[Logged], effects: list[Effect], counted: dict[str, Counted]) -> Iterator[Violation]:
    there = {_normal(effect.place) for effect in effects}
    for record in log:
        event = record.value
        if event["type"] != "step_finished" or event["outcome"]["outcome"] != "succeeded":
            continue
        name = event["execution_id"]
        place = _normal((name, event["step"], event["phase"]))
        if name in counted and record.offset in counted[name].accepted and place not in there:
            yield Violation("lost", name, f"step {place[1:]} succeeded without a side effect")


def _without_approval(log: list[Logged], effects: list[Effect], counted: dict[str, Counted]) -> Iterator[Violation]:
    agreed: dict[tuple[str, int], list[tuple[float, str]]] = defaultdict(list)
    for record in log:
        event = record.value
        if event["type"] == "approval_decided" and event["decision"] == "approve" and event.get("refusal") is None:
            agreed[event["execution_id"], event["step"]].append((record.at, event.get("digest")))
    for effect in effects:
        name, step, phase = effect.place
        asks = name in counted and counted[name].definition(step).get("require_approval") and phase != "rollback"
        if asks and not any(at <= effect.at + CLOCK_S for at, _ in agreed[name, step]):
            yield Violation("doubled", name, f"step {step} had its side effect without an approval")


def _diverged(
    history: list[dict[str, Any]], tables: dict[str, Any], counted: dict[str, Counted]
) -> Iterator[Violation]:
    times = Counter(item["execution_id"] for item in history)
    for name in counted.keys() | times.keys():
        if times[name] != 1:
            yield Violation("diverged", name, f"the history has it {times[name]} times")
    for item in history:
        one = counted.get(item["execution_id"])
        if one is None:
            continue
        shown, ours = _shown(item), _recounted(one)
        if shown != ours:
            yield Violation("diverged", item["execution_id"], f"the history says {shown}, the log {ours}")
        if item["status"] == "attention" and not item["reason"]:
            yield Violation("lost", item["execution_id"], "it needs attention and does not say why")
    for name, one in counted.items():
        row = tables.get(name) or {}
        state = row.get("marker") or row.get("execution") or {}
        if state.get("status") != one.status:
            yield Violation("diverged", name, f"the table says {state.get('status')}, the log {one.status}")


def _shown(item: dict[str, Any]) -> tuple[Any, ...]:
    steps = [(step["status"], step["attempts"]) for step in item["steps"]]
    back = [(step["index"], step["status"]) for step in item["rollback"]["steps"]]
    return item["status"], steps, back


def _recounted(one: Counted) -> tuple[Any, ...]:
    steps = [(step.shown, step.attempts) for step in one.steps]
    return one.status, steps, [(step.index, step.status) for step in one.back or ()]
