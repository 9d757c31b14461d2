"""What figures are remarked on, and how far a shadow's guards can be judged."""

from collections import Counter
from datetime import timedelta

import pytest
from building import T0, runbook

from app.core.coverage import RunbookFigures, ShadowRun, judge_shadow, remarks_on


def figures(answers=None, statuses=None, causes=None) -> RunbookFigures:
    return RunbookFigures(Counter(answers or {}), Counter(statuses or {}), Counter(causes or {}))


@pytest.mark.parametrize(
    ("given", "remark"),
    [
        (figures(), "never fires: there was no anomaly of its service and metric"),
        (figures({"no_match": 7}), "never fires: 7 anomalies of its service and metric did not meet its condition"),
        (
            figures(statuses={"halted": 3, "succeeded": 2}),
            "is mostly rejected: 3 of 5 runs were rejected, or nobody approved them in time",
        ),
        (
            figures(statuses={"rolled_back": 3, "succeeded": 2}, causes={"metric": 3}),
            "does not help: the metric check took back 3 of 5 runs",
        ),
        (
            figures(statuses={"rolled_back": 2, "failed": 2, "succeeded": 1}, causes={"failure": 2}),
            "mostly fails: 4 of 5 runs failed",
        ),
    ],
)
def test_what_is_remarked_on(given, remark):
    assert remarks_on(runbook(), given) == (remark,)


@pytest.mark.parametrize(
    "given",
    [
        figures(statuses={"halted": 3}),
        figures(statuses={"succeeded": 3, "halted": 3}),
        figures(statuses={"succeeded": 9, "failed": 2, "skipped": 50}, causes={"metric": 3}),
    ],
)
def test_what_says_nothing_is_not_remarked_on(given):
    assert remarks_on(runbook(), given) == ()


def test_a_shadow_and_a_runbook_without_a_trigger_never_fire_by_themselves():
    assert remarks_on(runbook(mode="shadow"), figures()) == ()
    assert remarks_on(runbook(trigger=None), figures()) == ()


def test_a_shadows_guards_as_far_as_they_can_be_judged():
    def runs(*seconds: int) -> list[ShadowRun]:
        return [ShadowRun(f"a{second}", (f"host/{second % 2}",), T0 + timedelta(seconds=second)) for second in seconds]

    cooled = runbook(mode="shadow", cooldown_seconds=60, circuit_breaker={"failures": 1})
    assert judge_shadow(cooled, runs(0, 1, 30, 61, 90)) == {"start": 4, "cooldown": 1}
    limited = runbook(mode="shadow", max_runs_per_hour=2)
    assert judge_shadow(limited, runs(0, 1, 2, 3, 3700)) == {"start": 3, "max_runs_per_hour": 2}
