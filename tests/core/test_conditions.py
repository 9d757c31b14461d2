import pytest

from app.core.conditions import MAX_CONDITION_BYTES, compile_condition
from app.core.errors import ConditionError

EVENT = {"anomaly_score": 0.9, "value": 90, "labels": {"region": "eu"}, "extra": "x"}


@pytest.mark.parametrize(
    ("source", "holds"),
    [
        ("anomaly_score > 0.7", True),
        ("anomaly_score > 1", False),
        ('labels.region == "eu" && value >= 90.0', True),
        ('extra == "x"', True),
        ("has(labels.zone)", False),
        ("true", True),
    ],
)
def test_conditions(source, holds):
    assert compile_condition(source).holds(EVENT) is holds


@pytest.mark.parametrize(
    "source", ["missing > 1", 'labels.zone == "a"', "value / 0 > 1", "value", '"text"', "extra > 1"]
)
def test_what_gives_no_boolean_raises_and_is_never_true(source):
    with pytest.raises(ConditionError):
        compile_condition(source).holds(EVENT)


@pytest.mark.parametrize("source", ["a >", "", "a" * (MAX_CONDITION_BYTES + 1)])
def test_what_does_not_compile(source):
    with pytest.raises(ConditionError):
        compile_condition(source)
