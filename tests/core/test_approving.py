"""Requests for approval: who is asked where and when, what counts, and what the messages show."""

from datetime import timedelta

import pytest
from building import T0, http, plan, requested, runbook, scale, slack, story
from hypothesis import given
from hypothesis import strategies as st

from app.core.approval_card import RequestReference, undo_of
from app.core.commands import NoticeCommand
from app.core.events import ApprovalDecided, ApprovalNoticed, Limits, StepStarted
from app.core.lifecycle import decide, evolve, wake_at
from app.core.planning import Inverse, Prepared

GUARDED = scale(require_approval=True, approval_channel="#ops")
MINUTE = 60


def waiting(*steps, a_plan=None, **fields):
    return story(*(steps or (GUARDED,)), **fields).prepared(a_plan or plan(inverse=True))


def kinds(s):
    return [(one.card.kind, one.to) for one in s.notices]


class TestAsking:
    @pytest.mark.parametrize(
        ("step", "fields", "channel"),
        [
            ({"approval_channel": "#step"}, {"notify_channel": "#runbook"}, "#step"),
            ({}, {"notify_channel": "#runbook"}, "#runbook"),
            ({}, {"limits": Limits(approval_channel="#settings")}, "#settings"),
        ],
    )
    def test_the_nearest_channel_that_is_named_is_asked(self, step, fields, channel):
        assert kinds(waiting(scale(require_approval=True, **step), **fields)) == [("ask", channel)]

    def test_nobody_is_asked_in_slack_where_no_channel_is_named(self):
        s = waiting(scale(require_approval=True))
        assert s.notices == []
        assert wake_at(s.state) == T0 + timedelta(minutes=10)
        assert s.decided().command.phase == "apply"

    def test_the_card_says_what_will_be_done_and_how_it_is_undone(self):
        s = story(slack(), GUARDED, context={"anomaly_score": 0.93})
        s.does().prepared(plan("Scale n/d from 3 to 5", inverse=True))
        card = s.notices[0].card
        assert (card.runbook_name, card.service_id, card.anomaly_score) == ("r", "s", 0.93)
        assert (card.step_number, card.step_count, card.summary) == (2, 2, "Scale n/d from 3 to 5")
        assert card.undo == "scale n/d (replicas 3)"
        assert card.deadline - card.requested_at == timedelta(minutes=10)
        assert (card.reference.step, card.reference.request) == (1, 1)
        assert card.reference.digest == s.state.steps[1].approval.digest

    def test_what_cannot_be_undone_says_why(self):
        (step, declared) = runbook(slack(), http(rollback=http(method="DELETE"))).steps
        assert undo_of(step, plan()) == "⚠ only by hand: it cannot be taken back"
        assert undo_of(step, Prepared.of("x")) == "⚠ only by hand: it has no inverse"
        inverse = Inverse(step={"type": "http", "method": "GET", "url": "http://u"})
        assert undo_of(step, Prepared.of("x", inverse=inverse)) == "http (method GET, url http://u)"
        both = Prepared.of("x", inverse=inverse, manual_reason="pods do not move back")
        assert undo_of(step, both) == "http (method GET, url http://u) (pods do not move back)"
        said = "by the step the runbook declares: http (method DELETE, url https://x.example/y)"
        assert undo_of(declared, plan()) == said

    def test_the_same_state_asks_with_the_same_command(self):
        s = waiting()
        assert [one.command_id for one in s.notices] == ["e/1/0/notice-1-0/0"]
        assert s.timer().refusal == "nothing was due"
        assert [one.command_id for one in s.notices] == ["e/1/0/notice-1-0/0"]


