import json
from datetime import UTC, datetime

import pytest

from app.core.anomaly import MAX_DEPTH, MAX_EVENT_BYTES, Position, read_anomaly, tenant_in
from app.core.errors import AnomalyRefused

SEEN = datetime(2026, 1, 1, tzinfo=UTC)
PLACE = Position(topic="anomaly-events", partition=3, offset=7, timestamp=SEEN)
EVENT = {"service_id": "payment-api", "metric_name": "cpu"}


def read(event=None, **fields):
    raw = event if isinstance(event, bytes) else json.dumps({**EVENT, **fields}).encode()
    return read_anomaly(raw, PLACE)


def refusal(event=None, **fields):
    with pytest.raises(AnomalyRefused) as caught:
        read(event, **fields)
    return caught.value


def test_the_least_an_event_can_be():
    anomaly = read()
    assert anomaly.tenant_id == "default"
    assert anomaly.timestamp == SEEN
    assert anomaly.anomaly_id == read().anomaly_id
    assert read_anomaly(json.dumps(EVENT).encode(), PLACE._replace(offset=8)).anomaly_id != anomaly.anomaly_id


def test_the_records_time_matters_only_to_an_event_that_names_none():
    untimed = PLACE._replace(timestamp=None)
    assert read_anomaly(json.dumps({**EVENT, "timestamp": "2026-01-01T00:00:00Z"}).encode(), untimed).timestamp == SEEN
    with pytest.raises(AnomalyRefused) as refused:
        read_anomaly(json.dumps({**EVENT, "value": "high", "timestamp": None}).encode(), untimed)
    said = {problem.path: problem.message for problem in refused.value.problems}
    assert said.keys() == {"value", "timestamp"}
    assert said["timestamp"] == "is needed: the time of the record is not in the years 1900 to 8999"


def test_other_fields_are_kept_and_absent_ones_left_out():
    anomaly = read(region={"name": "eu", "zone": None}, value=None, anomaly_score=0.5)
    variables = anomaly.variables()
    assert variables["region"] == {"name": "eu", "zone": None}
    assert "value" not in variables


@pytest.mark.parametrize(
    "given",
    ["2026-01-01T01:00:00+01:00", "2026-01-01T00:00:00Z", 1767225600, 1767225600.0, 1767225600000],
)
def test_times_in_every_form(given):
    assert read(timestamp=given).timestamp == SEEN
    assert read(timestamp=given).timestamp.tzinfo is UTC


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"anomaly_score": 1.01}, "anomaly_score"),
        ({"anomaly_score": -0.1}, "anomaly_score"),
        ({"anomaly_score": "0.9"}, "anomaly_score"),
        ({"anomaly_score": True}, "anomaly_score"),
        ({"value": "high"}, "value"),
        ({"service_id": 7}, "service_id"),
        ({"service_id": ""}, "service_id"),
        ({"metric_name": None}, "metric_name"),
        ({"tenant_id": "../x"}, "tenant_id"),
        ({"anomaly_id": 5}, "anomaly_id"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"labels": []}, "labels"),
        ({"severity": 3}, "severity"),
        ({"timestamp": "2026-01-01T00:00:00"}, "timestamp"),
        ({"timestamp": True}, "timestamp"),
        ({"timestamp": []}, "timestamp"),
        ({"timestamp": 1e300}, "timestamp"),
    ],
)
def test_what_is_wrong_is_named(fields, path):
    assert [problem.path for problem in refusal(**fields).problems] == [path]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b'{"service_id":"s","metric_name":"m","anomaly_score":NaN}', "anomaly_score"),
        (b'{"service_id":"s","metric_name":"m","extra":{"list":[1,Infinity]}}', "extra.list[1]"),
        (b'{"service_id":"s"', ""),
        (b'{"service_id":"s","metric_name":"m","labels":{"a":"\xff"}}', ""),
        (b"[]", ""),
        (b"7", ""),
        (b'{"service_id": 1e999}', "service_id"),
        (b'{"service_id": "\\ud800"}', ""),
        (None, ""),
    ],
)
def test_what_is_no_json_object(raw, path):
    with pytest.raises(AnomalyRefused) as caught:
        read_anomaly(raw, PLACE)
    assert caught.value.problems[0].path == path


def test_arrays_are_refused_with_the_remedy():
    assert "one event a record" in str(refusal(b"[{}]"))


def test_sizes_are_bounded():
    assert "bytes" in str(refusal(b" " * (MAX_EVENT_BYTES + 1)))
    nested = "x"
    for _ in range(MAX_DEPTH + 1):
        nested = [nested]
    assert "nested deeper" in str(refusal(extra=nested))


@pytest.mark.parametrize(
    "fields", [{}, {"tenant_id": None}, {"tenant_id": "acme"}, {"tenant_id": "acme", "extra": {"tenant_id": "other"}}]
)
def test_whose_it_is_can_be_told_without_reading_it(fields):
    assert tenant_in(json.dumps({**EVENT, **fields}).encode()) == read(**fields).tenant_id


@pytest.mark.parametrize(
    "raw", [None, b"{", b"[]", b'"acme"', b'{"tenant_id": 7}', b'{"tenant_id": "acme"}' + b" " * MAX_EVENT_BYTES]
)
def test_whose_it_is_cannot_be_told_of_what_will_be_refused(raw):
    assert tenant_in(raw) is None
    with pytest.raises(AnomalyRefused):
        read_anomaly(raw, PLACE)
