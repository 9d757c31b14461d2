"""An ended execution that a person wants taken back: it asks where the step had to, from a marker as from the state."""

from datetime import timedelta

import pytest
from building import T0, Story, http, plan, scale, slack, story

from app.core.approval import MAX_REPLACED
from app.core.approving import MAX_REQUESTS
from app.core.execution import Execution, Marker
from app.core.lifecycle import decide, evolve, wake_at
from app.core.rollback import rollback_status
from app.core.step_state import FirstEnd


def scaled(**fields) -> Story:
    """Told somebody, and scaled: succeeded."""
    return story(slack(), scale(**fields)).does().does(inverse=True)


def approved() -> Story:
    s = story(scale(require_approval=True, approvers=["ann", "bob"]), by="bob")
    return s.prepared(plan(inverse=True)).decided("approve", by="ann").does(inverse=True)


def statuses(s: Story) -> list[str]:
    return [step.status for step in s.state.rollback.steps]


def test_what_can_be_taken_back_is_and_the_rest_is_recorded():
    s = scaled().at(100).back(comment="it did not help")
    assert (s.status, s.state.finished_at, s.state.reason) == (
        "rolling_back",
        None,
        "rollback asked for by bob: it did not help",
    )
    assert (s.command.phase, s.command.step.replicas, s.command.plan_only) == ("rollback", 3, False)
    s.at(101).does()
    assert (s.status, statuses(s)) == ("rolled_back", ["succeeded", "manual"])
    assert (s.state.rollback.by, s.state.rollback.cause) == ("bob", "person")
    assert (s.state.rollback.asked_at, s.state.finished_at) == (s.at(100).now, s.at(101).now)


def test_it_asks_where_the_step_had_to_and_whoever_wants_it_may_not_say_yes():
    s = approved().back(by="ann")
    planning = s.command
    assert (planning.plan_only, planning.expected_digest) == (True, None)
    s.started(plan(inverse=True), planning)
    assert s.refusal == "this plan has no approval"
    s.prepared(plan("scale it back"), planning)
    assert s.status == "awaiting_approval"
    assert s.decided("approve", by="ann").refusal == "ann asked for this rollback and may not approve it"
    assert s.decided("approve", by="cy").refusal == "cy is not among the step's approvers"
    s.decided("approve", by="bob")
    assert (s.status, s.command.plan_only) == ("rolling_back", False)
    assert s.command.command_id != planning.command_id
    assert s.command.expected_digest == plan("scale it back").digest
    s.does()
    assert (s.status, statuses(s)) == ("rolled_back", ["succeeded"])
    assert [request.number for request in s.state.requests(0)] == [1, 2]


def test_another_plan_is_asked_about_again():
    s = approved().back().prepared(plan("scale it back")).decided("approve", by="ann").prepared(plan("another"))
    assert s.status == "awaiting_approval"
    assert s.state.rollback.steps[0].approval.changed == "it was “scale it back” and is “another”"
    assert s.decided("approve", by="ann", request=2).refusal == "it was given for another plan"
    assert s.decided("approve", by="ann", request=3).refusal is None


@pytest.mark.parametrize(
    ("stop", "status", "why"),
    [
        (lambda s: s.decided("reject", by="ann", comment="keep it"), "halted", "rejected by ann: keep it"),
        (lambda s: s.at(601).timer(), "halted", "nobody approved it in time"),
        (lambda s: s.cancel("ann"), "cancelled", "cancelled by ann"),
    ],
    ids=["rejected", "expired", "cancelled"],
)
def test_a_no_leaves_the_rest_as_it_is_and_it_can_be_asked_for_again(stop, status, why):
    s = story(scale(require_approval=True), scale(require_approval=True))
    for _ in range(2):
        s.prepared(plan(inverse=True)).decided().does(inverse=True)
    assert s.status == "succeeded"
    stop(s.back().prepared(plan("back")))
    assert (s.status, statuses(s), rollback_status(s.state.rollback)) == (status, ["halted", "halted"], "halted")
    assert why in s.state.reason
    assert [step.error for step in s.state.rollback.steps] == [why, why]
    assert (decide(s.state), wake_at(s.state)) == ((), None)
    taken = {event.command_id for event in s.events if hasattr(event, "command_id")}
    s.back().prepared(plan("back")).decided(by="ann")
    assert s.command.command_id not in taken
    s.does().prepared(plan("back")).decided(by="ann").does()
    assert (s.status, rollback_status(s.state.rollback)) == ("rolled_back", "done")
    numbers = [request.number for request in s.state.requests(1)]
    assert numbers == sorted(set(numbers))


