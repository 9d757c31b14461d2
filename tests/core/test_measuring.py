from datetime import timedelta

import pytest
from building import T0

from app.core.measuring import Found, failed, measured
from app.core.runbook import MetricCheck

NAN, INF = float("nan"), float("inf")
EARLY, LATE = T0 - timedelta(seconds=1), T0 + timedelta(seconds=1)
ABOVE = MetricCheck(metric_name="cpu", check_after_minutes=5, rollback_if_value_exceeds=90)
BELOW = MetricCheck(metric_name="cpu", check_after_minutes=5, rollback_if_value_below=10)
OLD = "the newest was measured at 2026-01-01T02:59:59+00:00, before 2026-01-01T03:00:00+00:00"


def told(values, check=ABOVE, doubt=""):
    found = [value if isinstance(value, Found) else Found(value, LATE) for value in values]
    return tuple(measured(found, check, T0, doubt))


@pytest.mark.parametrize(
    ("values", "check", "answer"),
    [
        ([50], ABOVE, (50, "", "value")),
        ([50, 95, 60], ABOVE, (95, "the worst of 3 series", "value")),
        ([50, 5], BELOW, (5, "the worst of 2 series", "value")),
        ([Found(50, None)], ABOVE, (50, "", "value")),
        ([Found(50, T0)], ABOVE, (50, "", "value")),
        ([], ABOVE, (None, "nothing was measured", "no_data")),
        ([Found(50, EARLY)], ABOVE, (None, OLD, "stale")),
        ([Found(95, EARLY), Found(50, LATE)], ABOVE, (50, "one series, without 1 measured before", "value")),
        ([NAN], ABOVE, (None, "the value is NaN", "unclear")),
        ([INF], ABOVE, (None, "the value is +inf", "unclear")),
        ([-INF], ABOVE, (None, "the value is -inf", "unclear")),
        ([50, NAN], ABOVE, (None, "the value is NaN in 1 of 2 series", "unclear")),
        ([95, NAN], ABOVE, (95, "the worst of 2 series", "value")),
    ],
)
def test_what_a_reading_is_judged_by(values, check, answer):
    value, detail, result = told(values, check)
    assert (value, result) == (answer[0], answer[2])
    assert detail.startswith(answer[1])
    assert bool(detail) == bool(answer[1])


def test_where_something_may_be_missing_only_a_bad_value_counts():
    assert told([50], doubt="a store is away") == (None, "a store is away", "unclear")
    assert told([], doubt="a store is away") == (None, "a store is away", "unclear")
    assert told([95], doubt="a store is away") == (95, "", "value")


def test_a_reading_that_failed_has_no_value():
    assert failed("it is away") == (None, "it is away", "error")
