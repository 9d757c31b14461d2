"""Every event there is has words, and they say who."""

from typing import get_args

import pytest
from building import LEASE, T0, plan, requested

from app.audit.telling import said_of
from app.core.events import (
    ApprovalDecided,
    ApprovalNoticed,
    CancelRequested,
    Event,
    MetricChecked,
    RollbackRequested,
    StartJudged,
    StepFinished,
    StepHeartbeat,
    StepInterrupted,
    StepPrepared,
    StepResolved,
    StepSkipped,
    StepStarted,
    TimerFired,
)
from app.core.planning import ActionFailure, Outcome

OF = {"tenant": "default", "execution_id": "e", "at": T0}
RUN = {**OF, "run": 3}
COMMAND = {**RUN, "command_id": "c", "step": 1, "phase": "apply", "attempt": 1}
NOTICE = {**RUN, "step": 1, "request": 1, "notice": 0, "version": 1}
FAILED = Outcome(outcome="failed", output={"code": 500}, error=ActionFailure(message="HTTP 500"), truncated=True)
CASES = [
    (requested(by="olga"), "olga", "asked for runbook r version 1", None),
    (requested(dry_run=True, by="olga"), "olga", "asked for a dry run of runbook r version 1", None),
    (StartJudged(**RUN, effect="skip", guard="cooldown", reason="ran 5 s ago"), "guards", "skip", "ran 5 s ago"),
    (StepPrepared(**COMMAND, plan=plan()), "a worker", "planned step 1: ", None),
    (StepStarted(**COMMAND, plan=plan(), lease_until=T0 + LEASE, worker="w1"), "worker w1", "to be applied", None),
    (StepHeartbeat(**COMMAND, lease_until=T0 + LEASE), "a worker", "still carries out step 1", None),
    (StepFinished(**COMMAND, outcome=FAILED), "a worker", "step 1, applied, ended: failed", "HTTP 500"),
    (StepSkipped(**COMMAND, reason="when is false"), "a worker", "skipped step 1", "when is false"),
    (StepInterrupted(**COMMAND), "a worker", "found step 1 begun by another worker", None),
    (ApprovalDecided(**OF, step=1, decision="reject", by="ann", comment="no"), "ann", "rejected step 1", "no"),
    (ApprovalNoticed(**NOTICE, channel_id="C", ts="1"), "a worker", "posted or changed a message", None),
    (ApprovalNoticed(**NOTICE, error="no_channel"), "a worker", "could not post or change a message", "no_channel"),
    (ApprovalNoticed(**NOTICE, error="timeout", unknown=True), "a worker", "posted, or not: nobody knows", "timeout"),
    (TimerFired(**OF), "a timer", "a deadline may have passed", None),
    (CancelRequested(**OF, by="ann", comment="enough"), "ann", "asked to stop it", "enough"),
    (RollbackRequested(**RUN, by="bob", finished={}), "bob", "asked to take it back", None),
    (StepResolved(**OF, outcome="succeeded", by="ann", comment="looked"), "ann", "succeeded", "looked"),
    (MetricChecked(**RUN, attempt=1, value=0.5), "a worker", "read the metric after the steps: 0.5", None),
    (MetricChecked(**RUN, attempt=1, value=None, detail="gone"), "a worker", "no data", "gone"),
]


@pytest.mark.parametrize(("event", "who", "what", "why"), CASES)
def test_an_event_says_who_what_and_why(event, who, what, why):
    said = said_of(event)
    assert who in said.who
    assert what in said.what
    assert said.why == why


def test_no_event_is_left_out():
    assert {type(case[0]) for case in CASES} == set(get_args(Event))


def test_what_does_not_count_and_what_was_cut_is_said():
    refused = ApprovalDecided(**OF, step=1, decision="approve", by="eve", refusal="eve may not approve it")
    assert said_of(refused).result == "does not count: eve may not approve it"
    assert said_of(StepFinished(**COMMAND, outcome=FAILED)).result.endswith(", cut")