class TestMessages:
    def test_a_posted_message_is_left_alone_until_something_changes(self):
        s = waiting(scale(require_approval=True, approval_channel="#ops", approvals_required=2)).noticed()
        assert s.notices == []
        s.decided(by="ann")
        (update,) = s.notices
        assert (update.channel_id, update.ts, update.version) == ("C1", "2.1", 1)
        assert [vote.by for vote in update.card.votes] == ["ann"]
        assert s.noticed(update).notices == []
        assert s.noticed(update).refusal == "the message shows it already"

    def test_each_decision_and_the_end_change_the_message(self):
        for end, state, said in (
            (lambda s: s.decided(by="ann"), "approved", "approved by ann"),
            (lambda s: s.decided("reject", by="ann", comment="no"), "rejected", "rejected by ann: no"),
            (lambda s: s.at(11 * MINUTE).timer(), "expired", "nobody approved it in time"),
            (lambda s: s.cancel(by="bob"), "withdrawn", "the execution was cancelled by bob"),
        ):
            s = waiting().noticed()
            end(s)
            (update,) = s.notices
            assert (update.card.state, update.card.ended) == (state, said)

    def test_the_end_follows_a_post_that_may_still_be_on_its_way(self):
        s = waiting().decided()
        (closing,) = s.notices
        assert (closing.card.state, closing.ts) == ("approved", None)
        s.noticed(closing, error="the request ended before this was posted")
        assert (s.notices, s.state.steps[0].approval.notices[0].state) == ([], "failed")

    def test_an_execution_that_has_ended_has_its_closing_card_sent_all_the_same(self):
        s = waiting().cancel()
        assert [one.card.state for one in s.notices] == ["withdrawn"]
        assert decide(s.state) == ()

    def test_where_a_message_stands_makes_another_command_of_the_same_version(self):
        s = waiting()
        post = s.notices[0]
        (closing,) = s.decided().notices
        (update,) = s.noticed(post).notices
        assert (closing.command_id, update.command_id) == ("e/1/0/notice-1-0/2", "e/1/0/notice-1-0/2/placed")
        assert update.message == "e/1/0/notice-1-0"

    def test_one_that_was_posted_late_is_changed_at_once(self):
        s = waiting()
        post = s.notices[0]
        s.decided()
        (update,) = s.noticed(post).notices
        assert update.card.state == "approved"

    def test_what_could_not_be_posted_says_so_and_may_still_come(self):
        s = waiting()
        post = s.notices[0]
        s.noticed(post, error="channel_not_found")
        notice = s.state.steps[0].approval.notices[0]
        assert (notice.state, notice.error, s.notices) == ("failed", "channel_not_found", [])
        assert s.noticed(post, error="again").refusal == "that it failed is known"
        assert s.noticed(post).state.steps[0].approval.notices[0].state == "posted"

    def test_an_answer_that_was_lost_is_neither_posted_nor_failed(self):
        s = waiting()
        post = s.notices[0]
        s.noticed(post, error="no connection").noticed(post, error="no answer", unknown=True)
        assert s.state.steps[0].approval.notices[0].state == "unknown"
        assert s.noticed(post, error="no answer", unknown=True).refusal == "that it failed is known"
        assert s.notices == []
        (closing,) = s.decided().notices
        assert closing.doubtful
        s.noticed(closing, error="later", unknown=True)
        notice = s.state.steps[0].approval.notices[0]
        assert (notice.state, notice.error, s.notices) == ("unknown", "no answer", [])
        assert s.noticed(post).state.steps[0].approval.notices[0].state == "posted"

    def test_one_that_could_not_be_changed_is_not_tried_for_ever(self):
        s = waiting().noticed().decided()
        assert s.noticed(error="message_not_found").notices == []
        assert s.state.steps[0].approval.notices[0].error == "message_not_found"

    @pytest.mark.parametrize("fields", [{"step": 9}, {"request": 2}, {"notice": 3}])
    def test_what_was_never_asked_for(self, fields):
        s = waiting()
        assert s.noticed(None, **fields).refusal == "there is no such request"

    def test_before_anything_was_asked(self):
        s = story(GUARDED)
        told = ApprovalNoticed(**s.common(), run=1, step=0, request=1, notice=0, version=0)
        assert s.tell(told).refusal == "there is no such request"

    def test_a_plan_that_changed_supersedes_the_request_and_its_message(self):
        s = waiting().noticed().decided().noticed()
        s.prepared(plan("Scale n/d from 4 to 5"))
        assert s.status == "awaiting_approval"
        cards = {one.card.reference.request: one.card for one in s.notices}
        assert cards[1].state == "superseded"
        assert cards[2].state == "pending"
        assert cards[2].changed.startswith("it was “do it” and is “Scale n/d from 4 to 5”")
        for one in s.notices:
            s.noticed(one)
        assert s.notices == []
        assert [one.number for one in s.state.steps[0].requests] == [1, 2]

    def test_a_plan_that_only_undoes_otherwise_says_so(self):
        other = Prepared.of("do it", before={"replicas": 3}, inverse=Inverse(step=http()))
        s = waiting().decided().prepared(other)
        assert s.state.steps[0].approval.changed == "how it would be taken back is different"

    def test_long_differences_are_cut(self):
        s = waiting(a_plan=Prepared.of("x", params={"a": "b" * 200})).decided().prepared(Prepared.of("x"))
        assert s.state.steps[0].approval.changed == f'params.a was "{"b" * 78}… and is null'


