"""Each rule, broken by somebody who may write the topic; and honest logs, in which nothing is found."""

import orjson
import pytest
from building import LEASE, T0, http, plan, scale

from app.audit.decoding import decoded
from app.audit.folding import POSITIONS, LogRecord, PartitionFold, Position
from app.core.errors import RecordRefused
from app.core.events import ApprovalDecided, StepFinished, StepStarted, TimerFired, read_event
from app.core.execution import Execution, Marker
from app.core.ids import command_id
from app.core.planning import Outcome

ASKS = http(require_approval=True, approvals_required=2)


def approved(log, *, votes=2):
    a_plan = plan()
    log.request("e", ASKS)
    log.prepare("e", a_plan)
    for number in range(votes):
        log.approve("e", by=f"approver-{number}", digest=a_plan.digest)
    return a_plan


def forced_start(log, a_plan=None, **fields):
    """A start that a worker writes whatever the state is."""
    run = log.states["e"].run
    named = {"tenant": "default", "execution_id": "e", "run": run, "step": 0, "phase": "apply", "attempt": 1}
    given = {"command_id": command_id("e", run, 0, "apply", 1), "at": log.now, "worker": "w", **named}
    return log.tell(StepStarted(**(given | fields), plan=a_plan or plan(), lease_until=log.now + LEASE))


def changed(log, offset, change):
    """Somebody changes one record."""
    key, value = log.records[offset]
    document = orjson.loads(value)
    change(document)
    log.records[offset] = (key, orjson.dumps(document))


def test_honest_runs_with_approvals_retries_and_rollbacks_are_clean(log):
    a_plan = approved(log)
    log.finish(log.start("e", a_plan))
    log.request("back", scale(require_approval=True))
    log.prepare("back", plan(inverse=True))
    log.approve("back")
    log.finish(log.start("back", log.states["back"].steps[0].plan))
    log.take_back("back")
    log.prepare("back", plan("take it back"))
    log.approve("back", by="cleo")
    log.finish(log.start("back", plan("take it back")))
    log.request("failed", rollback_on_failure=True)
    log.finish(log.start("failed"), "failed")
    log.succeed("failed")
    log.request("cancelled", http(require_approval=True))
    log.prepare("cancelled")
    log.cancel("cancelled")
    assert {name: state.status.value for name, state in log.states.items()} == {
        "e": "succeeded",
        "back": "rolled_back",
        "failed": "rolled_back",
        "cancelled": "cancelled",
    }
    fold, found = log.audited()
    assert found == []
    assert all(isinstance(known.state, Marker) for known in fold.position.known.values())


def test_a_start_without_enough_approvals_is_found_though_the_fold_refuses_it(log):
    a_plan = approved(log, votes=1)
    log.approve("e", by="approver-0", digest=a_plan.digest)
    log.approve("e", by="olga", digest=a_plan.digest)
    forced_start(log, a_plan)
    assert log.refusal is not None
    assert log.audited()[1] == [(len(log.records) - 1, "approval")]


def test_an_approval_of_another_plan_or_after_the_start_is_none(log):
    approved(log)
    forced_start(log, plan("do something else"))
    late = len(log.records) - 1
    assert log.audited()[1] == [(late, "approval")]


ESCALATES = http(require_approval=True, approvers=["ann"], escalate_to=["group:leads"], approval_timeout_minutes=60)


def vote(log, **fields):
    """A decision whose sender was checked, whatever the state is."""
    given = {"step": 0, "by": "bob", "decision": "approve", **fields}
    return log.tell(ApprovalDecided(**({"tenant": "default", "execution_id": "e", "at": log.now} | given)))


def asked(log, step):
    """Somebody was asked about the only step; its plan."""
    a_plan = plan()
    log.request("e", step)
    log.prepare("e", a_plan)
    return a_plan


@pytest.mark.parametrize(
    "fields",
    [
        {"run": 999},
        {"request": 7},
        {"digest": "another"},
        {"at": T0},
        {"refusal": "not signed"},
        {"by": "olga"},
        {"by": "group:sre"},
    ],
)
def test_a_vote_that_the_fold_refuses_is_none_to_the_rules_either(log, fields):
    log.seconds = 1
    a_plan = asked(log, http(require_approval=True, approvers=["bob", "olga", "group:sre"]))
    vote(log, **fields)
    assert log.refusal is not None
    forced_start(log, a_plan)
    assert log.audited()[1] == [(3, "approval")]


def test_a_vote_of_this_run_request_and_plan_is_one(log):
    a_plan = asked(log, http(require_approval=True))
    vote(log, run=0, request=1, digest=a_plan.digest, at=T0)
    log.start("e", a_plan)
    assert log.audited()[1] == []


