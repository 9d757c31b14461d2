"""The checker sees what it must see: each thing that must not be, planted into a run that was good."""

import copy
from datetime import UTC, datetime, timedelta

import pytest
from faults.checking import Evidence, check, expected_id
from faults.loads import Anomaly
from faults.reading import Logged
from faults.recorder import Effect
from faults.recounting import Counted, unsettled

T0 = datetime(2026, 1, 1, tzinfo=UTC)
ANOMALY = Anomaly("t", "a-1", "gated", T0.timestamp())
NAME = expected_id("t", "a-1", "gated")
CALL = {"type": "http", "method": "POST", "url": "http://x/"}
PLAN = {"digest": "d"}


def event(number, kind, **fields):
    at = T0 + timedelta(seconds=number)
    content = {"type": kind, "tenant": "t", "execution_id": NAME, "at": at.isoformat(), **fields}
    return Logged(0, number, at.timestamp(), "t", content)


def answer(number, kind, step, phase="apply", attempt=1, **fields):
    command = f"{NAME}/0/{step}/{phase}/{attempt}"
    named = {"run": 0, "step": step, "phase": phase, "attempt": attempt, "command_id": command}
    return event(number, kind, **named, **fields)


def started(number, step, attempt=1):
    lease = (T0 + timedelta(seconds=number + 10)).isoformat()
    return answer(number, "step_started", step, attempt=attempt, plan=PLAN, lease_until=lease)


def succeeded(number, step, attempt=1):
    return answer(number, "step_finished", step, attempt=attempt, outcome={"outcome": "succeeded"})


def effect(number, step):
    return Effect((NAME, step, "apply"), T0.timestamp() + number + 0.5)


def good():
    """One execution: a call, and another one after an approval."""
    runbook = {"name": "gated", "steps": [CALL, {**CALL, "require_approval": True}]}
    log = [
        event(0, "execution_requested", runbook=runbook),
        started(1, 0),
        succeeded(2, 0),
        answer(3, "step_prepared", 1, phase="prepare", plan=PLAN),
        event(4, "approval_decided", step=1, decision="approve", digest="d", run=0, refusal=None),
        started(5, 1),
        succeeded(6, 1),
    ]
    steps = [{"status": "succeeded", "attempts": 1}] * 2
    item = {"execution_id": NAME, "status": "succeeded", "reason": None, "steps": steps, "rollback": {"steps": []}}
    topics = {
        "anomaly-events": [Logged(0, 0, T0.timestamp(), None, {"anomaly_id": "a-1"})],
        "execution-events": log,
        "dead-letters": [],
    }
    tables = {NAME: {"marker": {"status": "succeeded"}}}
    return Evidence([ANOMALY], topics, [effect(1, 0), effect(5, 1)], [copy.deepcopy(item)], tables)


def with_log(evidence, log):
    return evidence._replace(topics={**evidence.topics, "execution-events": log})


def found(evidence):
    return [(one.sort, one.what) for one in check(evidence)]


def test_a_good_run_has_nothing_wrong():
    assert found(good()) == []


@pytest.mark.parametrize(
    ("plant", "sort", "what"),
    [
        (lambda e, log: with_log(e, []), "lost", "started nothing"),
        (lambda e, log: with_log(e, log[:-1]), "lost", "it is still running"),
        (lambda e, log: e._replace(anomalies=[]), "doubled", "no anomaly accounts for"),
        (lambda e, log: e._replace(effects=e.effects[:1]), "lost", "succeeded without a side effect"),
        (lambda e, log: e._replace(effects=[*e.effects, effect(1, 0)]), "doubled", "2 side effects of (0, 'apply')"),
        (lambda e, log: e._replace(effects=[effect(0, 0), e.effects[1]]), "doubled", "before its step_started"),
        (lambda e, log: with_log(e, [*log[:2], started(1, 0), *log[2:]]), "doubled", "2 step_started of"),
        (lambda e, log: with_log(e, [*log[:4], *log[5:]]), "doubled", "without an approval"),
        (lambda e, log: e._replace(history=[]), "diverged", "the history has it 0 times"),
        (lambda e, log: e._replace(history=e.history * 2), "diverged", "the history has it 2 times"),
        (lambda e, log: e._replace(history=[{**e.history[0], "status": "failed"}]), "diverged", "the history says"),
        (lambda e, log: e._replace(tables={}), "diverged", "the table says None"),
        (lambda e, log: e._replace(topics={**e.topics, "dead-letters": log[:1]}), "lost", "a dead letter"),
        (lambda e, log: e._replace(topics={**e.topics, "anomaly-events": []}), "lost", "not on the topic"),
    ],
)
def test_what_must_not_be_is_seen(plant, sort, what):
    evidence = good()
    seen = found(plant(evidence, evidence.topics["execution-events"]))
    assert [one for one in seen if one[0] == sort and what in one[1]], seen


def test_two_effects_in_the_window_of_one_attempt_are_seen_though_two_attempts_were_started():
    evidence = good()
    log = list(evidence.topics["execution-events"])
    over = event(12, "timer_fired")
    log[1:3] = [started(1, 0), over, started(13, 0, attempt=2), succeeded(14, 0, attempt=2)]
    twice = [effect(1, 0), effect(2, 0), *evidence.effects[1:]]
    assert ("doubled", "2 side effects of attempt 1 of (0, 'apply')") in found(
        with_log(evidence._replace(effects=twice), log)
    )


def test_who_waits_for_a_host_that_one_without_a_known_end_holds_has_settled():
    step = {"type": "shell", "host": "h", "command": "true"}
    ours, others = ({"type": "execution_requested", "tenant": tenant, "run": 0} for tenant in ("t", "else"))

    def counted(name, status, request):
        return {name: Counted({**request, "runbook": {"steps": [step]}}, 0, 0, status=status)}

    waits = counted("waits", "queued", ours) | counted("elsewhere", "queued", others)
    assert unsettled(waits | counted("first", "attention", ours)).keys() == {"elsewhere"}
    assert unsettled(waits | counted("first", "succeeded", ours)).keys() == {"elsewhere", "waits"}


def test_a_start_that_did_not_count_must_have_no_effect():
    evidence = good()
    log = list(evidence.topics["execution-events"])
    interrupted = answer(1, "step_interrupted", 0)
    log[1:3] = [interrupted, started(1.1, 0), started(1.2, 0, attempt=2), succeeded(2, 0, attempt=2)]
    early = Effect((NAME, 0, "apply"), T0.timestamp() + 1.15)
    seen = found(with_log(evidence._replace(effects=[early, *evidence.effects]), log))
    assert ("doubled", "a side effect of (0, 'apply') under a start that did not count") in seen