class TestTime:
    STEP = scale(
        require_approval=True, approval_channel="#ops", approvers=["ann"], escalate_to=["#lead", "group:leads", "cy"]
    )

    def test_a_reminder_at_half_time_and_the_escalation_before_the_end(self):
        s = waiting(self.STEP).noticed()
        assert wake_at(s.state) == T0 + timedelta(minutes=5)
        assert kinds(s.at(5 * MINUTE).timer()) == [("remind", "#ops")]
        assert s.notices[0].thread_ts == s.state.steps[0].approval.ask.ts
        s.noticed()
        assert wake_at(s.state) == T0 + timedelta(minutes=7.5)
        assert kinds(s.at(7.5 * MINUTE).timer()) == [("escalate", "#lead"), ("escalate", "cy")]
        assert wake_at(s.state) == T0 + timedelta(minutes=10)
        assert s.at(10 * MINUTE).timer().status == "halted"

    def test_who_was_down_for_long_says_all_of_it_at_once_and_the_deadline_stays(self):
        s = waiting(self.STEP).at(8 * MINUTE).timer()
        assert [kind for kind, _ in kinds(s)] == ["ask", "remind", "escalate", "escalate"]
        assert s.state.steps[0].approval.deadline == T0 + timedelta(minutes=10)

    def test_escalated_those_may_decide_who_could_not_before(self):
        s = waiting(self.STEP)
        assert s.decided(by="cy").refusal == "cy is not among the step's approvers"
        assert s.decided(by="di", groups=("leads",)).refusal == "di is not among the step's approvers"
        s.at(8 * MINUTE).timer()
        assert s.decided(by="di", groups=("leads",)).status == "running"

    def test_without_a_channel_the_escalation_is_still_said(self):
        s = waiting(scale(require_approval=True, escalate_to=["cy"])).at(8 * MINUTE).timer()
        assert kinds(s) == [("escalate", "cy")]


class TestWho:
    def test_a_group_approves_and_a_subject_that_is_called_like_one_does_not(self):
        s = waiting(scale(require_approval=True, approvers=["group:sre"]))
        assert s.decided(by="sre").refusal is not None
        assert s.decided(by="group:sre").refusal is not None
        assert s.decided(by="ann", groups=("sre",)).status == "running"

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"run": 99}, "it was given for an earlier run"),
            ({"request": 2}, "it was given for another plan"),
            ({"digest": "x"}, "it was given for another plan"),
        ],
    )
    def test_a_decision_about_something_else(self, fields, said):
        assert waiting().decided(**fields).refusal == said


class TestSlackStep:
    STEP = slack(require_approval=True, approval_timeout_minutes=15)
    PLAN = Prepared.of('Post to #c: "m"', params={"channel": "#c", "message": "m"}, manual_reason="no")

    def test_it_is_the_request_itself(self):
        s = waiting(self.STEP, slack(), a_plan=self.PLAN)
        (post,) = s.notices
        assert (post.to, post.card.text) == ("#c", "m")
        s.noticed(post).decided(by="ann")
        step = s.state.steps[0]
        assert (step.status, step.output["ts"], step.output["posted_to"]) == ("succeeded", "2.1", "#c")
        assert s.command.step_index == 1
        assert s.does().status == "succeeded"

    def test_the_last_step_ends_the_execution_and_its_message_is_still_changed(self):
        s = waiting(self.STEP, a_plan=self.PLAN).noticed().decided(by="ann")
        assert s.status == "succeeded"
        assert decide(s.state) == ()
        assert s.notices[0].card.state == "approved"

    def test_approved_through_the_api_before_it_was_posted(self):
        s = waiting(self.STEP, a_plan=self.PLAN).decided(by="ann")
        assert (s.state.steps[0].status, s.state.steps[0].output) == ("succeeded", None)

    def test_a_check_or_a_cancelled_quorum_follows_as_after_any_step(self):
        check = {"metric_name": "cpu", "check_after_minutes": 5, "rollback_if_value_exceeds": 90.0}
        s = waiting(self.STEP, a_plan=self.PLAN, rollback_metric_check=check).decided(by="ann")
        assert s.status == "verifying"


INTERLEAVINGS = st.lists(
    st.one_of(
        st.tuples(st.just("approve"), st.sampled_from(["ann", "bob", "cy", "op"]), st.booleans()),
        st.tuples(st.just("reject"), st.sampled_from(["ann", "bob"]), st.booleans()),
        st.tuples(
            st.sampled_from(["time", "cancel", "post", "again", "apply", "plan"]), st.integers(0, 900), st.none()
        ),
    ),
    max_size=30,
)


