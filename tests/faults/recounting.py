"""A small re-count of the log that shares nothing with the product's fold: what each execution came to.

It knows only what the load's runbooks use: retries, policies for unknown outcomes, approval, rollback on failure. It is
more lenient than the product where that cannot change an end: it does not compute when a retry is due, but takes the
next attempt once somebody answers for it.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from faults.reading import Logged

HARMLESS = {"GET", "HEAD", "OPTIONS", "PUT", "DELETE"}
UNKNOWN_TRIES, ROLLBACK_TRIES = 3, 12
LIVE = {"queued", "running", "awaiting_approval", "rolling_back"}


@dataclass
class Step:
    """One step, forward or back; index is the forward step's."""

    index: int
    status: str = "pending"
    attempt: int = 1
    failures: int = 0
    lease: datetime | None = None
    digest: str | None = None
    began: bool = False

    @property
    def attempts(self) -> int:
        """How often it was tried."""
        return self.failures + (self.status in {"started", "succeeded", "unclear"})

    @property
    def shown(self) -> str:
        """As the history calls it."""
        return "unknown" if self.status == "unclear" else self.status


@dataclass
class Counted:
    """One execution; accepted holds the offsets of the records that counted.

    answered: step, whether on the way back, and attempt of all that somebody answered for, from the whole log.
    """

    request: dict[str, Any]
    run: int
    partition: int
    status: str = "queued"
    cursor: int = 0
    steps: list[Step] = field(default_factory=list)
    back: list[Step] | None = None
    accepted: set[int] = field(default_factory=set)
    approvals: dict[int, float] = field(default_factory=dict)
    answered: set[tuple[int, bool, int]] = field(default_factory=set)

    @property
    def over(self) -> bool:
        """Whether it has ended or waits for a person's word about an unknown outcome."""
        return self.status not in LIVE

    def definition(self, index: int) -> dict[str, Any]:
        """The step as the runbook has it."""
        steps: list[dict[str, Any]] = self.request["runbook"]["steps"]
        return steps[index]

    def standing(self) -> Step | None:
        """The step it stands at."""
        if self.back is not None:
            return next((step for step in self.back if step.status in {"pending", "started", "backing_off"}), None)
        return self.steps[self.cursor] if self.cursor < len(self.steps) else None


def unsettled(counted: dict[str, Counted]) -> dict[str, Counted]:
    """Those that still have something to do: not over, nor waiting for a host that one without a known end holds."""
    held = {place for one in counted.values() if one.status == "attention" for place in _hosts(one)}
    return {
        name: one
        for name, one in counted.items()
        if not one.over and not (one.status == "queued" and held & _hosts(one))
    }


def _hosts(one: Counted) -> set[tuple[str, str]]:
    steps = one.request["runbook"]["steps"]
    return {(one.request["tenant"], step["host"]) for step in steps if "host" in step}


def recount(log: list[Logged]) -> dict[str, Counted]:
    """All executions of the log by id."""
    found: dict[str, Counted] = {}
    answered: defaultdict[str, set[tuple[int, bool, int]]] = defaultdict(set)
    for event in (record.value for record in log):
        if "phase" in event:
            answered[event["execution_id"]].add((event["step"], event["phase"] == "rollback", event["attempt"]))
    for record in log:
        event = record.value
        name = event["execution_id"]
        if event["type"] == "execution_requested":
            if name not in found:
                steps = [Step(index) for index in range(len(event["runbook"]["steps"]))]
                found[name] = Counted(event, record.offset, record.partition, steps=steps, answered=answered[name])
        elif name in found and _count(found[name], event, record):
            found[name].accepted.add(record.offset)
    return found


def _count(one: Counted, event: dict[str, Any], record: Logged) -> bool:
    if one.status not in LIVE | {"attention"} or event.get("run") not in {None, one.run}:
        return False
    step = one.standing()
    if step is None:
        return False
    if event["type"] == "timer_fired":
        return _lease_over(one, step, event)
    if event["type"] == "approval_decided":
        return _decided(one, step, event, record)
    rolling = one.back is not None
    if event.get("step") != step.index or (event.get("phase") == "rollback") != rolling or "attempt" not in event:
        return False
    if step.status == "backing_off" and event["attempt"] == step.attempt + 1:
        step.attempt, step.status = step.attempt + 1, "approved" if step.digest and not rolling else "pending"
    return event["attempt"] == step.attempt and _answered(one, step, event)


