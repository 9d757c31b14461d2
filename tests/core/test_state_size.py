"""How large a state can grow: it is one record of a topic, however often its steps are asked about."""

from building import http, plan, story

from app.core.approval import MAX_REPLACED
from app.core.approving import COMMENTS_LIMIT, MAX_REQUESTS
from app.core.execution import Execution
from app.core.planning import OUTPUT_LIMIT, OUTPUTS_LIMIT, PLAN_LIMIT, Prepared, size_of
from app.core.runbook import MAX_RUNBOOK_BYTES, MAX_STEPS
from app.streams.publisher import MAX_RECORD_BYTES

PEOPLE = [f"person-{number}" for number in range(10)]
CHANNELS = [f"#{'c' * 76}-{number:02}" for number in range(20)]
STEP = http(
    require_approval=True,
    approvals_required=len(PEOPLE),
    approval_channel="#" + "c" * 79,
    escalate_to=CHANNELS,
    rollback=http(method="DELETE"),
)
COMMENT = "\U0001f600" * 4096  # the longest there may be, in bytes too
ERROR = "e" * 1024


def large(summary):
    """A plan of the largest size there may be."""
    body = "b" * (PLAN_LIMIT - 9000)
    return Prepared.of(summary + "s" * 8000, params={"method": "POST", "body": body}, manual_reason="no")


def size(s):
    return len(s.state.model_dump_json().encode())


def asked_as_often_as_can_be(s):
    """A step that everybody approves again and again, each message of each request failing."""
    sizes = []
    for number in range(MAX_REQUESTS):
        s.prepared(large(f"plan {number}"))
        s.at(s.seconds + 451).timer()
        for command in s.notices:
            s.noticed(command, error=ERROR)
        for person in PEOPLE:
            s.decided(by=person, comment=COMMENT)
            assert s.refusal is None
        sizes.append(size(s))
    return max(sizes)


def grown(steps):
    """The largest size while so many steps run, are taken back, and each gives back all that one may."""
    s = story(*[STEP] * steps, rollback_on_failure=True)
    largest, output = 0, "o" * (OUTPUTS_LIMIT // MAX_STEPS)
    for number in range(steps):
        largest = max(largest, asked_as_often_as_can_be(s))
        command = s.command
        s.started(s.state.steps[number].plan, command)
        s.finished(command, "failed" if number == steps - 1 else "succeeded", "no", output=output)
    while not s.state.terminal:
        command = s.command
        s.started(large("back"), command)
        largest = max(largest, size(s))
        s.finished(command, output=output)
    assert s.status == "rolled_back"
    assert Execution.model_validate_json(s.state.model_dump_json()) == s.state
    return max(largest, size(s))


def test_the_largest_state_there_can_be_fits_into_a_record():
    two, four = grown(2), grown(4)
    each = (four - two) / 2
    fixed = two - 2 * each + MAX_RUNBOOK_BYTES + 256 * 1024 + COMMENTS_LIMIT + 2 * OUTPUT_LIMIT
    assert fixed + MAX_STEPS * each < MAX_RECORD_BYTES


def test_forty_nine_approved_steps_with_large_plans_are_small():
    s = story(*[http(require_approval=True)] * 50)
    for number in range(49):
        s.prepared(large("p")).decided()
        command = s.command
        s.started(s.state.steps[number].plan, command).finished(command)
    assert size(s.prepared(large("p"))) < 1024 * 1024


def test_each_plan_stands_once_in_the_state_of_a_step_that_runs():
    s = story(http(require_approval=True, retries={"max_attempts": 2})).prepared(large("p")).decided()
    command = s.command
    s.started(s.state.steps[0].plan, command)
    assert s.state.model_dump_json().count("b" * 1000) * 1000 <= PLAN_LIMIT
    assert s.state.steps[0].begun == large("p")
    s.finished(command, "failed", "busy", temporary=True).at(60).timer().prepared(large("q"))
    assert (s.state.steps[0].begun, s.state.steps[0].plan) == (large("p"), large("q"))
    assert Execution.model_validate_json(s.state.model_dump_json()) == s.state


def test_what_has_been_done_keeps_what_was_found_and_how_it_is_taken_back():
    s = story(http()).does(inverse=True)
    kept = s.state.steps[0].plan
    assert (kept.before, kept.inverse, kept.digest) == (
        plan(inverse=True).before,
        plan(inverse=True).inverse,
        plan(inverse=True).digest,
    )
    assert kept.params == {}


def test_a_plan_that_never_is_the_approved_one_is_not_asked_about_for_ever():
    s = story(http(require_approval=True))
    for number in range(MAX_REQUESTS):
        s.prepared(plan(f"plan {number}")).decided(comment=f"yes to {number}" + "x" * 1000)
    assert [one.state for one in s.state.requests(0)][-2:] == ["superseded", "approved"]
    first = s.state.requests(0)[0].votes[0].comment
    assert (first[:8], len(first)) == ("yes to 0", MAX_REPLACED)
    s.prepared(plan("one more"))
    why = f"step 1 failed: its plan was another one than the approved one {MAX_REQUESTS} times"
    assert (s.status, s.state.reason) == ("failed", why)


def test_comments_are_kept_whole_until_there_are_too_many_of_them():
    s = story(http(require_approval=True, approvals_required=10)).prepared()
    for person in PEOPLE:
        s.decided(by=person, comment=COMMENT)
    kept = [vote.comment for vote in s.state.steps[0].approval.votes]
    assert kept[:3] == [COMMENT] * 3
    assert {len(comment) for comment in kept[3:]} == {MAX_REPLACED}
    assert sum(size_of(comment) for comment in kept) < COMMENTS_LIMIT + len(PEOPLE) * MAX_REPLACED * 4