@pytest.mark.parametrize("on_halt", ["keep", "rollback"])
def test_a_plan_that_somebody_rejected_stays_so(log, on_halt):
    a_plan = plan()
    log.request("e", scale(), http(require_approval=True), on_halt=on_halt)
    log.finish(log.start("e"))
    log.prepare("e", a_plan)
    log.approve("e", decision="reject")
    vote(log, step=1)
    run = log.states["e"].run
    forced_start(log, a_plan, step=1, command_id=command_id("e", run, 1, "apply", 1))
    expected = [(6, "approval")] if on_halt == "rollback" else []  # what comes after the end is not judged
    assert log.audited()[1] == expected


def test_a_no_that_does_not_count_ends_nothing(log):
    a_plan = asked(log, http(require_approval=True, approvers=["ann", "bob"], approvals_required=2))
    vote(log, by="ann")
    for fields in ({"by": "ann"}, {"by": "cleo"}, {"request": 2}, {"run": 3}):
        vote(log, **({"decision": "reject"} | fields))
        assert log.refusal is not None
    vote(log)
    vote(log, by="dan", decision="reject")
    log.start("e", a_plan)
    assert log.audited()[1] == []


@pytest.mark.parametrize(
    ("after_s", "counts"), [(None, False), (1800, False), (2699, False), (2700, True), (3000, True)]
)
def test_those_it_is_escalated_to_count_once_it_is(log, after_s, counts):
    a_plan = asked(log, ESCALATES)
    asked_at = log.now.timestamp() - 1
    if after_s is not None:
        log.seconds = asked_at + after_s - T0.timestamp()
        log.tell(TimerFired(tenant="default", execution_id="e", at=log.now))
    vote(log, groups=["leads"])
    assert (log.refusal is None) == counts
    at = len(log.records)
    forced_start(log, a_plan)
    assert log.audited()[1] == ([] if counts else [(at, "approval")])


def test_a_request_that_is_made_again_is_escalated_anew(log):
    asked(log, ESCALATES)
    log.seconds += 2700
    log.tell(TimerFired(tenant="default", execution_id="e", at=log.now))
    vote(log, groups=["leads"])
    log.prepare("e", plan("do something else"))
    vote(log, groups=["leads"])
    assert log.refusal is not None
    forced_start(log, plan("do something else"))
    assert log.audited()[1] == [(6, "approval")]


def test_requests_for_approval_are_counted_on_through_rollbacks_by_hand(log):
    log.request("e", scale(require_approval=True))
    log.prepare("e", plan(inverse=True))
    vote(log, request=1)
    log.finish(log.start("e", log.states["e"].steps[0].plan))
    for number in (2, 3):
        log.seconds += 24 * 3600
        log.request(f"time passes {number}")
        log.take_back("e", by="olga")
        log.prepare("e", plan("take it back"))
        vote(log, request=number)
        assert log.refusal is None
        log.finish(log.start("e", plan("take it back")), "failed" if number == 2 else "succeeded")
    assert log.states["e"].status == "rolled_back"
    assert log.audited()[1] == []


@pytest.mark.parametrize(("begins", "run", "told"), [(0, 0, True), (0, -1, True), (5, 4, False), (5, 5, True)])
def test_a_start_of_an_execution_that_nobody_requested_is_found(log, begins, run, told):
    named = {"tenant": "default", "execution_id": "ghost", "run": run, "step": 0, "phase": "apply", "attempt": 1}
    given = {"command_id": command_id("ghost", run, 0, "apply", 1), "at": log.now, "worker": "w", **named}
    log.finish(log.tell(StepStarted(**given, plan=plan(), lease_until=log.now + LEASE)))
    found = []
    fold = PartitionFold(Position(0, begins, begins), {"default": 0}, found.append)
    for number, record in enumerate(log.records):
        fold.feed(LogRecord(begins + number, 0, *record))
    assert [(one.offset, one.rule) for one in found] == ([(begins, "not_requested")] if told else [])


@pytest.mark.parametrize(("run", "told"), [(-1, True), (0, False), (4, True), (999, True)])
def test_a_start_of_a_run_that_nobody_requested_is_found(log, run, told):
    log.request("e")
    log.succeed("e")
    log.seconds += 26 * 3600
    log.request("e", ASKS)
    named = {"run": run, "command_id": command_id("e", run, 0, "apply", 1)}
    forced_start(log, **named)
    assert log.audited()[1] == ([(4, "not_requested")] if told else [])


