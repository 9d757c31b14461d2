"""The message that tells of a rollback: asked for when it begins, after each step and at its end."""

from building import scale, slack, story

from app.core.events import Limits

BACK = {"rollback_on_failure": True, "notify_channel": "#oncall"}


def going_back(**fields):
    steps = [slack(), scale(), scale(deployment="x"), slack()]
    s = story(*steps, **({**BACK} | fields)).does().does(inverse="d").does(inverse="x")
    return s.does("failed", "no such channel")


def shown(command):
    return [(step.number, step.status) for step in command.card.steps]


def test_it_is_told_when_it_begins_after_each_step_and_at_its_end():
    s = going_back()
    (begun,) = s.notices
    assert (begun.to, begun.request, begun.notice, begun.version, begun.ts) == ("#oncall", 0, 1, 0, None)
    assert (begun.card.reason, begun.card.cause, begun.card.over) == (
        "step 4 failed: no such channel",
        "failure",
        False,
    )
    assert shown(begun) == [(3, "pending"), (2, "pending"), (1, "manual")]
    s.noticed()
    assert s.notices == []
    s.does()
    (step,) = s.notices
    assert (step.ts is not None, step.version, shown(step)[0]) == (True, 1, (3, "succeeded"))
    s.noticed(step).does("failed", "no right to")
    (last,) = s.notices
    assert (s.status, last.card.over, last.card.status, last.version) == ("rollback_failed", True, "failed", 3)
    assert last.card.steps[1].detail == "no right to"


def test_what_could_not_be_posted_is_told_at_the_end_once_more():
    s = going_back().noticed(error="Slack is away")
    assert s.notices == []
    s.does().does()
    (last,) = s.notices
    assert (last.ts, last.card.over, last.card.may_be_posted(s.now)) == (None, True, True)


def test_without_a_place_nobody_is_told_and_the_setting_is_one():
    assert going_back(notify_channel=None).notices == []
    by_setting = going_back(notify_channel=None, limits=Limits(approval_channel="#all"))
    assert by_setting.notices[0].to == "#all"


def test_a_second_rollback_has_a_message_of_its_own():
    s = going_back().noticed().does().does("failed", "x").back()
    (again,) = s.notices
    assert (again.notice, again.ts, again.card.cause) == (2, None, "person")
    stale = s.noticed(again, notice=1)
    assert stale.refusal == "there is no such message"
    assert s.noticed(again).notices == []


def test_a_message_about_no_rollback_is_refused():
    s = going_back()
    told = s.notices[0]
    assert story(slack(), slack(), **BACK).does().noticed(told).refusal == "there is no such message"
