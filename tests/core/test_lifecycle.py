from datetime import timedelta

import pytest
from building import T0, Story, http, plan, requested, runbook, scale, slack, story

from app.core.anomaly import anomaly_of
from app.core.commands import read_command, write_command
from app.core.events import (
    ApprovalDecided,
    CancelRequested,
    Limits,
    MetricChecked,
    StepFinished,
    StepHeartbeat,
    StepInterrupted,
    StepPrepared,
    StepResolved,
    StepSkipped,
    StepStarted,
    TimerFired,
    read_event,
    write_event,
)
from app.core.execution import TERMINAL, Execution, Status
from app.core.lifecycle import decide, evolve, wake_at, why_not_decided
from app.core.planning import ActionFailure, Outcome
from app.core.rollback import ROLLBACK_ATTEMPTS
from app.core.stepping import backoff_s, doubt_of
from app.core.transitions import TRANSITIONS

CHECK = {"metric_name": "cpu", "check_after_minutes": 5, "rollback_if_value_exceeds": 90.0}
MINUTE = 60


def test_steps_run_one_after_another_and_the_execution_succeeds():
    s = story(slack(), scale())
    assert s.status == "queued"
    assert s.command.command_id == "e/1/0/apply/1"
    assert s.command.topic == "step-commands.slack"
    s.does(output={"ts": "1"})
    assert s.status == "running"
    assert s.command.topic == "step-commands.kubernetes"
    assert s.command.variables["steps"][0]["output"] == {"ts": "1"}
    s.at(4).does()
    assert s.status == "succeeded"
    assert s.state.finished_at == s.now
    assert decide(s.state) == ()
    assert wake_at(s.state) is None


def test_nothing_is_due_while_a_step_is_being_applied():
    s = story(slack()).started()
    assert decide(s.state) == ()
    assert wake_at(s.state) == T0 + timedelta(seconds=15)


def test_a_failed_step_ends_the_execution():
    s = story(slack(), slack()).does("failed", "no such channel")
    assert s.status == "failed"
    assert s.state.reason == "step 1 failed: no such channel"


def test_a_step_that_fails_without_a_reason_says_so():
    assert "gave no reason" in story(slack()).does("failed").state.reason


def test_a_step_may_fail_and_be_passed_over():
    s = story(slack(continue_on_failure=True), slack()).does("failed", "gone").does()
    assert s.status == "succeeded"
    assert s.state.reason == "step 1 failed and was passed over"


def test_a_step_that_fails_before_it_starts_is_failed():
    s = story(slack())
    s.finished(s.command, "failed", "Slack is not configured")
    assert s.status == "failed"


def test_success_without_a_start_is_not_believed():
    s = story(slack())
    s.finished(s.command)
    assert s.status == "queued"
    assert s.refusal == "it was never started"


def test_a_step_whose_when_is_false_is_skipped():
    s = story(slack(when="false"), slack()).skipped()
    assert s.state.steps[0].status == "skipped"
    assert s.does().status == "succeeded"


class TestRetries:
    STEP = slack(retries={"max_attempts": 3, "backoff_seconds": 4, "max_backoff_seconds": 6})

    def test_a_temporary_failure_is_tried_again_after_its_backoff(self):
        s = story(self.STEP).does("failed", "busy", temporary=True)
        due = wake_at(s.state)
        assert T0 + timedelta(seconds=2) <= due <= T0 + timedelta(seconds=4)
        assert decide(s.state) == ()
        assert s.at(1).timer().refusal == "nothing was due"
        s.at(5).timer()
        assert s.command.command_id == "e/1/0/apply/2"
        assert s.does().status == "succeeded"

    def test_the_next_try_knows_the_plan_that_was_begun(self):
        s = story(scale(retries=self.STEP["retries"]))
        assert s.command.begun is None
        begun = plan(inverse=True)
        command = s.command
        s.started(begun).finished(command, "failed", "503", temporary=True).at(100).timer()
        assert s.command.begun == begun

    def test_attempts_run_out(self):
        s = story(self.STEP)
        for number in range(3):
            s.at(100 * number).does("failed", "busy", temporary=True).at(100 * number + 50).timer()
        assert s.status == "failed"
        assert s.state.steps[0].failures == 3

    def test_a_permanent_failure_is_not_tried_again(self):
        assert story(self.STEP).does("failed", "no").status == "failed"

    def test_however_long_the_other_side_asks_for_it_is_a_day_at_most(self):
        s = story(self.STEP).does("failed", "busy", temporary=True, delay_s=1e300)
        assert wake_at(s.state) == T0 + timedelta(days=1)

    def test_the_other_side_says_how_long_to_wait(self):
        s = story(self.STEP).does("failed", "busy", temporary=True, delay_s=120)
        assert wake_at(s.state) == T0 + timedelta(seconds=120)

    def test_backoff_doubles_up_to_its_cap_and_is_the_same_for_the_same_seed(self):
        for failures, full in ((1, 2.0), (2, 4.0), (3, 8.0), (9, 10.0)):
            got = backoff_s(2, 10, failures, "seed")
            assert full / 2 <= got <= full
            assert got == backoff_s(2, 10, failures, "seed")
        assert backoff_s(2, 10, 1, "seed") != backoff_s(2, 10, 1, "other")


