"""What a tenant's runbooks cover: which never fire, are mostly rejected or do not help, and what shadows would do."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from app.core.guards import RunbookRuns, Trace
from app.core.runbook import Runbook

FEW = 4
"""Fewer runs than this say nothing about how they mostly end."""


@dataclass(frozen=True, slots=True)
class RunbookFigures:
    """One runbook in a period: answers to anomalies by result, runs by status, runs taken back by cause."""

    answers: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    causes: Counter[str] = field(default_factory=Counter)

    @property
    def ended(self) -> int:
        """How many runs there were that have ended and were not skipped."""
        ended = ("succeeded", "failed", "halted", "cancelled", "rolled_back", "rollback_failed")
        return sum(self.statuses[status] for status in ended)


class ShadowRun(NamedTuple):
    """What a shadow would have begun: for which anomaly, about what, and when."""

    anomaly_id: str
    keys: tuple[str, ...]
    at: datetime


def remarks_on(runbook: Runbook, figures: RunbookFigures) -> tuple[str, ...]:
    """What an author should look at: sentences, none where all is well."""
    return tuple(remark for remark in (_fires(runbook, figures), _rejected(figures), _helps(figures)) if remark)


def _fires(runbook: Runbook, figures: RunbookFigures) -> str | None:
    if runbook.mode == "shadow" or runbook.trigger is None or figures.statuses:
        return None
    looked = figures.answers["no_match"]
    if looked:
        return f"never fires: {looked} anomalies of its service and metric did not meet its condition"
    return "never fires: there was no anomaly of its service and metric"


def _rejected(figures: RunbookFigures) -> str | None:
    halted = figures.statuses["halted"]
    if figures.ended < FEW or halted * 2 <= figures.ended:
        return None
    return f"is mostly rejected: {halted} of {figures.ended} runs were rejected, or nobody approved them in time"


def _helps(figures: RunbookFigures) -> str | None:
    ended = figures.ended
    if ended < FEW:
        return None
    unhelpful = figures.causes["metric"]
    bad = sum(figures.statuses[status] for status in ("failed", "rolled_back", "rollback_failed"))
    failed = bad - sum(figures.causes[cause] for cause in ("metric", "no_data", "person"))
    if unhelpful * 2 > ended:
        return f"does not help: the metric check took back {unhelpful} of {ended} runs"
    return f"mostly fails: {failed} of {ended} runs failed" if failed * 2 > ended else None


def judge_shadow(runbook: Runbook, runs: Iterable[ShadowRun]) -> Counter[str]:
    """What would become of a shadow's runs: how many start, and how many each guard keeps from it.

    Cooldown and runs an hour are judged as if each run ended the moment it began; the circuit breaker, target locks
    and slots are not judged at all, as nothing ran that could fail or hold. A backtest judges those too.
    """
    state, found = RunbookRuns(), Counter[str]()
    judged = runbook.model_copy(update={"circuit_breaker": None})
    for run in runs:
        trace = Trace(runbook=runbook.name, keys=run.keys, at=run.at)
        verdict = state.judge(judged, trace)
        found[verdict.guard if verdict.guard is not None else "start"] += 1
        if verdict.effect != "skip":
            state.begin(run.anomaly_id, trace)
            state.end(run.anomaly_id, trace.ended(run.at, "neither"))
    return found