def test_however_often_nobody_said_yes_it_can_be_asked_for_once_more():
    s = approved()
    for _ in range(MAX_REQUESTS + 1):
        s.back(by="bob").prepared(plan("back")).decided("reject", by="ann", comment="x" * 1000)
    s.back(by="bob").prepared(plan("back")).decided(by="ann").does()
    assert (s.status, statuses(s)) == ("rolled_back", ["succeeded"])
    earlier = s.state.rollback.steps[0].superseded
    assert [one.state for one in earlier] == ["rejected"] * (MAX_REQUESTS + 1)
    assert {len(one.votes[0].comment) for one in earlier} == {MAX_REPLACED}


def test_what_was_taken_back_stays_so_and_what_failed_is_tried_anew():
    s = story(scale(), scale(deployment="x")).does(inverse="d").does(inverse="x").back()
    s.does().does("failed", "no right to")
    assert (s.status, statuses(s)) == ("rollback_failed", ["succeeded", "failed"])
    tried = s.state.rollback.steps[1].attempt
    s.back()
    assert (s.command.step_index, s.command.attempt) == (0, tried + 1)
    s.does()
    assert (s.status, statuses(s)) == ("rolled_back", ["succeeded", "succeeded"])
    assert s.back().refusal == "there is nothing to take back"


def test_a_message_of_its_own_asks_for_the_way_back():
    s = story(scale(require_approval=True, approval_channel="#c")).prepared(plan(inverse=True)).noticed()
    s.decided(by="ann").noticed().does(inverse=True).back().prepared(plan("scale it back"))
    (notice,) = s.notices
    assert (notice.card.summary, notice.card.takes_back, notice.card.undo) == (
        "scale it back",
        True,
        "it is itself the way back",
    )
    assert (notice.request, notice.card.state) == (2, "pending")
    s.noticed().decided(by="ann")
    assert s.state.requests(0)[1].notices[0].state == "posted"
    (changed,) = s.notices
    assert (changed.ts, changed.card.state) == (s.state.requests(0)[1].notices[0].ts, "approved")


def test_a_slack_request_is_taken_back_by_its_declared_step():
    s = story(slack(require_approval=True, rollback=http())).prepared().decided(by="ann")
    assert s.status == "succeeded"
    s.back().prepared(plan("call it off")).decided(by="ann")
    assert (s.status, s.command.step.type) == ("rolling_back", "http")
    assert s.does().status == "rolled_back"


@pytest.mark.parametrize("known", ["state", "marker", "old marker", "nothing"])
def test_a_marker_and_a_forgotten_execution_go_on_from_what_the_event_pins(known):
    s = scaled()
    ended = s.state
    marker = ended.marker()
    before = {"state": ended, "marker": marker, "old marker": marker.model_copy(update={"last_offset": None})}
    event = s.back().events[-1]
    again, refusal = evolve(before.get(known), event, s.offset)
    assert (again, refusal) == (s.state, None)


def edited(**fields):
    return lambda event: event.model_copy(update={"finished": {**event.finished, **fields}})


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (edited(last_offset=2), "something has happened to the execution since it was asked for"),
        (edited(status="failed"), "something has happened to the execution since it was asked for"),
        (edited(steps=7), "the pinned state cannot be read: Input should be a valid tuple"),
        (lambda event: event.model_copy(update={"run": 7}), "something has happened to the execution since"),
        (lambda event: event.model_copy(update={"tenant": "other"}), "something has happened to the execution since"),
    ],
)
def test_a_pinned_state_that_is_not_its_own_changes_nothing(change, why):
    s = scaled()
    ended = s.state
    event = change(s.back().events[-1])
    for before in (ended, ended.marker()):
        after, refusal = evolve(before, event, 99)
        assert after is before
        assert refusal.startswith(why)