class TestUnknown:
    def test_attention_where_applying_twice_may_harm(self):
        s = story(slack()).does("unknown", "no answer")
        assert s.status == "attention"
        assert s.state.reason == "step 1: no answer"
        assert (decide(s.state), wake_at(s.state)) == ((), None)
        assert not s.state.holds_slot

    def test_an_unknown_outcome_without_a_reason(self):
        assert "the outcome is unknown" in story(slack()).does("unknown").state.reason

    def test_tried_again_where_it_is_harmless_and_then_a_person_is_asked(self):
        s = story(scale())
        for number in range(3):
            s.at(100 * number).does("unknown", "no answer").at(100 * number + 50).timer()
        assert s.status == "attention"

    def test_policy_fail(self):
        s = story(slack(on_unknown="fail")).does("unknown", "no answer")
        assert s.status == "failed"
        assert s.state.steps[0].status == "unknown"

    def test_a_lease_that_runs_out_is_an_unknown_outcome(self):
        s = story(slack()).started().at(14).timer()
        assert s.refusal == "nothing was due"
        s.at(15).timer()
        assert s.status == "attention"
        assert "stopped answering" in s.state.reason

    def test_a_heartbeat_makes_the_lease_longer(self):
        s = story(slack())
        command = s.command
        s.started().heartbeat(command, until=60)
        assert wake_at(s.state) == T0 + timedelta(seconds=60)
        assert s.heartbeat(command, until=30).refusal == "the lease is already that long"

    def test_a_late_truth_is_better_than_none(self):
        s = story(slack())
        command = s.command
        s.started().at(20).timer().finished(command)
        assert s.status == "succeeded"

    def test_a_late_word_that_it_failed_and_may_be_tried_again_has_it_tried_again(self):
        s = story(slack(retries={"max_attempts": 2}))
        command = s.command
        s.started().at(20).timer().finished(command, "failed", "later", temporary=True)
        assert (s.status, s.state.reason, s.state.steps[0].failures) == ("running", "", 1)
        assert s.state.holds_slot
        assert s.at(200).timer().command.attempt == 2
        assert s.does().status == "succeeded"

    def test_a_late_word_that_it_failed_for_good_ends_it(self):
        s = story(slack())
        command = s.command
        s.started().at(20).timer().finished(command, "failed", "no such channel")
        assert (s.status, s.state.reason) == ("failed", "step 1 failed: no such channel")

    def test_a_late_word_that_nobody_knows_changes_nothing(self):
        s = story(slack())
        command = s.command
        s.started().at(20).timer()
        before = s.state
        assert s.finished(command, "unknown", "no answer").refusal is not None
        assert s.state == before

    def test_after_a_persons_word_a_late_one_comes_too_late(self):
        s = story(slack(retries={"max_attempts": 2}), slack())
        command = s.command
        s.started().at(20).timer().resolved("succeeded", "saw it")
        assert s.finished(command, "failed", "later", temporary=True).refusal == "the execution is not at step 0"

    def test_a_person_says_it_succeeded(self):
        s = story(slack(), slack()).does("unknown", "x").resolved("succeeded", "saw it")
        assert s.status == "running"
        assert s.state.steps[0].error == "ann said it succeeded: saw it"
        assert s.does().status == "succeeded"

    def test_a_person_says_it_failed(self):
        assert story(slack()).does("unknown", "x").resolved("failed").status == "failed"

    def test_what_was_answered_for_is_not_answered_for_again(self):
        s = story(scale(on_unknown="attention"), rollback_metric_check=CHECK).does("unknown", "x").resolved("succeeded")
        assert s.status == "verifying"
        verifying = s.state
        for again in ("succeeded", "failed"):
            assert s.resolved(again).refusal == "nothing waits for a person's word"
        assert (s.state, s.state.verification.readings) == (verifying, ())

    def test_no_answer_takes_the_approval_from_a_rollback(self):
        s = story(scale(require_approval=True), rollback_metric_check=CHECK).prepared(plan(inverse=True)).decided()
        s.does(inverse=True).at(300).timer().measured(50).back().prepared(plan("back"))
        assert s.status == "awaiting_approval"
        waiting = s.state
        for late in ("succeeded", "failed"):
            assert s.resolved(late).refusal == "nothing waits for a person's word"
        assert s.state is waiting

    def test_an_answer_about_one_step_is_none_about_another(self):
        s = story(slack(), slack()).does("unknown", "x")
        assert s.resolved("succeeded", step=0, attempt=2).refusal.startswith("it is about step 0, attempt 2")
        assert s.resolved("succeeded", step=0, attempt=1).refusal is None
        s.does("unknown", "x")
        assert s.resolved("failed", step=0, attempt=1).refusal.startswith("it is about step 0, attempt 1")
        assert s.resolved("failed", step=1, attempt=1).status == "failed"

    def test_an_answer_about_a_step_is_none_about_the_check(self):
        s = story(slack(), rollback_metric_check={**CHECK, "on_no_data": "attention"}).does()
        s.at(300).timer().measured(None)
        assert (s.status, doubt_of(s.state)) == ("attention", (None, None))
        assert s.resolved("succeeded", step=0, attempt=1).refusal.startswith("it is about step 0")
        assert s.resolved("succeeded").status == "succeeded"

    @pytest.mark.parametrize(("outcome", "status"), [("succeeded", "succeeded"), ("failed", "failed")])
    def test_while_the_next_try_waits_a_late_word_for_good_counts(self, outcome, status):
        s = story(http(on_unknown="retry"))
        command = s.command
        s.started().at(15).timer()
        assert s.state.steps[0].status == "backing_off"
        s.finished(command, outcome, "x" if outcome == "failed" else None)
        assert (s.status, s.state.steps[0].retry_at, wake_at(s.state)) == (status, None, None)

    @pytest.mark.parametrize("word", [{"temporary": True}, {}])
    def test_while_the_next_try_waits_a_late_word_that_leaves_it_open_changes_nothing(self, word):
        s = story(http(on_unknown="retry"))
        command = s.command
        s.started().at(15).timer()
        waiting = s.state
        s.finished(command, "failed" if word else "unknown", "x", **word)
        assert (s.state, s.refusal) == (waiting, "it will be tried again already")

    def test_a_late_success_of_a_way_back_counts_while_its_next_try_waits(self):
        s = story(scale(), slack(), rollback_on_failure=True).does(inverse=True).does("failed", "x")
        command = s.command
        s.started().at(15).timer().finished(command)
        assert s.status == "rolled_back"

    def test_nothing_to_resolve(self):
        assert story(slack()).started().resolved("failed").refusal == "nothing waits for a person's word"


