import json
from datetime import UTC, datetime, timedelta

import pytest
from building import T0

from app.core.errors import RecordRefused
from app.core.metric_sample import MAX_SAMPLE_BYTES, read_metric_sample

SAMPLE = {"service_id": "payment-api", "metric_name": "cpu", "value": 91.5}


def read(**fields):
    return read_metric_sample(json.dumps({**SAMPLE, **fields}).encode(), T0)


def test_a_sample_needs_service_metric_and_value():
    sample = read(labels={"pod": "a"}, tenant_id=None)
    assert (sample.tenant_id, sample.service_id, sample.metric_name) == ("default", "payment-api", "cpu")
    assert (sample.value, sample.timestamp) == (91.5, T0)


@pytest.mark.parametrize(
    "written", ["2026-01-01T02:59:00Z", "2026-01-01T03:59:00+01:00", 1767236340, 1767236340.0, 1767236340000]
)
def test_its_time_is_written_as_an_anomalys(written):
    assert read(timestamp=written).timestamp == datetime(2026, 1, 1, 2, 59, tzinfo=UTC)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"service_id": None}, "service_id: field is required"),
        ({"metric_name": ""}, "metric_name: string should have at least 1 character"),
        ({"value": "91"}, "value: input should be a valid number"),
        ({"value": None}, "value: field is required"),
        ({"value": float("nan")}, "value: nan is not a finite number"),
        ({"tenant_id": "../x"}, "tenant_id: string should match pattern"),
        ({"timestamp": "yesterday"}, "timestamp: input should be a valid datetime"),
        ({"timestamp": "2026-01-01T03:00:00"}, "timestamp: input should have timezone info"),
        ({"timestamp": (T0 + timedelta(seconds=61)).isoformat()}, "timestamp: is more than 60 s ahead"),
        ({"x": "y" * MAX_SAMPLE_BYTES}, f"at most {MAX_SAMPLE_BYTES} are taken"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field(fields, said):
    with pytest.raises(RecordRefused) as refused:
        read(**fields)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({}, "timestamp: is needed: the time of"),
        ({"timestamp": T0.isoformat()}, "timestamp: cannot be judged: the time of"),
    ],
)
def test_a_record_whose_time_is_no_moment_says_of_no_sample_that_it_is_not_of_the_future(fields, said):
    raw = json.dumps({"service_id": "s", "metric_name": "m", "value": 1, **fields}).encode()
    with pytest.raises(RecordRefused, match=said):
        read_metric_sample(raw, None)


@pytest.mark.parametrize(("raw", "said"), [(None, "no value"), (b"[]", "a JSON array"), (b"5", "a JSON object")])
def test_what_is_no_object_is_refused(raw, said):
    with pytest.raises(RecordRefused, match=said):
        read_metric_sample(raw, T0)