def _answered(one: Counted, step: Step, event: dict[str, Any]) -> bool:
    waiting = step.status in {"pending", "approved"}
    asks = one.back is None and bool(one.definition(step.index).get("require_approval"))
    planned = "prepare" if asks and step.status == "pending" else "apply"
    if one.back is None and event["phase"] != planned:
        return False
    match event["type"]:
        case "step_prepared" if waiting and asks:
            again = step.digest is not None
            step.status, step.digest, one.status = "awaiting_approval", event["plan"]["digest"], "awaiting_approval"
            step.attempt += again
        case "step_started" if waiting and (not asks or step.digest == event["plan"]["digest"]):
            step.status, step.began, step.lease = "started", True, _time(event["lease_until"])
            one.status = "running" if one.back is None else "rolling_back"
        case "step_heartbeat" if step.status == "started":
            assert step.lease is not None
            step.lease = max(step.lease, _time(event["lease_until"]))
        case "step_interrupted" if waiting:
            step.attempt += 1
        case "step_finished" if (
            waiting or step.status in {"started", "unclear"} or _settles(one, step, event["outcome"])
        ):
            return _finished(one, step, event["outcome"], waiting=waiting)
        case _:
            return False
    return True


def _settles(one: Counted, step: Step, outcome: dict[str, Any]) -> bool:
    """Whether a late word leaves nothing to try again of a step whose next try waits, and was not issued later."""
    if step.status != "backing_off" or (step.index, one.back is not None, step.attempt + 1) in one.answered:
        return False
    final = outcome["outcome"] == "succeeded" or not (outcome.get("error") or {}).get("temporary")
    return final and outcome["outcome"] != "unknown"


def _finished(one: Counted, step: Step, outcome: dict[str, Any], *, waiting: bool) -> bool:
    if outcome["outcome"] == "succeeded":
        if waiting:
            return False
        step.status = "succeeded"
        _onward(one)
    elif outcome["outcome"] == "unknown":
        _unknown(one, step)
    else:
        temporary = bool((outcome.get("error") or {}).get("temporary"))
        tries = ROLLBACK_TRIES
        if one.back is None:
            tries = one.definition(step.index).get("retries", {}).get("max_attempts", 1)
        if temporary and step.failures + 1 < tries:
            _again(one, step)
        else:
            _gave_up(one, step, "failed")
    return True


def _unknown(one: Counted, step: Step) -> None:
    definition = one.definition(step.index)
    harmless = definition["type"] == "kubernetes" or definition.get("method", "GET") in HARMLESS
    if definition["type"] in {"shell", "slack"}:
        harmless = False
    policy = definition.get("on_unknown") or ("retry" if harmless else "attention")
    tries = max(definition.get("retries", {}).get("max_attempts", 1), UNKNOWN_TRIES)
    if one.back is not None:  # the load's only declared inverse is a DELETE
        policy, tries = "retry", ROLLBACK_TRIES
    if policy == "retry" and step.failures + 1 < tries:
        _again(one, step)
    elif policy == "attention" or (policy == "retry" and one.back is None):
        step.status, one.status = "unclear", "attention"
    else:
        _gave_up(one, step, "unknown")


def _again(one: Counted, step: Step) -> None:
    step.failures, step.status = step.failures + 1, "backing_off"
    one.status = "running" if one.back is None else "rolling_back"


def _gave_up(one: Counted, step: Step, status: str) -> None:
    step.failures, step.status = step.failures + 1, status
    if one.back is not None:
        _onward(one)
    elif one.request["runbook"].get("rollback_on_failure"):
        took = [past for past in reversed(one.steps) if past.status in {"succeeded", "unknown"} or _midway(one, past)]
        one.back = [Step(past.index, status="pending" if _inverse(one, past) else "manual") for past in took]
        one.status = "rolling_back" if one.standing() is not None else "failed"
    else:
        one.status = "failed"


def _midway(one: Counted, step: Step) -> bool:
    return step.status == "failed" and step.began and _inverse(one, step)


def _inverse(one: Counted, step: Step) -> bool:
    return one.definition(step.index).get("rollback") is not None


def _onward(one: Counted) -> None:
    if one.back is not None:
        if one.standing() is None:
            bad = any(step.status in {"failed", "unknown"} for step in one.back)
            one.status = "rollback_failed" if bad else "rolled_back"
        return
    one.cursor += 1
    one.status = "running" if one.cursor < len(one.steps) else "succeeded"


def _lease_over(one: Counted, step: Step, event: dict[str, Any]) -> bool:
    if step.status != "started" or step.lease is None or _time(event["at"]) < step.lease:
        return False
    _unknown(one, step)
    return True


def _decided(one: Counted, step: Step, event: dict[str, Any], record: Logged) -> bool:
    bound = event.get("digest") in {None, step.digest}
    mine = step.status == "awaiting_approval" and event["step"] == step.index and bound
    if not mine or event.get("refusal") is not None:
        return False
    if event["decision"] == "approve":
        step.status, one.status = "approved", "running"
        one.approvals[step.index] = record.at
    else:
        step.status, one.status = "halted", "halted"
    return True


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)