class TestInterrupted:
    def test_before_the_start_it_is_issued_again(self):
        s = story(slack()).interrupted()
        assert s.status == "queued"
        assert s.command.attempt == 2

    def test_after_the_start_the_lease_decides(self):
        s = story(slack())
        command = s.command
        assert s.started().interrupted(command).refusal == "it was started: the lease decides"

    def test_an_answer_to_an_earlier_attempt_changes_nothing(self):
        s = story(slack())
        old = s.command
        s.interrupted()
        assert "attempt 1" in s.started(command=old).refusal


class TestApproval:
    STEP = scale(require_approval=True, approval_timeout_minutes=10)

    def waiting(self, **fields) -> Story:
        return story({**self.STEP, **fields}, by="bob").prepared(plan(inverse=True))

    def test_a_plan_comes_first_and_nothing_is_applied_before_the_approval(self):
        s = story(self.STEP)
        assert s.command.phase == "prepare"
        s.prepared()
        assert s.status == "awaiting_approval"
        assert decide(s.state) == ()
        assert wake_at(s.state) == T0 + timedelta(minutes=10)

    def test_approved_the_very_plan_is_applied(self):
        s = self.waiting().decided()
        assert s.status == "running"
        assert s.command.phase == "apply"
        assert s.command.expected_digest == plan(inverse=True).digest
        assert s.does().status == "succeeded"

    def test_rejected_it_halts(self):
        s = self.waiting().decided("reject", comment="too many")
        assert s.status == "halted"
        assert s.state.reason == "rejected by ann: too many"
        assert self.waiting().decided("reject").state.reason == "rejected by ann"

    def test_silence_is_no(self):
        s = self.waiting().at(10 * MINUTE).timer()
        assert s.status == "halted"
        assert s.state.reason == "nobody approved it in time"
        assert s.state.steps[0].approval.state == "expired"

    def test_a_quorum_of_distinct_people(self):
        s = self.waiting(approvals_required=2).decided(by="ann")
        assert s.status == "awaiting_approval"
        assert s.decided(by="ann").refusal == "ann has decided already"
        assert s.decided(by="cy").status == "running"

    @pytest.mark.parametrize(
        ("step", "decision", "said"),
        [
            ({}, {"by": "bob"}, "bob asked for this run and may not approve it"),
            ({"approvers": ["cy"]}, {}, "ann is not among the step's approvers"),
            ({}, {"digest": "other"}, "it was given for another plan"),
            ({}, {"step": 3}, "the execution is not at step 3"),
            ({}, {"refusal": "the decision is not signed"}, "the decision is not signed"),
        ],
    )
    def test_a_decision_that_does_not_count(self, step, decision, said):
        s = self.waiting(**step).decided(**decision)
        assert (s.status, s.refusal) == ("awaiting_approval", said)

    def test_late_is_no(self):
        s = self.waiting().at(10 * MINUTE).decided()
        assert (s.status, s.refusal) == ("awaiting_approval", "it came after the deadline")

    def test_one_may_reject_or_be_allowed_to_approve_what_one_asked_for(self):
        assert self.waiting().decided("reject", by="bob").status == "halted"
        assert self.waiting(allow_self_approval=True).decided(by="bob").status == "running"

    def test_nothing_waits(self):
        s = story(slack()).decided()
        assert s.refusal == "step 0 does not wait for approval"

    def test_after_the_last_step_nothing_waits(self):
        s = story(slack()).does()
        event = ApprovalDecided(**s.common(), step=1, decision="approve", by="ann")
        assert why_not_decided(s.state, event) == "the execution is not at step 1"

    def test_a_plan_that_changed_is_asked_again(self):
        s = self.waiting().decided().at(30)
        s.prepared(plan("another"))
        assert s.status == "awaiting_approval"
        assert s.state.reason.startswith("the plan changed after it was approved: it was “do it” and is “another”")
        assert wake_at(s.state) == T0 + timedelta(seconds=630)
        assert s.decided(digest=plan(inverse=True).digest).refusal == "it was given for another plan"
        assert s.decided().command.command_id == "e/1/0/apply/2"

    def test_another_plan_is_never_applied(self):
        s = self.waiting().decided()
        assert s.started(plan("another")).refusal == "this plan has no approval"

    def test_no_plan_is_applied_before_the_approval(self):
        s = story(self.STEP)
        forged = s.command.model_copy(update={"phase": "apply"})
        assert "apply phase" in s.started(command=forged).refusal
        assert "prepare" in story(slack()).prepared(command=s.command).refusal

    def test_interrupted_after_the_approval_it_stays_approved(self):
        s = self.waiting().decided().interrupted()
        assert s.command.command_id == "e/1/0/apply/2"
        assert s.does().status == "succeeded"