def test_a_guards_verdict_asks_for_the_first_step_only(log):
    guard = {"max_runs_per_hour": 1, "when_exceeded": "approve"}
    log.request("e", http(), http(), **guard)
    changed(log, 0, lambda request: request.update(requested_by=None))
    forced_start(log)
    fold, found = log.audited()
    assert found == [(0, "ids")]
    fold.position.known["e"].facts.verdict = "approve"
    event = read_event(log.records[1][1])
    request = fold.position.known["e"].request
    assert [rule for rule, _ in fold.position.known["e"].facts.take(request, event, accepted=False)] == ["approval"]


def test_a_command_that_two_workers_start_is_found_and_a_repeated_record_is_not(log):
    log.request("e")
    log.start("e")
    log.records.append(log.records[-1])
    forced_start(log, worker="another")
    assert log.audited()[1] == [(3, "started_twice")]


def test_a_success_needs_a_start_that_came_before(log):
    log.request("e")
    started = log.start("e")
    log.finish(started)
    changed(log, 2, lambda ended: ended.update(at=T0.replace(year=T0.year - 1).isoformat()))
    assert log.audited()[1] == [(2, "order")]


def test_a_dry_run_starts_nothing(log):
    log.request("e", dry_run=True)
    forced_start(log)
    assert log.audited()[1] == [(1, "not_started")]


@pytest.mark.parametrize(
    ("offset", "change", "rule"),
    [
        (0, lambda request: request["runbook"].update(description="another"), "digest"),
        (1, lambda started: started["plan"].update(summary="do something else"), "digest"),
        (1, lambda started: started.update(command_id="e/0/0/apply/2"), "ids"),
        (1, lambda started: started.update(tenant="other"), "key"),
        (2, lambda ended: ended.update(outcome="good"), "unreadable"),
    ],
)
def test_what_was_changed_in_a_record_is_found_there(log, offset, change, rule):
    log.request("e")
    log.finish(log.start("e"))
    changed(log, offset, change)
    assert (offset, rule) in log.audited()[1]


def test_a_pinned_state_that_is_not_the_end_is_found(log):
    log.request("e", scale())
    log.succeed("e")
    log.take_back("e")
    changed(log, 3, lambda asked: asked["finished"].update(reason="made up"))
    assert (3, "pinned") in log.audited()[1]


def test_records_between_two_others_are_missed(log):
    log.request("e")
    found = []
    fold = PartitionFold(Position(0, 0), {"default": 0}, found.append)
    for offset in (0, 5):
        fold.feed(LogRecord(offset, 0, *log.records[0]))
    assert [one.told() for one in found] == ["0/5 offsets: records 1 to 4 are missing"]


def test_what_ended_is_forgotten_after_its_window_and_its_row_is_told_once(log):
    for number in range(50):
        log.request(f"e{number}")
        log.succeed(f"e{number}")
        log.seconds += 24 * 3600
    fold, found = log.audited()
    assert found == []
    assert len(fold.position.known) <= 3
    told = [one.execution_id for one in [*fold.closed, *fold.remaining()]]
    assert sorted(told) == sorted(f"e{number}" for number in range(50))
    assert [one.run for one in fold.requested] == [3 * number for number in range(50)]


def test_a_position_comes_back_from_json_as_it_was(log):
    approved(log, votes=1)
    log.request("f")
    log.succeed("f")
    position = log.audited()[0].position
    (again,) = POSITIONS.validate_json(POSITIONS.dump_json([position]))
    assert again == position
    assert isinstance(again.known["e"].state, Execution)


def test_the_fast_reader_reads_what_the_products_reader_reads(log):
    log.request("e", ASKS)
    log.prepare("e")
    log.records += [(b"k", b"{"), (b"k", b"[]"), (b"k", b'{"type":"execution_requested","runbook":{"name":1}}')]
    for _, value in [*log.records, *log.records]:
        assert _answer(lambda raw: decoded(raw)[0], value) == _answer(read_event, value)


def _answer(read, value):
    """What a reader gives, or why it refuses."""
    try:
        return read(value)
    except RecordRefused as refused:
        return refused.problems


def test_a_forged_success_is_found(log):
    log.request("e")
    started = log.start("e")
    named = started.model_dump(exclude={"plan", "lease_until", "worker", "type"})
    log.records.pop()
    log.states.clear()
    log.tell(StepFinished(**named, outcome=Outcome(outcome="succeeded")))
    fold, found = log.audited()
    assert found == []  # the fold does not take it, so it is no success
    assert isinstance(fold.position.known["e"].state, Execution)
