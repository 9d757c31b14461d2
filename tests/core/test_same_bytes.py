"""What is written stays what it was, byte for byte: events, states, commands and rows of random runs."""

import hashlib
import random
from datetime import timedelta

from building import T0, requested, scale
from test_properties import KINDS, told

from app.core.commands import write_command
from app.core.events import read_event, write_event
from app.core.execution import Execution, Marker
from app.core.lifecycle import decide, evolve, wake_at
from app.history.folding import row_of

RUNS = 60
ITEM = {"item", "item_offset"}  # of what has ended: tests/history/test_items.py
AS_WRITTEN = "758d7059450c09282d55de67e0b83ca02b2322ff9052add6872709f7d53c6ad0"
"""Changes only when what is written is changed on purpose, as by a new field: the test says what it is then."""


def random_request(chance: random.Random):
    steps = [
        {
            **KINDS[chance.choice(sorted(KINDS))],
            "require_approval": chance.random() < 0.4,
            "continue_on_failure": chance.random() < 0.3,
            "retries": {"max_attempts": chance.randint(1, 2)},
            "approvals_required": chance.randint(1, 2),
        }
        for _ in range(chance.randint(1, 4))
    ]
    check = {"metric_name": "cpu", "check_after_minutes": 1, "rollback_if_value_exceeds": 90, "samples": 3}
    return requested(
        *steps,
        scale(rollback=scale(replicas=2)),
        at=T0 + timedelta(microseconds=chance.randint(0, 10**9)),
        by=chance.choice([None, "olga"]),
        dry_run=chance.random() < 0.1,
        context={"region": "eu", "nested": [1, 2.5, None, {"ü": True}]},
        rollback_on_failure=chance.random() < 0.7,
        rollback_metric_check=check if chance.random() < 0.4 else None,
        cooldown_seconds=60 if chance.random() < 0.3 else 0,
    )


def random_run(seed: int):
    chance = random.Random(seed)
    return told(random_request(chance), [chance.randint(0, 99) for _ in range(60)])


def test_events_states_commands_and_rows_are_written_as_they_were():
    seen = hashlib.sha256()
    for seed in range(RUNS):
        state = None
        for offset, event in enumerate(random_run(seed).events, start=1):
            raw = write_event(event)
            again = read_event(raw)
            assert again == event
            assert write_event(again) == raw
            state, refusal = evolve(state, again, offset)
            assert isinstance(state, Execution)
            row = {name: value for name, value in row_of(state, 0).items() if name not in ITEM}
            seen.update(raw + repr([refusal, row, *map(write_command, decide(state))]).encode())
            seen.update(str(wake_at(state)).encode())
            assert Execution.model_validate_json(state.model_dump_json()) == state
    assert seen.hexdigest() == AS_WRITTEN


def test_a_marker_which_is_made_unchecked_is_what_is_read_of_it():
    ended = []
    for seed in range(RUNS):
        state = None
        for offset, event in enumerate(random_run(seed).events, start=1):
            state, _ = evolve(state, event, offset)
        if state.terminal:
            ended.append(marker := state.marker())
            assert Marker.model_validate_json(marker.model_dump_json()) == marker
    assert {marker.trace is None for marker in ended} == {True, False}