class TestCancel:
    def test_before_the_start_the_command_is_revoked(self):
        s = story(slack()).cancel()
        assert s.status == "queued"
        assert s.command.revoked
        assert s.interrupted().status == "cancelled"
        assert s.state.reason == "cancelled by ann"

    def test_what_has_begun_is_let_finish_and_nothing_else_begins(self):
        s = story(slack(), slack())
        command = s.command
        s.started().cancel()
        assert s.status == "running"
        assert s.cancel().refusal == "it is being cancelled already"
        assert s.finished(command).status == "cancelled"

    def test_after_the_last_step_no_metric_is_read(self):
        s = story(slack(), slack(), rollback_metric_check=CHECK).does()
        command = s.command
        assert s.started().cancel().finished(command).status == "cancelled"
        assert (s.state.verification, s.state.reason) == (None, "cancelled by ann")

    def test_where_nobody_knows_how_the_last_step_ended_it_can_be_cancelled_again(self):
        s = story(slack()).started().cancel().at(15).timer()
        assert s.status == "attention"
        assert s.cancel("bob").status == "cancelled"
        assert s.state.reason == "cancelled by bob"

    def test_what_was_begun_and_waited_for_its_next_try_is_unknown(self):
        s = story(scale()).started(plan(inverse=True)).at(15).timer().cancel()
        step = s.state.steps[0]
        assert (s.status, step.status, step.finished_at) == ("cancelled", "unknown", s.now)
        assert "stopped answering" in step.error
        s = story(scale()).started(plan(inverse=True)).at(15).timer().at(60).timer().cancel().interrupted()
        assert (s.status, s.state.steps[0].status) == ("cancelled", "unknown")

    def test_while_it_waits_it_ends_at_once(self):
        assert story(scale(require_approval=True)).prepared().cancel().status == "cancelled"
        assert story(TestRetries.STEP).does("failed", "x", temporary=True).cancel().status == "cancelled"
        assert story(slack()).does("unknown", "x").cancel().status == "cancelled"
        assert story(slack(), rollback_metric_check=CHECK).does().cancel().status == "cancelled"

    def test_no_new_try_and_no_new_question(self):
        s = story(TestRetries.STEP)
        command = s.command
        assert s.started().cancel().finished(command, "failed", "x", temporary=True).status == "failed"
        assert story(scale(require_approval=True)).cancel().prepared().status == "cancelled"

    def test_a_rollback_goes_on(self):
        s = story(scale(), slack(), rollback_on_failure=True).does(inverse=True).does("failed", "x").cancel()
        assert (s.status, s.refusal) == (
            "rolling_back",
            "cancelled does not apply to an execution that is rolling_back",
        )


