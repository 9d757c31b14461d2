"""Definitions that many requests pin are made once, and nothing that is wrong gets in by that way."""

import pytest
from building import http, requested
from pydantic import ValidationError

from app.core.events import ExecutionRequested, read_event, write_event
from app.core.model import digest
from app.core.runbook import MAX_SHARED_BYTES, Runbook

CHECK = {"metric_name": "m", "check_after_minutes": 1, "rollback_if_value_exceeds": 9}


def given(**runbook):
    document = requested(http()).model_dump(mode="json")
    return {**document, "runbook": {**document["runbook"], **runbook}}


def test_two_requests_share_the_definition_they_pin():
    one, other = (read_event(write_event(requested(http(), description="shared"))) for _ in range(2))
    assert one.runbook is other.runbook
    assert one.runbook == requested(http(), description="shared").runbook


def test_a_changed_definition_has_a_content_and_a_digest_of_its_own():
    runbook = requested(http()).runbook
    assert runbook.digest() == digest(runbook.content())
    changed = runbook.model_copy(update={"description": "other"})
    assert changed.content() == {**runbook.content(), "description": "other"}
    assert changed.digest() == digest(changed.content()) != runbook.digest()


@pytest.mark.parametrize(
    "runbook",
    [
        {"steps": []},
        {"rollback_metric_check": {**CHECK, "rollback_if_value_below": float("nan")}},
        {"description": {1, 2}},
    ],
)
def test_what_is_no_definition_is_refused_by_its_path(runbook):
    ExecutionRequested.model_validate(given(rollback_metric_check={**CHECK, "rollback_if_value_below": None}))
    with pytest.raises(ValidationError) as refused:
        ExecutionRequested.model_validate(given(**runbook))
    (problem,) = refused.value.errors()
    assert problem["loc"][:2] == ("runbook", next(iter(runbook)))


def test_a_large_definition_is_not_kept():
    large = given(description="x" * 16_000, steps=[http(body="y" * MAX_SHARED_BYTES)])
    one, other = (ExecutionRequested.model_validate(large).runbook for _ in range(2))
    assert one is not other
    assert one == other


def test_a_definition_that_was_made_already_is_taken_as_it_is():
    runbook = Runbook.model_validate({"name": "r", "steps": [http()]})
    assert requested(http()).model_copy(update={"runbook": runbook}).runbook is runbook
    assert ExecutionRequested.model_validate(requested(http()).__dict__ | {"runbook": runbook}).runbook is runbook
