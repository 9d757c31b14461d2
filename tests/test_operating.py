"""What the commands write to the topics."""

import json

import pytest

from app.operating import _bodies

SEPARATORS = "\N{LINE SEPARATOR} \N{PARAGRAPH SEPARATOR} \N{NEXT LINE}"
"""Which JSON lets stand in a string as they are."""


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_only_the_end_of_a_line_ends_an_anomaly(end):
    one, two = ({"service_id": SEPARATORS, "metric_name": name} for name in "ab")
    lines = [json.dumps(each, ensure_ascii=False) for each in (one, two)]
    assert _bodies(end.join(lines)) == [line.encode() for line in lines]
    assert _bodies(end.join([lines[0], "", " ", lines[1], ""])) == [line.encode() for line in lines]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_anomaly_may_stand_on_many_lines(end):
    one = {"service_id": SEPARATORS, "metric_name": "m"}
    (body,) = _bodies(json.dumps(one, indent=2, ensure_ascii=False).replace("\n", end))
    assert json.loads(body) == one


def test_what_is_nested_too_deep_to_be_read_is_for_the_worker_to_judge():
    deep = "[" * 100_000
    assert _bodies(deep) == [deep.encode()]