class TestDryRun:
    def test_every_step_is_planned_and_none_applied(self):
        s = story(scale(require_approval=True), slack(), dry_run=True)
        assert s.status == "running"
        assert not s.state.holds_slot
        assert (s.command.phase, s.command.simulated) == ("prepare", True)
        s.prepared()
        assert s.prepared().status == "succeeded"
        assert [step.status for step in s.state.steps] == ["planned", "planned"]

    def test_a_step_that_cannot_run_does_not_hide_the_others(self):
        s = story(scale(), slack(), dry_run=True)
        s.finished(s.command, "failed", "no such deployment", temporary=True).prepared()
        assert (s.status, s.state.reason) == ("failed", "step 1 cannot run")

    def test_it_starts_nothing(self):
        s = story(slack(), dry_run=True)
        assert s.started().refusal == "a dry run starts nothing"


class TestRollback:
    def failed(self, **fields) -> Story:
        s = story(slack(), scale(), scale(), slack(), rollback_on_failure=True, **fields)
        return s.does().does(inverse="one").does(inverse="two").does("failed", "broken")

    def test_inverses_in_reverse_order(self):
        s = self.failed()
        assert s.status == "rolling_back"
        assert [step.index for step in s.state.rollback.steps] == [2, 1, 0]
        assert s.command.command_id == "e/1/2/rollback/1"
        assert s.command.step.replicas == 3
        assert s.command.expected == {"replicas": 5}
        s.does()
        assert s.command.command_id == "e/1/1/rollback/1"
        assert s.does().status == "rolled_back"
        assert [step.status for step in s.state.rollback.steps] == ["succeeded", "succeeded", "manual"]
        assert s.state.rollback.steps[2].reason == "it cannot be taken back"

    def test_one_that_fails_does_not_stop_the_others(self):
        s = self.failed().does("failed", "forbidden").does()
        assert s.status == "rollback_failed"
        assert s.state.reason == "step 4 failed: broken; step 3 was not taken back"
        assert [step.status for step in s.state.rollback.steps] == ["failed", "succeeded", "manual"]

    def test_what_was_done_before_to_the_same_target_is_left(self):
        s = story(scale(), scale(), scale(), slack(), rollback_on_failure=True)
        s.does(inverse="same").does(inverse="other").does(inverse="same").does("failed", "broken")
        s.does("failed", "forbidden")
        assert s.command.step_index == 1
        assert s.does().status == "rollback_failed"
        assert s.state.reason == "step 4 failed: broken; step 3, 1 was not taken back"
        last = s.state.rollback.steps[2]
        assert (last.status, last.error) == ("failed", "left as it is: step 3, on the same target, was not taken back")

    def test_drift_is_recorded_as_such_and_let_be(self):
        s = self.failed()
        command = s.command
        drifted = ActionFailure(message="the count is 8, and this execution left it at 5", drifted=True)
        s.started().tell(StepFinished(**s.answer(command), outcome=Outcome(outcome="failed", error=drifted)))
        assert s.does().status == "rollback_failed"
        first = s.state.rollback.steps[0]
        assert (first.status, first.error) == ("drifted", drifted.message)

    def test_a_step_that_failed_midway_is_taken_back_where_it_can_be(self):
        s = story(scale(), rollback_on_failure=True).does("failed", "broken", inverse=True)
        assert (s.status, s.command.step.replicas) == ("rolling_back", 3)
        assert s.does().status == "rolled_back"
        for step in (slack(), scale()):
            assert story(step, rollback_on_failure=True).does("failed", "broken").status == "failed"
        never_begun = story(scale(), rollback_on_failure=True)
        assert never_begun.finished(never_begun.command, "failed", "no such deployment").status == "failed"

    DECLARED = http(rollback={"type": "http", "method": "DELETE", "url": "https://x.example/{{ steps[0].output.id }}"})

    def test_a_declared_rollback_runs_with_what_the_step_gave(self):
        s = story(self.DECLARED, slack(), rollback_on_failure=True).does(output={"id": "7"}).does("failed", "x")
        command = s.command
        assert (command.phase, command.step.method, command.ready) == ("rollback", "DELETE", False)
        assert command.variables["steps"][0]["output"] == {"id": "7"}
        assert s.does().status == "rolled_back"

    def test_a_step_with_a_declared_rollback_travels(self):
        s = story(self.DECLARED)
        assert read_command(write_command(s.command)) == s.command
        assert read_event(write_event(s.state.request)) == s.state.request
        assert Execution.model_validate(s.state.model_dump(mode="json")) == s.state

    def test_a_declared_rollback_is_tried_again_only_where_twice_is_harmless(self):
        for method, status in (("DELETE", "rolling_back"), ("POST", "rollback_failed")):
            step = http(rollback={"type": "http", "method": method, "url": "https://x.example"})
            s = story(step, slack(), rollback_on_failure=True).does().does("failed", "x")
            assert s.does("unknown", "no answer").status == status

    def test_a_declared_rollback_runs_for_a_step_that_failed_midway_too(self):
        s = story(self.DECLARED, rollback_on_failure=True).does("failed", "broken")
        assert s.command.step.method == "DELETE"

    def test_halted_it_goes_back_where_the_runbook_says_so(self):
        guarded = slack(require_approval=True)
        s = story(scale(), guarded, on_halt="rollback").does(inverse=True).prepared().decided("reject", comment="no")
        assert (s.status, s.state.reason) == ("rolling_back", "rejected by ann: no")
        assert s.state.steps[1].status == "halted"
        assert s.does().status == "rolled_back"
        s = story(scale(), guarded, on_halt="rollback").does(inverse=True).prepared().at(11 * MINUTE).timer()
        assert s.status == "rolling_back"
        assert story(guarded, on_halt="rollback").prepared().decided("reject").status == "halted"
        assert story(scale(), guarded).does(inverse=True).prepared().decided("reject").status == "halted"

    def test_a_rollback_step_is_tried_again(self):
        s = self.failed().does("failed", "busy", temporary=True)
        assert s.status == "rolling_back"
        s.at(60).timer()
        assert s.command.command_id == "e/1/2/rollback/2"
        assert s.interrupted().command.attempt == 3

    def test_a_rollback_step_with_an_unknown_outcome_is_tried_again_and_then_given_up(self):
        s = self.failed()
        for number in range(ROLLBACK_ATTEMPTS):
            s.at(100 * number).does("unknown", "no answer").at(100 * number + 50).timer()
        assert s.state.rollback.steps[0].status == "unknown"
        assert s.at(900).does().status == "rollback_failed"

    def test_with_nothing_to_take_back_it_has_failed(self):
        s = story(slack(), slack(), rollback_on_failure=True).does().does("failed", "x")
        assert s.status == "failed"
        assert s.state.rollback.steps[0].status == "manual"

    def test_answers_of_forward_steps_come_too_late(self):
        s = self.failed()
        assert "not at step 3" in s.tell(StepSkipped(**self.answer_at(s, 3, "apply"), reason="x")).refusal
        assert "not at step 0" in s.tell(StepSkipped(**self.answer_at(s, 0, "rollback"), reason="x")).refusal
        skipped = StepSkipped(**s.answer(), reason="x")
        assert s.tell(skipped).refusal == "a rollback step is not skipped"

    def test_a_rollback_answer_without_a_rollback(self):
        s = story(slack())
        assert "not at step 0" in s.tell(StepSkipped(**self.answer_at(s, 0, "rollback"), reason="x")).refusal

    @staticmethod
    def answer_at(s, step, phase):
        return {**s.common(), "command_id": "x", "run": s.state.run, "step": step, "phase": phase, "attempt": 1}


