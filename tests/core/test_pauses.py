"""Pauses: whom they keep from starting, and when."""

from datetime import timedelta

import pytest
from building import T0, requested, slack
from pydantic import ValidationError

from app.core.catalog import Catalog, change_key, read_change
from app.core.execution import begin
from app.core.lifecycle import evolve
from app.core.pauses import Pause, PauseEnded, PausePut, Pauses


def pause(name="freeze", tenant="default", **fields) -> Pause:
    return Pause(tenant=tenant, name=name, by="ann", **({"starts_at": T0} | fields))


def put(*args, **fields) -> PausePut:
    return PausePut(pause=pause(*args, **fields), at=T0)


def ended(name="freeze", tenant="default") -> PauseEnded:
    return PauseEnded(tenant=tenant, name=name, by="bob", at=T0)


def after(minutes: float):
    return T0 + timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("fields", "paused"),
    [
        ({}, True),
        ({"tenant": "*"}, True),
        ({"tenant": "other"}, False),
        ({"runbook": "r"}, True),
        ({"runbook": "q"}, False),
        ({"service_id": "s"}, True),
        ({"service_id": "t"}, False),
        ({"starts_at": after(6)}, False),
        ({"ends_at": after(5)}, False),
        ({"ends_at": after(6)}, True),
    ],
)
def test_whom_it_keeps_from_starting_and_when(fields, paused):
    pauses = Pauses()
    assert pauses.why_paused("default", "r", "s", after(5)) is None
    pauses.apply(put(**fields))
    assert (pauses.why_paused("default", "r", "s", after(5)) is not None) == paused


def test_a_pause_of_the_same_name_is_replaced_and_ends_once():
    pauses = Pauses()
    pauses.apply(put())
    newer = put(reason="longer")
    assert pauses.apply(newer) == newer.pause
    assert pauses.of("default") == (newer.pause,)
    assert pauses.apply(ended()) == newer.pause
    assert pauses.apply(ended()) is None
    assert pauses.of("default") == ()


def test_a_tenant_sees_its_own_and_everybodys():
    pauses = Pauses()
    for change in (put("z"), put("a"), put("b", tenant="*"), put("c", tenant="other")):
        pauses.apply(change)
    assert [one.name for one in pauses.of("default")] == ["a", "z", "b"]


def test_the_next_edge():
    pauses = Pauses()
    assert pauses.next_change(T0) is None
    pauses.apply(put("a", starts_at=after(10), ends_at=after(20)))
    pauses.apply(put("b", ends_at=after(15)))
    assert [pauses.next_change(after(minutes)) for minutes in (0, 10, 15, 20)] == [
        after(10),
        after(15),
        after(20),
        None,
    ]


def test_how_it_is_told():
    assert pause().told() == "paused by ann"
    until = pause(reason="release freeze", ends_at=after(1)).told()
    assert until == "paused by ann: release freeze, until 2026-01-01T03:01:00+00:00"


def test_a_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(ValidationError, match="ends_at must be later than starts_at"):
        pause(ends_at=T0)


def test_it_travels_with_the_definitions():
    catalog = Catalog()
    change = read_change(put().model_dump_json().encode())
    assert change_key(change) == "default/pause/freeze"
    assert catalog.apply(change).pause == pause()
    assert catalog.pauses.of("default") == (pause(),)
    gone = read_change(ended().model_dump_json().encode())
    assert catalog.apply(gone).pause == pause()
    assert catalog.apply(gone).refusal == "no such pause"


def test_what_is_requested_while_it_is_paused_is_skipped_from_the_start():
    event = requested(slack()).model_copy(update={"paused": "paused by ann"})
    state = evolve(None, event, 1).execution
    assert (state.status, state.reason, state.finished_at) == ("skipped", "paused by ann", T0)
    assert state.marker().status == "skipped"
    assert begin(event, 1) == state
