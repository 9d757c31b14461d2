"""What all values have in common."""

import pytest
from building import runbook
from pydantic import BaseModel, ValidationError

import app.audit_cli
import app.backtest_cli
import app.main
import app.step_worker  # noqa: F401 - between them they load every model that there is
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
