"""What is to be done with each version of a message: a table."""

from datetime import timedelta

import pytest
from building import T0, plan, scale, story

from app.core.notice_line import NoticeLine

STEP = scale(require_approval=True, approval_channel="#ops", approvals_required=3)
PLACED = NoticeLine().placed("C1", "1.5", 0)


def asked_for(*, votes=0, ended=False, posted=False):
    s = story(STEP).prepared(plan())
    if posted:
        s.noticed()
    for number in range(votes):
        s.decided(by=f"person {number}")
    if ended:
        s.cancel()
    return s.notices[0]


@pytest.mark.parametrize(
    ("line", "command", "deed"),
    [
        (NoticeLine(), asked_for(), "post"),
        (NoticeLine(), asked_for(votes=1), "post"),
        (NoticeLine(), asked_for(ended=True), "drop"),
        (NoticeLine(newest=1), asked_for(), "pass"),
        (NoticeLine(newest=1), asked_for(ended=True), "drop"),
        (NoticeLine(doubtful=True), asked_for(), "look"),
        (NoticeLine(lost=True), asked_for(ended=True), "look"),
        (NoticeLine(lost=True, newest=1), asked_for(), "pass"),
        (PLACED, asked_for(), "pass"),
        (PLACED, asked_for(votes=1), "change"),
        (PLACED.now(lost=True), asked_for(ended=True), "change"),
        (PLACED.placed("C1", "1.5", 1), asked_for(votes=1), "pass"),
        (NoticeLine(), asked_for(votes=1, posted=True), "change"),
        (NoticeLine(), asked_for(ended=True).model_copy(update={"doubtful": True}), "look"),
    ],
)
def test_what_is_to_be_done(line, command, deed):
    assert line.asked(command).deed(command, T0) == deed


def test_what_nobody_can_decide_any_more_is_not_asked():
    given = asked_for()
    assert NoticeLine().deed(given, given.card.deadline - timedelta(seconds=1)) == "post"
    assert NoticeLine().deed(given, given.card.deadline) == "drop"


def test_a_post_that_is_found_is_in_no_doubt_and_shows_nothing_known():
    found = NoticeLine(doubtful=True, lost=True).placed("C1", "1.5")
    assert (found.doubtful, found.lost, found.shown) == (False, False, -1)


def test_a_newer_command_that_waits_and_those_that_there_may_be_before_it():
    closing = asked_for(ended=True)
    assert NoticeLine().expecting(closing).newest == 1
    message = "e/1/0/notice-1-0"
    assert closing.before == ((0, f"{message}/0"), (0, f"{message}/0/placed"), (1, f"{message}/1/placed"))