class TestMetricCheck:
    def checking(self, **fields) -> Story:
        s = story(scale(), rollback_metric_check={**CHECK, **fields}).does(inverse=True)
        assert (s.status, decide(s.state)) == ("verifying", ())
        assert not s.state.holds_slot
        assert wake_at(s.state) == T0 + timedelta(minutes=5)
        return s.at(5 * MINUTE).timer()

    def test_a_good_value(self):
        s = self.checking()
        assert (s.command.topic, s.command.service_id) == ("step-commands.metric", "s")
        assert s.measured(90.0).status == "succeeded"

    def test_a_bad_value_takes_it_back(self):
        s = self.checking().measured(90.5)
        assert (s.status, s.state.reason) == ("rolling_back", "cpu is 90.5, over 90")
        assert s.does().status == "rolled_back"

    @pytest.mark.parametrize(
        ("policy", "status"), [("keep", "succeeded"), ("rollback", "rolling_back"), ("attention", "attention")]
    )
    def test_no_data_is_never_taken_for_good(self, policy, status):
        s = self.checking(on_no_data=policy).measured(None, detail="empty")
        assert (s.status, s.state.reason) == (status, "no data for cpu: empty")

    def test_nobody_answers(self):
        s = self.checking()
        for number in range(1, 4):
            assert s.command.attempt == number
            s.at(5 * MINUTE + 60 * number).timer()
        assert (s.status, s.state.reason) == ("attention", "no data for cpu: nobody answered the check")

    def test_an_answer_nobody_asked_for(self):
        s = self.checking()
        assert s.measured(1.0, attempt=2).refusal == "no such reading was asked for"

    def test_a_person_decides(self):
        unclear = self.checking().measured(None)
        assert unclear.state.reason == "no data for cpu"
        assert unclear.resolved("succeeded").status == "succeeded"
        assert self.checking().measured(None).resolved("failed").status == "rolling_back"

    def test_a_run_that_changed_nothing_is_not_checked(self):
        assert story(slack(when="false"), rollback_metric_check=CHECK).skipped().status == "succeeded"


