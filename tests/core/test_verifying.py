"""The metric check: when it reads, and what several readings mean."""

from datetime import timedelta

import pytest
from building import T0, Story, runbook, scale, slack, story

from app.core.errors import RunbookRefused
from app.core.lifecycle import decide, wake_at
from app.core.runbook import MetricCheck
from app.core.step_state import Reading

MINUTE = 60
CHECK = {"metric_name": "cpu", "check_after_minutes": 5, "rollback_if_value_exceeds": 90.0}


def checking(**fields) -> Story:
    s = story(scale(), rollback_metric_check={**CHECK, **fields}).at(10).does(inverse=True)
    return s.at(10 + 5 * MINUTE).timer()


def after_readings(values, **fields) -> Story:
    s = checking(samples=len(values), interval_seconds=20, **fields)
    for value in values:
        if s.status != "verifying":
            break
        s.measured(value, detail="" if value is not None else "empty")
        if s.status == "verifying":
            assert decide(s.state) == ()
            assert wake_at(s.state) == s.now + timedelta(seconds=20)
            s.at(s.seconds + 20).timer()
    return s


@pytest.mark.parametrize(
    ("values", "status", "read"),
    [
        ([95], "rolling_back", 1),
        ([95, 50], "succeeded", 2),
        ([95, 96], "rolling_back", 2),
        ([95, 50, 50], "succeeded", 3),  # one spike
        ([50, 95, 96], "rolling_back", 3),  # one good moment
        ([95, 96, 50], "rolling_back", 2),
        ([50, 50, 95], "succeeded", 2),
        ([95, 50, 96, 50], "succeeded", 4),
        ([None, 95, 96], "rolling_back", 3),
        ([None, 50, 50], "succeeded", 3),
        ([None, 50, 95], "attention", 3),
        ([None, None, 95], "attention", 3),
        ([None, 95], "attention", 2),
        ([None, 50], "succeeded", 2),
    ],
)
def test_more_than_half_of_the_readings_decide_as_soon_as_they_can(values, status, read):
    s = after_readings(values)
    assert s.status == status
    assert [one.value for one in s.state.verification.readings] == values[:read]


def test_the_reason_counts_the_readings():
    assert after_readings([95, 50, 96.5]).state.reason == "cpu is 96.5, over 90, bad in 2 of 3 readings"
    assert after_readings([None, 50, 95]).state.reason == "no data for cpu in 1 of 3 readings: empty"


def test_every_reading_is_asked_for_under_a_name_of_its_own():
    s = checking(samples=2)
    first = s.command
    s.measured(95).at(s.seconds + 15).timer()
    assert (first.attempt, s.command.attempt) == (1, 2)
    assert first.command_id != s.command.command_id
    assert first.not_before == s.command.not_before == T0 + timedelta(seconds=10)
    assert s.measured(95, attempt=1).refusal == "no such reading was asked for"


def test_a_reading_that_nobody_answers_is_without_data_and_the_next_one_is_asked_for():
    s = checking(samples=3)
    for _ in range(3):
        s.at(s.seconds + 60).timer()
    assert (s.status, decide(s.state)) == ("verifying", ())
    assert s.state.verification.readings == (Reading(at=s.now, value=None, detail="nobody answered the check"),)
    s.at(s.seconds + 15).timer()
    assert s.command.attempt == 4


def test_a_lower_bound():
    lower = {"rollback_if_value_exceeds": None, "rollback_if_value_below": 10}
    assert checking(**lower).measured(9.5).state.reason == "cpu is 9.5, under 10"
    assert checking(**lower).measured(10).status == "succeeded"
    both = {"rollback_if_value_below": 10}
    assert [checking(**both).measured(value).status for value in (5, 50, 95)] == [
        "rolling_back",
        "succeeded",
        "rolling_back",
    ]


@pytest.mark.parametrize(
    ("above", "below", "values", "worst"),
    [
        (90, None, [1, 95, 50], 95),
        (None, 10, [1, 95, 50], 1),
        (90, 10, [1, 50], 1),
        (90, 10, [20, 50], 50),
        (90, 10, [1, 95], 95),
    ],
)
def test_of_several_series_the_worst_counts(above, below, values, worst):
    check = MetricCheck(
        metric_name="m", check_after_minutes=1, rollback_if_value_exceeds=above, rollback_if_value_below=below
    )
    assert check.worst(values) == worst


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rollback_if_value_exceeds": None}, "needs rollback_if_value_exceeds or rollback_if_value_below"),
        ({"rollback_if_value_below": 90.0}, "would take every value for bad"),
        ({"samples": 0}, "greater than or equal to 1"),
        ({"samples": 21}, "less than or equal to 20"),
        ({"interval_seconds": 0}, "greater than or equal to 0.1"),
        ({"rollback_if_value_bellow": 1}, "did you mean 'rollback_if_value_below'"),
    ],
)
def test_a_check_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(RunbookRefused) as refused:
        runbook(slack(), rollback_metric_check={**CHECK, **fields})
    (problem,) = refused.value.problems
    assert message in str(problem)
    assert problem.path.startswith("rollback_metric_check")


class TestBefore:
    def begun(self, *steps) -> Story:
        return story(*(steps or [scale(), scale()]), rollback_metric_check=CHECK)

    def test_it_is_read_beside_the_first_step_and_kept(self):
        s = self.begun()
        assert s.before_command.command_id == "e/1/0/metric/1"
        assert (s.before_command.moment, s.before_command.not_before) == ("before", None)
        s.at(1).measured_before(97.0)
        assert (s.status, s.before_command) == ("queued", None)
        s.does()
        assert s.state.metric_before == Reading(at=T0 + timedelta(seconds=1), value=97.0)
        assert s.measured_before(1.0).refusal == "no such reading was asked for"

    def test_its_absence_changes_nothing(self):
        s = self.begun().started()
        assert s.before_command is None
        s.finished(self.begun().command).does()
        assert (s.status, s.state.metric_before) == ("verifying", None)

    def test_an_answer_within_a_moment_of_the_first_step_counts_and_a_later_one_does_not(self):
        s = self.begun().at(2).started()
        assert s.at(7).measured_before(97.0).refusal is None
        late = self.begun().at(2).started().at(7.1).measured_before(97.0)
        assert late.refusal == "the first step had begun before it was read"

    def test_it_waits_for_the_approval_of_the_first_step(self):
        s = self.begun(scale(require_approval=True))
        assert s.before_command is None
        assert s.prepared().before_command is None
        assert s.decided().before_command is not None

    def test_not_for_a_dry_run_a_cancelled_one_or_one_without_a_check(self):
        assert story(scale(), dry_run=True, rollback_metric_check=CHECK).before_command is None
        assert self.begun().cancel().before_command is None
        free = story(scale())
        assert free.before_command is None
        assert free.measured_before(1.0).refusal == "no such reading was asked for"