@given(st.integers(1, 3), INTERLEAVINGS, st.lists(st.integers(0, 99), max_size=10))
def test_whatever_happens_in_whatever_order_nothing_is_applied_without_its_approvals(needed, moves, copies):
    """Clicks, expiry, cancel, new plans, duplicates and replays: one outcome, and only the approved plan is applied."""
    step = scale(
        require_approval=True,
        approval_channel="#ops",
        approvals_required=needed,
        approvers=["ann", "bob", "op"],
        escalate_to=["cy"],
    )
    s = story(step, slack(), by="op")
    plans = iter(plan(f"plan {number}") for number in range(100))
    applied, ended = [], []
    for kind, *rest in moves:
        before = s.state
        work = [one for one in decide(s.state) if not isinstance(one, NoticeCommand)]
        if kind in {"approve", "reject"}:
            approval = s.state.steps[0].approval
            digest = approval.digest if approval and rest[1] else "another"
            s.decided(kind, by=rest[0], step=0, digest=digest)
        elif kind == "time":
            s.at(s.seconds + rest[0]).timer()
        elif kind == "cancel":
            s.cancel()
        elif kind == "post" and s.notices:
            s.noticed(s.notices[rest[0] % len(s.notices)])
        elif kind == "again":
            s.tell(s.events[rest[0] % len(s.events)])
        elif work and work[0].step_index == 0:
            if kind == "plan" or work[0].phase == "prepare":
                s.prepared(next(plans), work[0])
            else:
                s.started(s.state.steps[0].plan, work[0])
        if before.steps[0].status != "started" and s.state.steps[0].status == "started":
            applied.append(s.state.steps[0])
        if before.status != s.state.status and s.state.terminal:
            ended.append(s.state.status)
    assert len(applied) <= 1
    assert len(ended) <= 1
    for one in applied:
        yes = [vote for vote in one.approval.votes if vote.decision == "approve"]
        assert one.approval.digest == one.plan.digest
        assert len({vote.by for vote in yes}) == len(yes) >= needed
        assert all(vote.at < one.approval.deadline for vote in yes)
        assert {vote.by for vote in yes} <= {"ann", "bob", "cy"}
        assert "cy" not in {vote.by for vote in yes} or one.approval.escalated
    events = list(enumerate(s.events, 1))
    for number in copies:
        place = number % len(events)
        events.insert(place + 1, events[place])
    state, starts = None, 0
    for offset, event in events:
        after, refusal = evolve(state, event, offset)
        starts += isinstance(event, StepStarted) and refusal is None
        state = after
    assert starts == len(applied)
    assert state == s.state
    assert decide(state) == decide(s.state)
    assert not any(isinstance(event, ApprovalDecided) and event.refusal for event in s.events)


def test_a_request_pins_the_default_channel():
    assert requested(limits=Limits(approval_channel="#x")).limits.approval_channel == "#x"


def test_a_button_carries_the_reference_and_a_command_its_topic():
    (post,) = waiting().notices
    assert RequestReference.model_validate_json(post.card.reference.text()) == post.card.reference
    assert post.topic == "step-commands.slack"


def test_a_decision_that_comes_again_does_not_count_for_the_next_request():
    s = waiting().at(5).decided()
    late = s.events[-1]
    s.at(9).prepared(plan("another")).tell(late.model_copy(update={"digest": None}))
    assert s.refusal == "it was given before this was asked"
    assert s.status == "awaiting_approval"


def test_a_retry_of_an_approved_step_is_not_asked_about_again():
    s = waiting(scale(require_approval=True, retries={"max_attempts": 2})).decided()
    approved = s.state.steps[0].plan
    command = s.command
    s.started(approved, command).finished(command, "failed", "busy", temporary=True).at(60).timer()
    assert (s.command.phase, s.command.expected_digest, s.command.attempt) == ("apply", approved.digest, 2)
    again = s.command
    assert s.started(approved, again).finished(again).status == "succeeded"


@pytest.mark.parametrize("era", ["no plan", "a plan each"])
def test_a_row_from_before_each_plan_stood_in_it_once_is_read(era):
    s = waiting(scale(require_approval=True, retries={"max_attempts": 2})).decided()
    command = s.command
    state = s.started(s.state.steps[0].plan, command).state
    row = state.model_dump(mode="json")
    step = row["steps"][0]
    step["begun"] = step["plan"]
    del step["begun_this"], step["begun_before"]
    for name in ("summary", "undo", "namespace", "text"):
        del step["approval"][name]
    if era == "a plan each":
        step["approval"]["plan"] = step["plan"]
        step["superseded"] = [step["approval"] | {"number": 0, "state": "superseded"}]
    read = type(state).model_validate(row)
    assert read.steps[0].now(superseded=()) == state.steps[0]
    assert [one.summary for one in read.steps[0].superseded] == ["do it"] * (era == "a plan each")
    assert type(state).model_validate_json(read.model_dump_json()) == read


def test_another_plan_than_the_one_begun_is_read_from_an_older_row():
    s = waiting(scale(require_approval=True, retries={"max_attempts": 2})).decided()
    command = s.command
    s.started(s.state.steps[0].plan, command).finished(command, "failed", "busy", temporary=True)
    s.at(60).timer().prepared(plan("another"))
    row = s.state.model_dump(mode="json")
    row["steps"][0]["begun"] = row["steps"][0].pop("begun_before")
    del row["steps"][0]["begun_this"]
    assert type(s.state).model_validate(row) == s.state