class TestAgain:
    def test_the_same_request_is_the_same_execution(self):
        s = story(slack())
        before = s.state
        s.tell(requested(slack()))
        assert s.state is before
        assert s.refusal == "requested again: it is the same execution"

    def test_within_the_window_after_its_end_too_and_later_it_is_a_new_run(self):
        s = story(slack(), limits=Limits(dedup_window_s=100)).does()
        ended, marker = s.state, s.state.marker()
        inside, after = (
            requested(slack(), at=T0 + timedelta(seconds=100)),
            requested(slack(), at=T0 + timedelta(seconds=101)),
        )
        for state in (ended, marker):
            assert evolve(state, inside, 50).execution is state
            assert evolve(state, after, 50).execution.run == 50

    def test_a_marker_takes_nothing_else(self):
        s = story(slack()).does()
        marker = s.state.marker()
        assert evolve(marker, TimerFired(**s.common()), 9) == (marker, "the execution has ended: succeeded")

    def test_an_event_of_an_earlier_run_changes_nothing(self):
        s = story(slack())
        event = s.start_event().model_copy(update={"run": 77})
        assert s.tell(event).refusal == "run 77, and this is run 1"

    def test_nobody_knows_the_execution(self):
        assert evolve(None, TimerFired(tenant="default", execution_id="e", at=T0), 1) == (None, "no such execution")


