"""Each rule, broken by somebody who may write the topic; and honest logs, in which nothing is found."""

import orjson
import pytest
from building import LEASE, T0, http, plan, scale

from app.audit.decoding import decoded
from app.audit.folding import POSITIONS, LogRecord, PartitionFold, Position
from app.core.errors import RecordRefused
from app.core.events import StepFinished, StepStarted, read_event
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
