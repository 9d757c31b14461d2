"""What is answered for commands that no record can hold."""

from building import T0, scale, slack, story

from app.core.unsendable import answer_for, stop_of

CHECK = {"metric_name": "c", "check_after_minutes": 1, "rollback_if_value_exceeds": 1}


def test_a_step_fails_and_says_why():
    s = story(slack())
    s.tell(answer_for(s.command, "too large", T0))
    assert (s.status, s.state.reason) == ("failed", "step 1 failed: too large")


def test_a_step_that_was_called_back_never_begins():
    s = story(slack()).cancel()
    assert s.command.revoked
    s.tell(answer_for(s.command, "too large", T0))
    assert s.status == "cancelled"


def test_a_message_that_cannot_be_sent_is_known_not_to_stand_anywhere():
    s = story(scale(require_approval=True, approval_channel="#c")).prepared()
    s.tell(answer_for(s.notices[0], "too large", T0))
    assert s.refusal is None
    assert s.state.steps[0].approval.notices[0].error == "too large"


def test_a_metric_that_cannot_be_asked_for_has_no_value():
    s = story(slack(), rollback_metric_check=CHECK).does().at(60).timer()
    answer = answer_for(s.command, "too large", s.now)
    assert (answer.value, answer.detail) == (None, "too large")
    assert s.tell(answer).refusal is None


def test_what_has_grown_too_large_is_stopped_unless_it_is_ending():
    running = story(scale(require_approval=True)).prepared().state
    assert stop_of(running, "too large", T0).comment == "too large"
    assert stop_of(running.now(cancel_by="ann"), "too large", T0) is None
    assert stop_of(story(slack()).does().state, "too large", T0) is None
