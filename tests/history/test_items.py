"""What history says of an execution: the product page's list."""

import hashlib
from datetime import timedelta

import pytest
from building import T0, http, plan, requested, scale, slack, story
from test_same_bytes import RUNS, random_run

from app.core.anomaly import Anomaly
from app.core.execution import Execution
from app.core.lifecycle import evolve
from app.history.folding import row_of, with_item
from app.history.items import HistoryItem, item_of, written_item

AS_KEPT = "233961840ab413afea256f22f8ecef637de016d6f6cca0a29d6dd5a77c62de82"
"""Rows keep their items: one that is made otherwise wants a migration that sets executions.item_offset to NULL, so that
no page shows, and no audit finds, what was kept before. Then this is what the test says."""
ANOMALY = Anomaly(anomaly_id="a-7", service_id="payment-api", metric_name="cpu", anomaly_score=0.9, timestamp=T0)


def test_who_what_when():
    told = story(slack(name="tell"), http()).at(10).does(output={"ts": "1.2"}).at(20).does()
    item = item_of(told.state)
    assert (item.execution_id, item.runbook_name, item.runbook_version, item.status) == ("e", "r", 1, "succeeded")
    assert (item.service_id, item.trigger_anomaly_id, item.requested_by, item.dry_run) == ("s", None, None, False)
    assert (item.requested_at, item.started_at) == (T0, T0 + timedelta(seconds=10))
    assert (item.finished_at, item.duration_seconds) == (T0 + timedelta(seconds=20), 20.0)
    first, second = item.steps
    assert (first.index, first.name, first.type, first.action) == (
        0,
        "tell",
        "slack",
        told.state.runbook.steps[0].action,
    )
    assert (first.status, first.summary, first.output, first.error, first.attempts) == (
        "succeeded",
        "do it",
        {"ts": "1.2"},
        None,
        1,
    )
    assert (first.started_at, second.index, first.approval) == (T0 + timedelta(seconds=10), 1, None)
    assert (item.approvers, item.rollback.status, item.rollback.steps) == ([], "none", [])


def test_the_anomaly_is_named():
    request = requested(slack()).model_copy(update={"anomaly": ANOMALY})
    item = item_of(story(slack()).state.now(request=request))
    assert (item.trigger_anomaly_id, item.service_id) == ("a-7", "payment-api")


def test_while_it_runs_there_is_no_duration():
    item = item_of(story(slack()).started().state)
    assert (item.finished_at, item.duration_seconds, item.steps[0].attempts) == (None, None, 1)


def test_a_waiting_approval_shows_its_digest_and_its_deadline():
    told = story(slack(require_approval=True)).prepared()
    (step,) = item_of(told.state).steps
    assert (step.approval.state, step.approval.by, step.approval.decided_at) == ("pending", [], None)
    assert step.approval.digest == plan().digest
    assert step.approval.deadline == T0 + timedelta(minutes=10)


def test_every_approver_once_with_what_they_said():
    told = story(scale(require_approval=True, approvals_required=2), scale(require_approval=True)).prepared()
    told.at(5).decided(by="ann", comment="looks right").at(6).decided(by="cy", comment="go").does()
    told.prepared().decided(by="ann").does()
    item = item_of(told.state)
    assert item.approvers == ["ann", "cy"]
    approval = item.steps[0].approval
    assert (approval.state, approval.by, approval.comment) == ("approved", ["ann", "cy"], "looks right; go")
    assert approval.decided_at == T0 + timedelta(seconds=6)
    assert [(vote.by, vote.source) for vote in approval.votes] == [("ann", "api"), ("cy", "api")]


def test_a_message_that_could_not_be_delivered_is_shown_as_such():
    told = story(scale(require_approval=True, approval_channel="#ops")).prepared()
    assert [one.state for one in item_of(told.state).steps[0].approval.notices] == ["due"]
    (notice,) = item_of(told.noticed(error="channel_not_found").state).steps[0].approval.notices
    assert (notice.kind, notice.to, notice.state, notice.error) == ("ask", "#ops", "failed", "channel_not_found")


def test_a_plan_that_was_asked_for_anew_keeps_the_request_before():
    told = story(scale(require_approval=True)).prepared().decided(by="ann").prepared(plan("another"))
    item = item_of(told.state)
    (step,) = item.steps
    assert [one.state for one in step.superseded_approvals] == ["superseded"]
    assert (step.approval.number, step.approval.state, item.approvers) == (2, "pending", ["ann"])
    assert step.approval.changed.startswith("it was “do it” and is “another”")


def test_a_rejection_names_who_and_why():
    item = item_of(story(slack(require_approval=True)).prepared().decided("reject", comment="not now").state)
    assert (item.status, item.reason) == ("halted", "rejected by ann: not now")
    assert (item.steps[0].status, item.steps[0].approval.state, item.approvers) == ("halted", "rejected", ["ann"])


