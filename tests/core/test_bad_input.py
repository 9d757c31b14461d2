"""Whatever stands on a topic is read or refused, and what was read is folded: nobody can stop a reader."""

import copy
import json
import random
from datetime import UTC, datetime

import orjson
import pytest
from building import T0, Story, http, plan, requested, scale, slack, story
from hypothesis import example, given
from hypothesis import strategies as st

from app.core.anomaly import Position, anomaly_of, read_anomaly
from app.core.catalog import Catalog, RunbookDeleted, RunbookPut, read_change
from app.core.commands import read_command, write_command
from app.core.decisions import ApprovalDecision, read_decision, why_not_signed
from app.core.errors import AnomalyRefused, RecordRefused, RunbookRefused, TemplateError
from app.core.events import read_event, write_event
from app.core.execution import Execution, Marker
from app.core.lifecycle import decide, evolve, wake_at
from app.core.matching import match
from app.core.model import MAX_RECORD_DEPTH
from app.core.runbook import MAX_RUNBOOK_BYTES, read_runbook
from app.core.templating import check_template, render
from app.history.folding import Happened, fold, row_of
from app.history.items import HistoryItem

PLACE = Position(topic="anomaly-events", partition=0, offset=1, timestamp=T0)
DEEP = b'{"service_id":"s","metric_name":"m","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
ODD = [
    *(None, True, 0, -1, 1.5, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63), 1e308, -0.0, "", " ", "\x00", "\n", "*"),
    *("\u202e", "\u2028", "\x1b[31m", "{{ 1 }}", "{% for a in b %}", "$X", "../x", "é" * 200, "x" * 300, "x" * 20_000),
    *([], {}, [[]], {"": {}}, [None] * 300, {str(number): number for number in range(300)}),
    *(
        "9999-12-31T23:59:59Z",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "1970-01-01",
        "now",
        1e300,
        -1e18,
    ),
    *("running", "step", "apply", "succeeded", "2026-01-01T00:00:00Z", "default", "e", "approve"),
]
RAW = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=100).map(lambda text: json.dumps(text).encode()),
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text()),
        lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=9), inner, max_size=4)),
    ).map(lambda value: json.dumps(value).encode()),
)


