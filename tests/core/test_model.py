"""What all values have in common."""

import pytest
from building import runbook
from pydantic import ValidationError

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
