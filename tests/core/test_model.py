"""What all values have in common."""

from datetime import UTC, datetime, timedelta

import pytest
from building import runbook
from pydantic import BaseModel, ValidationError

import app.audit_cli
import app.backtest_cli
import app.main
import app.step_worker  # noqa: F401 - between them they load every model that there is
from app.core.model import FIRST_INSTANT, LAST_INSTANT, moment_at
from app.core.step_state import StepState


def test_a_deep_copy_is_pydantics():
    one = runbook()
    copy = one.model_copy(deep=True)
    assert copy == one
    assert copy.steps[0] is not one.steps[0]
    assert one.model_copy().steps[0] is one.steps[0]


def test_a_state_that_is_no_object_is_refused():
    with pytest.raises(ValidationError, match="valid dictionary"):
        StepState.model_validate([])


def test_seconds_are_a_moment_within_the_years_of_an_instant():
    first, last = FIRST_INSTANT.timestamp(), LAST_INSTANT.timestamp()
    assert (moment_at(first), moment_at(0), moment_at(last - 1)) == (
        FIRST_INSTANT,
        datetime(1970, 1, 1, tzinfo=UTC),
        LAST_INSTANT - timedelta(seconds=1),
    )
    micro, nano = 1_767_225_600_000_000 / 1000, 1_767_225_600_000_000_000 / 1000
    nothing = [first - 0.001, last, -1e12, -(2**63) / 1000, (2**63 - 1) / 1000, micro, nano, float("nan"), float("inf")]
    assert [moment_at(one) for one in nothing] == [None] * len(nothing)


def _of(kind):
    return {kind}.union(*map(_of, kind.__subclasses__()))


def test_no_model_needs_what_was_taken_from_pydantic():
    """Private attributes are read through a method that costs every other read four times its time.

    One of a library has some: what reads a command line into settings, which nothing here asks for.
    """
    models = _of(BaseModel)
    assert len(models) > 200
    private = [one.__name__ for one in models if vars(one).get("__private_attributes__")]
    assert [*filter("_CliArg".__ne__, private)] == []
    open_ones = {one.__module__ for one in models if one.model_config.get("extra") == "allow"}
    assert {one for one in open_ones if one.startswith("app.")} == {"app.core.anomaly", "app.web.slack_payloads"}, (
        "read extras through model_extra"
    )
    with pytest.raises(AttributeError, match="no attribute 'stage'"):
        _ = StepState().stage