def places(value, path=()):
    """Every place inside a JSON value."""
    yield path
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from places(inner, (*path, key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from places(inner, (*path, place))


def spoiled(raw: bytes, seed: int) -> bytes:
    """A message of which one to three places hold something else, more, or nothing."""
    chance = random.Random(seed)
    value = {"top": orjson.loads(raw)}
    for _ in range(chance.randint(1, 3)):
        *way, last = chance.choice([path for path in places(value) if path])
        owner = value
        for part in way:
            owner = owner[part]
        match chance.randint(0, 3):
            case 0 if way and isinstance(owner, dict):
                del owner[last]
            case 1 if isinstance(owner, dict):
                owner[chance.choice(["type", "x", "step", "\x00"])] = copy.deepcopy(chance.choice(ODD))
            case _:
                owner[last] = copy.deepcopy(chance.choice(ODD))
    return orjson.dumps(value["top"])


ANOMALY = orjson.dumps(
    {
        "anomaly_id": "a",
        "tenant_id": "default",
        "service_id": "payment-api",
        "metric_name": "cpu",
        "anomaly_score": 0.9,
        "value": 91.5,
        "timestamp": "2026-01-01T00:00:00Z",
        "severity": "high",
        "labels": {"region": "eu"},
        "list": [1, {"a": [2]}],
    }
)
CONDITION = 'anomaly_score > 0.5 || value >= 90.0 || labels.exists(k, k == "region") || list.exists(x, x == 1)'


def catalog() -> Catalog:
    found = Catalog()
    content = {"name": "r", "trigger": {"condition": CONDITION}, "steps": [slack()]}
    found.apply(RunbookPut(tenant="default", runbook=read_runbook(content), by="ann", at=T0))
    return found


CATALOG = catalog()


def taken(read, given, refusal):
    """What was read; None when it was refused with words that can be recorded and are not too many."""
    try:
        return read(given)
    except refusal as error:
        told = str(error).encode()
    assert 0 < len(told) < 500_000
    return None


def try_anomaly(raw: bytes) -> None:
    anomaly = taken(lambda raw: read_anomaly(raw, PLACE), raw, AnomalyRefused)
    if anomaly is None:
        return
    match(anomaly, CATALOG)
    request = requested().model_copy(update={"anomaly": anomaly})
    assert read_event(write_event(request)) == request


@given(RAW)
@example(b'{"\\ud800": NaN}')
@example(b'{"service_id":"s","metric_name":"m","x":' + b"[" * 900 + b"NaN" + b"]" * 900 + b"}")
@example(b"[" * 5000 + b"NaN" + b"]" * 5000)
@example(DEEP)
@example(b'{"service_id":"s","metric_name":"m","x":' + b"9" * 200_000 + b"}")
@example(b'{"service_id":"s","metric_name":"m","timestamp":"9999-12-31T23:59:59-23:59"}')
@example(b'{"service_id":"s","metric_name":"m","timestamp":"0001-01-01T00:00:00+23:59"}')
@example(b'{"service_id":"s","metric_name":"m","timestamp":253402300799}')
@example(b'{"service_id":"s","metric_name":"m","anomaly_score":NaN,"labels":{' + b'"k":NaN,' * 30_000 + b'"k":1}}')
@example(orjson.dumps({"service_id": "s", "metric_name": "m", "list": list(range(40_000))}))
def test_any_bytes_are_an_anomaly_or_refused(raw):
    try_anomaly(raw)


@given(st.integers(0, 2**32))
def test_an_anomaly_with_odd_fields_is_matched_or_refused(seed):
    try_anomaly(spoiled(ANOMALY, seed))


def test_of_two_fields_of_one_name_the_last_counts_whoever_reads():
    raw = b'{"service_id":"s","metric_name":"m","tenant_id":"a","tenant_id":"b","x":1,"x":2}'
    anomaly = read_anomaly(raw, PLACE)
    assert (anomaly.tenant_id, anomaly.variables()["x"]) == ("b", 2)


CHECK = {"metric_name": "m", "check_after_minutes": 1, "rollback_if_value_exceeds": 1}


def samples() -> list[bytes]:
    """One of every kind of event, from lives that went in many ways."""
    lives = [
        story(scale(require_approval=True, approval_channel="#c"), http(), rollback_on_failure=True)
        .prepared(plan(inverse=True))
        .noticed()
        .decided()
        .does(output={"a": [1]})
        .does("failed", "x"),
        story(http(on_unknown="attention"), slack(when="a")).interrupted().does("unknown", "x").resolved("failed"),
        story(slack(when="a"), slack(), rollback_metric_check=CHECK).skipped().does().at(60).timer().measured(99.0),
        story(scale()).does(inverse=True).back(),
        story(slack(require_approval=True)).prepared().cancel(),
    ]
    anomaly = anomaly_of(orjson.loads(ANOMALY), anomaly_id="a", received_at=T0)
    events = [event for life in lives for event in life.events]
    events.append(requested(scale()).model_copy(update={"anomaly": anomaly}))
    return [write_event(event) for event in events]


EVENTS = samples()


def states() -> list[Execution | Marker | None]:
    waiting = story(scale(require_approval=True), slack()).prepared(plan(inverse=True))
    running = story(scale(), slack(), rollback_on_failure=True).started()
    ended = story(slack()).does()
    return [None, waiting.state, running.state, ended.state, ended.state.marker()]


STATES = states()


@given(RAW)
@example(b"[" * 100_000 + b"]" * 100_000)
@example(b'{"type":"step_finished","x":' + b"[" * 1000 + b"]" * 1000 + b"}")
@example(orjson.dumps({"type": "timer_fired", **{str(number): number for number in range(50_000)}}))
@pytest.mark.parametrize("read", [read_event, read_command, read_decision, read_change])
def test_any_bytes_are_a_record_or_refused(read, raw):
    taken(read, raw, RecordRefused)


@given(st.sampled_from(EVENTS), st.sampled_from(STATES), st.integers(0, 2**32))
def test_an_event_with_odd_fields_is_folded_or_refused(raw, before, seed):
    event = taken(read_event, spoiled(raw, seed), RecordRefused)
    if event is None:
        return
    assert read_event(write_event(event)) == event
    after = evolve(before, event, 77).execution
    if isinstance(after, Execution):
        assert Execution.model_validate_json(after.model_dump_json()) == after
        decide(after), wake_at(after)
    known = {before.execution_id: before} if isinstance(before, Execution) else {}
    for state in fold(known, [Happened(77, event)]).values():
        row_of(state, 0)


@given(st.integers(0, 2**32))
def test_a_command_with_odd_fields_is_read_or_refused(seed):
    s = Story(requested(http(body={"a": [None]}), slack()))
    command = taken(read_command, spoiled(write_command(s.command), seed), RecordRefused)
    if command is None:
        return
    assert read_command(write_command(command)) == command


@given(st.integers(0, 2**32))
def test_a_decision_with_odd_fields_is_recorded_or_refused(seed):
    decision = ApprovalDecision(
        tenant="default", execution_id="e", step=0, decision="approve", by="ann", source="api", at=T0
    ).signed("k", b"k" * 32)
    read = taken(read_decision, spoiled(decision.model_dump_json().encode(), seed), RecordRefused)
    if read is None:
        return
    event = read.event(why_not_signed(read, {"k": b"k" * 32}))
    assert read_event(write_event(event)) == event
    if read != decision:
        assert event.refusal is not None
    for state in STATES:
        evolve(state, event, 77)


CONTENT = {
    "name": "r",
    "trigger": {"service_id": "s", "condition": "value > 1.0"},
    "steps": [scale(), http(headers={"a": "{{ anomaly.value }}"}, rollback=slack()), slack(when="true")],
    "rollback_metric_check": CHECK,
}


@given(st.integers(0, 2**32))
def test_a_definition_with_odd_fields_is_taken_or_refused(seed):
    content = orjson.loads(spoiled(orjson.dumps(CONTENT), seed))
    if not isinstance(content, dict):
        return
    runbook = taken(read_runbook, content, RunbookRefused)
    if runbook is None:
        return
    change = RunbookPut(tenant="default", runbook=runbook, by="ann", at=T0)
    read = read_change(change.model_dump_json().encode())
    assert read.runbook.digest() == runbook.digest()
    assert Catalog().apply(read).refusal is None


@given(st.integers(0, 2**32))
def test_a_change_with_odd_fields_is_folded_or_refused(seed):
    put = RunbookPut(tenant="default", runbook=read_runbook(CONTENT), by="ann", at=T0, expected_version=0)
    gone = RunbookDeleted(tenant="default", name="r", by="ann", at=T0)
    for change in (put, gone):
        try:
            read = read_change(spoiled(change.model_dump_json().encode(), seed))
        except RecordRefused:
            continue
        catalog().apply(read)


def test_a_definition_that_is_too_large_is_refused_wherever_it_comes_from():
    large = {**CONTENT, "steps": [slack(message="x" * 16_000)] * 20}
    with pytest.raises(RunbookRefused, match=f"at most {MAX_RUNBOOK_BYTES} are taken"):
        read_runbook(large)
    raw = orjson.dumps(
        {"type": "runbook_put", "tenant": "t", "runbook": large, "by": "a", "at": "2026-01-01T00:00:00Z"}
    )
    with pytest.raises(RecordRefused, match=f"at most {MAX_RUNBOOK_BYTES} are taken"):
        read_change(raw)


def test_a_record_is_as_deep_as_ours_are():
    def nested(levels):
        return b'{"type":"x","y":' + b"[" * levels + b"]" * levels + b"}"

    with pytest.raises(RecordRefused, match="nested deeper"):
        read_event(nested(MAX_RECORD_DEPTH))
    with pytest.raises(RecordRefused, match="tag"):
        read_event(nested(MAX_RECORD_DEPTH - 2))


def test_what_is_no_json_is_said_to_be_none():
    for raw in (b"", b"{", b'{"type": "x"} y', b'{"type": "\xff"}', b'{"type": "\\ud800"}'):
        with pytest.raises(RecordRefused, match="not JSON"):
            read_event(raw)
    with pytest.raises(RecordRefused, match="no value"):
        read_event(None)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1e400"])
def test_what_is_no_finite_number_is_refused_in_a_record(number):
    (_, _, event) = story(http()).started().finished(story(http()).command, output="here").events
    with pytest.raises(RecordRefused, match="not JSON"):
        read_event(write_event(event).replace(b'"here"', number))


def test_a_row_has_its_item_though_a_number_has_more_than_64_bits():
    state = story(http()).does(output={"n": 10**40}).state
    (step,) = HistoryItem.model_validate_json(row_of(state, 0)["item"]).steps
    assert step.output == {"n": 10**40}


@given(st.text(alphabet="{}%|~'\"()[].,+*- \nabfi0:", max_size=60))
def test_any_text_is_a_template_or_refused(text):
    taken(check_template, text, TemplateError)
    taken(lambda text: render(text, {"a": 1, "b": [1, "x"], "f": {}, "i": "x"}), text, TemplateError)


def test_moments_out_of_reach_are_refused():
    for text in ("9999-12-31T23:59:59Z", "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59"):
        raw = orjson.dumps({"type": "timer_fired", "tenant": "t", "execution_id": "e", "at": text})
        with pytest.raises(RecordRefused, match="1900 to 8999"):
            read_event(raw)
    assert read_anomaly(ANOMALY, PLACE).timestamp == datetime(2026, 1, 1, tzinfo=UTC)