def in_status(status: Status) -> Story:  # noqa: PLR0911 - one line a status
    approval = scale(require_approval=True)
    back = {"rollback_on_failure": True}
    match status:
        case Status.queued:
            return story(slack(), slack())
        case Status.running:
            return story(slack(), slack()).does()
        case Status.awaiting_approval:
            return story(approval).prepared()
        case Status.verifying:
            return story(scale(), rollback_metric_check=CHECK).does(inverse=True).at(5 * MINUTE).timer()
        case Status.rolling_back:
            return story(scale(), slack(), **back).does(inverse=True).does("failed", "x")
        case Status.attention:
            return story(slack(), slack()).does("unknown", "x")
        case Status.succeeded:
            return story(slack()).does()
        case Status.failed:
            return story(slack()).does("failed", "x")
        case Status.halted:
            return story(approval).prepared().decided("reject")
        case Status.cancelled:
            return story(approval).prepared().cancel()
        case Status.rolled_back:
            return in_status(Status.rolling_back).does()
        case Status.skipped:
            return story(slack(), cooldown_seconds=60).judged("skip", "cooldown", "one was at work")
        case Status.rollback_failed:
            return in_status(Status.rolling_back).does("failed", "x")


def all_events(s: Story):
    """One event of every type in every shape, aimed at each step, phase and attempt there may be."""
    common = {**s.common(), "at": s.now + timedelta(days=1)}
    done = [Outcome(outcome=name) for name in ("succeeded", "failed", "unknown")]
    for step in range(3):
        for phase in ("prepare", "apply", "rollback"):
            for attempt in (1, 2):
                answer = {**common, "command_id": "x", "run": 1, "step": step, "phase": phase, "attempt": attempt}
                yield StepPrepared(**answer, plan=plan())
                yield StepStarted(**answer, plan=plan(), lease_until=common["at"], worker="w")
                yield StepHeartbeat(**answer, lease_until=common["at"])
                yield from (StepFinished(**answer, outcome=outcome) for outcome in done)
                yield StepSkipped(**answer, reason="x")
                yield StepInterrupted(**answer)
        for decision in ("approve", "reject"):
            yield ApprovalDecided(**common, step=step, decision=decision, by="ann")
            yield ApprovalDecided(**{**common, "at": s.now}, step=step, decision=decision, by="ann")
    yield TimerFired(**common)
    yield CancelRequested(**common, by="ann")
    yield from (StepResolved(**common, outcome=outcome, by="ann") for outcome in ("succeeded", "failed"))
    yield from (MetricChecked(**common, run=1, attempt=1, value=value) for value in (None, 1.0, 99.0))
    yield MetricChecked(**common, moment="before", run=1, attempt=1, value=1.0)
    yield requested(slack())


@pytest.mark.parametrize("status", list(Status))
def test_every_event_in_every_status_moves_along_the_table_or_changes_nothing(status):
    s = in_status(status)
    assert s.state.status is status
    moved = 0
    for event in all_events(s):
        after, refusal = evolve(s.state, event, 99)
        if refusal is None:
            moved += 1
            assert after.status in TRANSITIONS[status].values()
            assert (after.finished_at is not None) == (after.status in TERMINAL)
        else:
            assert after is s.state
            assert refusal
    assert (moved == 0) == (status in TERMINAL)


def test_the_table_names_every_status():
    assert set(TRANSITIONS) == set(Status)
    assert all(set(TRANSITIONS[status]) == {"rollback_asked"} for status in TERMINAL)


def test_service_and_variables_of_an_anomaly():
    anomaly = anomaly_of({"service_id": "from the event", "metric_name": "m"}, anomaly_id="a", received_at=T0)
    s = Story(requested(slack()).model_copy(update={"anomaly": anomaly}))
    assert s.state.service_id == "from the event"
    assert s.command.variables["anomaly"]["anomaly_id"] == "a"


def test_service_and_variables_of_a_manual_run():
    s = story(slack(), context={"service_id": "other", "x": 1}, by="bob")
    assert s.state.service_id == "other"
    assert s.command.variables["anomaly"] == {"service_id": "other", "x": 1}
    assert story(slack()).state.service_id == "s"
    free = story(slack(), trigger={"metric_name": "m"})
    assert free.state.service_id is None
    assert free.command.variables["anomaly"] == {"metric_name": "m"}
    assert story(slack(), trigger=None).command.variables["anomaly"] == {}


def test_the_runbooks_own_timeout_and_the_steps():
    book = runbook(slack(), slack(approval_timeout_minutes=2), approval_timeout_minutes=3)
    assert [book.approval_timeout_s(index) for index in (0, 1)] == [180, 120]


def test_a_shadow_is_never_carried_out_but_for_dry_runs():
    s = story(slack(), mode="shadow", by="ann")
    assert (s.status, s.state.reason.startswith("the runbook is a shadow"), decide(s.state)) == ("skipped", True, ())
    assert story(slack(), mode="shadow", dry_run=True).status == "running"
