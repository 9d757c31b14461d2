import contextlib

import pytest

from app.core.condition_cost import MAX_COST, shape_of, weight
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


@pytest.mark.parametrize(
    ("source", "why"),
    [
        ("xs.all(x, x >= 0)", "Iteration budget exceeded"),
        ("few.map(a, few.map(b, text + text + text + text)).size() > 0", "too much data"),
        ("few.exists(a, text + text == text)", "too much data"),
        ("few.exists(a, xs == xs && false)", "too much data"),
        ("few.exists(a, -1 in xs)", "too much data"),
        ("few.exists(a, .xs == [])", "too much data"),
        ("few.exists(a, few.exists(b, few.exists(c, a + b + c in xs)))", "too much data"),
        (
            "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12].all(a, text.contains('y') || xs == [a])",
            "too much data",
        ),
        ("&&".join(["text.matches('(x+x+)+y')"] * 150), "too much data"),
    ],
)
def test_what_would_take_too_long_is_not_begun(source, why):
    data = {"xs": list(range(100_000)), "few": list(range(100)), "text": "x" * 250_000}
    with pytest.raises(ConditionError, match=why):
        compile_condition(source).holds(data)


@pytest.mark.parametrize(
    "source",
    [
        "xs.exists(x, x == 2999)",
        "xs.exists(x, x in few)",
        "few.all(x, few.exists(y, x == y))",
        "labels.exists(k, labels[k] == 'eu' && k != limit)",
        "xs.filter(x, x > limit_number).size() > 0 && has(labels.region)",
        "labels.region in ['eu', 'us'] && 'text (xs' != \"xs, xs\" // xs.all(",
    ],
)
def test_loops_over_what_an_event_holds_are_fine(source):
    data = {
        "xs": list(range(3000)),
        "few": list(range(90)),
        "labels": {"region": "eu"},
        "limit": "a",
        "limit_number": 1,
    }
    assert compile_condition(source).holds(data)


def test_what_a_condition_names_is_read_from_its_text():
    named = shape_of("a.b > c && f(d) || 'e' == r'g' && h.all(x, x.a == i && j[0].exists(y, y == x)) // k").references
    assert [(one.name, one.depth, one.brought) for one in named] == [
        *[(name, 0, False) for name in "acdh"],
        *[("x", 1, True), ("x", 1, True), ("i", 1, False), ("j", 1, False)],
        *[("y", 2, True), ("y", 2, True), ("x", 2, True)],
    ]
    assert shape_of(")").references == ()


def test_values_are_weighed():
    assert weight({"ab": [1, "cde"], "f": None}) == (5 * 16 + 2 + 3 + 1, 2)
    assert MAX_COST > 0


def test_a_lone_surrogate_is_no_condition():
    with pytest.raises(ConditionError, match="surrogate"):
        compile_condition("a == '\ud800'")


def test_nesting_is_bounded():
    for source in ("(" * 1500 + "true" + ")" * 1500, "[" * 1500 + "]" * 1500, "a" + ".b" * 1500, "a" + "+a" * 1500):
        with pytest.raises(ConditionError, match="recursion"):
            compile_condition(source)


@pytest.mark.parametrize("value", [2**63, 2**64 - 1, 2**70, -(2**63) - 1, float("inf"), None, "\x00", {"a": [{}]}])
def test_odd_values_break_nothing(value):
    for source in ("v > 1", "v == null", "v.a == 1", "v.exists(x, x == 1)", "v == 'a'"):
        with contextlib.suppress(ConditionError):
            assert compile_condition(source).holds({"v": value}) in {True, False}
