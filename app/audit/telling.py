"""What one event says in words: who, what and why, the digest it is about, and before and after."""

from typing import NamedTuple, assert_never

from pydantic import JsonValue

from app.core.events import (
    ApprovalDecided,
    ApprovalNoticed,
    CancelRequested,
    Event,
    ExecutionRequested,
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
from app.core.model import digest
from app.core.planning import Outcome, Prepared

GUARDS, WORKER, CLOCK = "the runbook's guards", "a worker", "a timer"
WAYS = {"prepare": "planned", "apply": "applied", "rollback": "taken back"}


class Said(NamedTuple):
    """One event in words; None where it says nothing of that. before and after are the values that a plan names."""

    who: str
    what: str
    why: str | None = None
    digest: str | None = None
    before: JsonValue = None
    after: JsonValue = None
    result: str | None = None


def said_of(event: Event) -> Said:  # noqa: C901, PLR0911, PLR0912 - one line or two for each event there is
    """What an event says; steps are counted from 0, as everywhere."""
    match event:
        case ExecutionRequested():
            return _request(event)
        case StartJudged():
            return Said(GUARDS, f"judged the start: {event.effect}", event.reason or None)
        case StepPrepared():
            return _plan(WORKER, f"planned step {event.step}: {event.plan.summary}", event.plan)
        case StepStarted():
            what = f"began step {event.step}, to be {WAYS[event.phase]}: {event.plan.summary}"
            return _plan(f"worker {event.worker}", what, event.plan)
        case StepHeartbeat():
            return Said(WORKER, f"still carries out step {event.step}")
        case StepFinished():
            why = None if event.outcome.error is None else event.outcome.error.message
            ended = f"step {event.step}, {WAYS[event.phase]}, ended: {event.outcome.outcome}"
            return Said(WORKER, ended, why, result=_result(event.outcome))
        case StepSkipped():
            return Said(WORKER, f"skipped step {event.step}", event.reason)
        case StepInterrupted():
            return Said(WORKER, f"found step {event.step} begun by another worker")
        case ApprovalDecided():
            return _decision(event)
        case ApprovalNoticed():
            return Said(WORKER, f"{_posting(event)} a message about step {event.step}", event.error)
        case TimerFired():
            return Said(CLOCK, "a deadline may have passed")
        case CancelRequested():
            return Said(event.by, "asked to stop it", event.comment or None)
        case RollbackRequested():
            return Said(event.by, "asked to take it back", event.comment or None, digest(event.finished))
        case StepResolved():
            return Said(event.by, f"said how the step ended: {event.outcome}", event.comment or None)
        case MetricChecked():
            what = f"read the metric {event.moment} the steps: {'no data' if event.value is None else event.value}"
            return Said(WORKER, what, event.detail or None)
        case _:
            assert_never(event)


def _request(event: ExecutionRequested) -> Said:
    how = "asked for a dry run of" if event.dry_run else "asked for"
    what = f"{how} runbook {event.runbook.name} version {event.runbook_version}"
    anomaly = event.anomaly
    who = event.requested_by or (f"anomaly {anomaly.anomaly_id}" if anomaly else "nobody")
    reasons = [f"{anomaly.service_id} {anomaly.metric_name or ''}".strip()] if anomaly else []
    reasons += [event.trigger_reason] if event.trigger_reason else []
    reasons += [f"not to start: {event.paused}"] if event.paused else []
    return Said(who, what, "; ".join(reasons) or None, event.runbook_digest)


def _plan(who: str, what: str, plan: Prepared) -> Said:
    return Said(who, f"{what}; taken back: {plan.undo()}", None, plan.digest, plan.before, plan.after)


def _decision(event: ApprovalDecided) -> Said:
    what = f"{'approved' if event.decision == 'approve' else 'rejected'} step {event.step} through {event.source}"
    refused = None if event.refusal is None else f"does not count: {event.refusal}"
    return Said(event.by, what, event.comment or None, event.digest, result=refused)


def _posting(event: ApprovalNoticed) -> str:
    if event.unknown:
        return "posted, or not: nobody knows,"
    return "posted or changed" if event.error is None else "could not post or change"


def _result(outcome: Outcome) -> str | None:
    if outcome.output is None:
        return None
    cut = ", cut" if outcome.truncated else ""
    return f"output of digest {digest(outcome.output)}{cut}"
