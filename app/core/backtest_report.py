"""What a backtest comes to: counts by what would be done beside what was, and the differences themselves."""

from collections import Counter
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from app.core.backtest import Answer, Decision
from app.core.runbook import Runbook

MAX_DIFFERENCES = 1000
MAX_REASONS = 100
OTHER = "other reasons"
ORDER = ("runs", "asks", "plans", "blocked", "no_match", "repeated")


class Question(NamedTuple):
    """What is asked.

    since, until: the period, until None up to what the workers have read. assume: how long a run lasts that the log
    does not have; None takes the median of those that it has. everything: also list what does not differ.
    """

    tenant: str
    runbook: Runbook
    since: datetime
    until: datetime | None = None
    assume: timedelta | None = None
    everything: bool = False


class Report:
    """Adds decisions up; memory does not grow with them."""

    def __init__(self, since: datetime, until: datetime | None = None, *, everything: bool = False) -> None:
        """Only decisions of this time count: since included, until not; None leaves the end open."""
        self._since = since
        self._until = until
        self._everything = everything
        self.decided = 0
        self.same = 0
        self.unknown = 0
        self.waits = 0
        self.differing = 0
        self.counts: Counter[tuple[str, str]] = Counter()
        self.reasons: Counter[str] = Counter()
        self.differences: list[Decision] = []
        self.others: list[Decision] = []

    def add(self, decision: Decision) -> None:
        """Count one decision."""
        if decision.at < self._since or (self._until is not None and decision.at >= self._until):
            return
        self.decided += 1
        self.counts[decision.would.result, decision.did.result] += 1
        self.waits += decision.waits_for is not None
        self._count_reason(decision.would)
        if decision.did.result == "unknown":
            self.unknown += 1
        elif decision.differs:
            self.differing += 1
            if len(self.differences) < MAX_DIFFERENCES:
                self.differences.append(decision)
            return
        else:
            self.same += 1
        if self._everything and len(self.others) < MAX_DIFFERENCES:
            self.others.append(decision)

    def add_misses(self, clause: str, count: int = 1) -> None:
        """Count anomalies of the tenant that are about another service or metric, which nothing was done about."""
        self.decided += count
        self.same += count
        self.counts["no_match", "nothing"] += count
        self.reasons[f"no_match: another {clause}"] += count

    def _count_reason(self, would: Answer) -> None:
        if would.result == "no_match":
            clause = would.reason.split(" is ", 1)[0]
            clause = would.reason if would.reason.startswith("condition ") else f"another {clause}"
            self._count(f"no_match: {clause}")
        elif would.guard is not None:
            self._count(f"{would.result}: {would.guard}")

    def _count(self, reason: str) -> None:
        known = reason in self.reasons or len(self.reasons) < MAX_REASONS
        self.reasons[reason if known else OTHER] += 1

    def shown(self) -> dict[str, Any]:
        """As JSON-able data, the differences first."""
        return {
            "differences": [shown_decision(one) for one in self.differences],
            "others": [shown_decision(one) for one in self.others],
            "differing": self.differing,
            "same": self.same,
            "unknown": self.unknown,
            "decided": self.decided,
            "would_first_wait": self.waits,
            "counts": [
                {"would": would, "did": did, "anomalies": count}
                for (would, did), count in sorted(self.counts.items(), key=lambda one: ORDER.index(one[0][0]))
            ],
            "reasons": [{"reason": reason, "anomalies": count} for reason, count in self.reasons.most_common()],
        }


def shown_decision(decision: Decision) -> dict[str, Any]:
    """One decision as JSON-able data."""
    return {
        "anomaly_id": decision.anomaly_id,
        "service_id": decision.service_id,
        "metric_name": decision.metric_name,
        "at": decision.at.isoformat(),
        "execution_id": decision.execution_id,
        "would": decision.would._asdict(),
        "did": decision.did._asdict(),
        "waits_for": decision.waits_for,
    }