def test_a_dry_run_shows_before_and_after_and_the_way_back():
    told = story(scale(), slack(), dry_run=True).prepared(plan("Scale", inverse=True)).prepared()
    scaled, told_off = item_of(told.state).steps
    assert (scaled.status, scaled.attempts, scaled.plan.before) == ("planned", 1, {"replicas": 3})
    assert (scaled.plan.inverse["replicas"], scaled.plan.manual_reason) == (3, None)
    assert (told_off.plan.inverse, told_off.plan.manual_reason) == (None, "it cannot be taken back")


def test_a_rollback_step_by_step():
    told = (
        story(scale(), slack(), http(), rollback_on_failure=True).does(inverse=True).does().does("failed", "no route")
    )
    assert item_of(told.state).rollback.status == "running"
    item = item_of(told.does().state)
    assert (item.status, item.rollback.status) == ("rolled_back", "partial")
    assert item.rollback.reason == "step 3 failed: no route"
    assert [(step.index, step.status, step.reason) for step in item.rollback.steps] == [
        (1, "manual", "it cannot be taken back"),
        (0, "succeeded", None),
    ]
    assert (item.steps[2].error, item.steps[2].attempts) == ("no route", 1)


def test_attempts_count_every_try():
    again = {"max_attempts": 3, "backoff_seconds": 1}
    told = story(slack(retries=again)).does("failed", "busy", temporary=True)
    assert item_of(told.state).steps[0].attempts == 1
    assert item_of(told.at(60).timer().does().state).steps[0].attempts == 2


def test_an_unknown_outcome_was_one_try_whoever_then_says_how_it_ended():
    told = story(http(on_unknown="attention")).does("unknown")
    assert (item_of(told.state).status, item_of(told.state).steps[0].attempts) == ("attention", 1)
    assert item_of(told.resolved("failed").state).steps[0].attempts == 1
    assert item_of(story(http(on_unknown="fail")).does("unknown").state).steps[0].attempts == 1


def test_a_step_that_never_ran_was_never_tried():
    item = item_of(story(slack(when="false"), slack()).skipped().state)
    assert [(step.status, step.attempts) for step in item.steps] == [("skipped", 0), ("pending", 0)]


def test_whether_a_manual_run_met_its_trigger():
    request = requested(slack(), by="ann").model_copy(
        update={"trigger_matches": False, "trigger_reason": "`x` is false"}
    )
    item = item_of(story(slack()).state.now(request=request))
    assert (item.requested_by, item.trigger.matched, item.trigger.reason) == ("ann", False, "`x` is false")


def test_the_metric_before_and_after():
    check = {"metric_name": "cpu", "check_after_minutes": 1, "rollback_if_value_exceeds": 90, "samples": 2}
    told = story(slack(), rollback_metric_check=check).measured_before(95.5).does()
    assert item_of(told.state).metric_check.check_at == T0 + timedelta(minutes=1)
    told.at(60).timer().measured(None, detail="no series").at(75).timer().measured(40.0)
    item = item_of(told.state)
    shown = item.metric_check
    assert (item.status, shown.metric_name, shown.check_at) == ("succeeded", "cpu", None)
    assert (shown.before.at, shown.before.value, shown.before.detail) == (T0, 95.5, None)
    assert [(one.value, one.detail) for one in shown.after] == [(None, "no series"), (40.0, None)]
    assert item_of(story(slack()).state).metric_check is None


def random_states():
    for seed in range(RUNS):
        state = None
        for offset, event in enumerate(random_run(seed).events, start=1):
            state, _ = evolve(state, event, offset)
            yield state


def test_an_item_is_valid_though_nobody_checks_it_and_the_same_of_a_state_that_was_written():
    seen = hashlib.sha256()
    for state in random_states():
        text = written_item(state)
        assert HistoryItem.model_validate_json(text, strict=True).model_dump_json() == text
        assert written_item(Execution.model_validate_json(state.model_dump_json())) == text
        seen.update(text.encode())
    assert seen.hexdigest() == AS_KEPT


def test_a_row_keeps_the_item_of_what_has_ended():
    ended = 0
    for state in random_states():
        row = row_of(state, 0)
        ended += state.terminal
        expected = (state.last_offset, written_item(state)) if state.terminal else (None, None)
        assert (row["item_offset"], row["item"]) == expected
        assert with_item(row) is row
        for left in ({"item_offset": None, "item": None}, {"item_offset": 0, "item": "of before"}):
            assert with_item(row | left) == row
    assert ended > RUNS / 2


def test_an_item_that_counts_is_not_made_anew():
    going, ended = row_of(story(slack()).state, 0), row_of(story(slack()).does().state, 0)
    for row in (going | {"item_offset": going["last_offset"], "item": "made up"}, ended | {"item": "made up"}):
        assert with_item(row) == row
    with pytest.raises(ValueError, match="state"):
        with_item(ended | {"item_offset": None, "state": '{"state": 1}'})