def test_a_state_that_has_not_ended_is_no_ground():
    s = story(scale()).started(plan(inverse=True))
    event = s.back().events[-1]
    assert s.refusal == "the execution is running"
    assert evolve(None, event, 9) == (None, "the execution is running")


@pytest.mark.parametrize(
    ("ended", "why"),
    [
        (lambda: story(slack()).does(), "step 1: it cannot be taken back"),
        (lambda: story(slack()).does("failed", "x"), "there is nothing to take back"),
        (lambda: story(scale(), dry_run=True).prepared(plan(inverse=True)), "a dry run changed nothing"),
    ],
)
def test_where_there_is_nothing_to_do_it_says_so(ended, why):
    s = ended()
    before = s.state
    assert s.back().refusal == why
    assert s.state is before
    assert evolve(before.marker(), s.events[-1], 99).refusal == why


def test_an_execution_that_was_cancelled_is_taken_back_to_the_end():
    s = story(scale(), scale()).does(inverse=True).cancel().interrupted()
    assert s.status == "cancelled"
    s.back().does("failed", "busy", temporary=True)
    assert s.status == "rolling_back"  # a rollback has tries of its own, whoever cancelled what was before it
    s.at(60).timer().does()
    assert s.status == "rolled_back"


@pytest.mark.parametrize("due", [False, True])
def test_what_was_begun_and_never_told_of_is_taken_back(due):
    s = story(scale(), scale()).does(inverse="one").started(plan(inverse="two")).at(15).timer()
    s = s.at(60).timer().cancel().interrupted() if due else s.cancel()
    assert s.status == "cancelled"
    assert [step.index for step in s.back().state.rollback.steps] == [1, 0]


def test_what_was_begun_and_never_told_of_and_has_no_inverse_is_left_to_a_person():
    s = story(http(on_unknown="retry")).started().at(15).timer().cancel().back()
    assert s.refusal == "step 1: it cannot be taken back"


def test_a_step_that_was_begun_before_a_no_to_its_next_plan_is_taken_back():
    s = story(scale(require_approval=True), on_halt="rollback").prepared(plan(inverse=True)).decided()
    s.started(s.state.steps[0].plan).at(15).timer().at(60).timer().prepared(plan("another", inverse=True))
    assert s.status == "awaiting_approval"
    s.decided("reject")
    assert (s.status, [step.index for step in s.state.rollback.steps]) == ("rolling_back", [0])


def test_it_had_first_ended_as_it_did_however_often_it_is_taken_back():
    s = story(scale(), scale(), cooldown_seconds=60).judged().does(inverse="one").does("failed", "x")
    ended = s.offset
    first = FirstEnd(at=T0, offset=ended, end="bad")
    s.at(60).back().does("failed", "busy")
    assert (s.status, s.state.rollback.first_end) == ("rollback_failed", first)
    s.at(120).back()
    assert (s.state.rollback.first_end, s.state.rollback.ended_before) == (first, T0 + timedelta(seconds=60))
    trace = s.does().state.marker().trace
    assert (trace.ended_at, trace.end, trace.offset) == (T0, "bad", ended)


def test_a_state_from_before_its_first_end_was_kept_says_neither():
    s = story(scale(), cooldown_seconds=60).judged().does(inverse=True).back()
    old = s.state.now(rollback=s.state.rollback.model_copy(update={"first_end": None}))
    assert (old.trace().ended_at, old.trace().end, old.trace().offset) == (T0, "neither", None)
    s.state = old
    s.does("failed", "no").back()
    assert (s.refusal, s.state.rollback.first_end) == (None, None)


def test_a_marker_reads_with_and_without_its_offset():
    marker = scaled().state.marker()
    assert Marker.model_validate_json(marker.model_dump_json()) == marker
    old = marker.model_dump(mode="json", exclude={"last_offset"})
    assert Marker.model_validate(old).last_offset is None


def test_a_rollback_reads_as_it_was_written():
    s = approved().back().prepared(plan("back"))
    assert Execution.model_validate_json(s.state.model_dump_json()) == s.state
