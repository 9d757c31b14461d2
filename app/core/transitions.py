"""Every status change of an execution, in one table."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from app.core.execution import Status

Signal = Literal[
    "judged",
    "skipped",
    "step_begun",
    "step_continues",
    "step_done",
    "step_reissued",
    "retry_waits",
    "retry_due",
    "approval_asked",
    "vote_counted",
    "reminded",
    "noticed",
    "approved",
    "halted",
    "cancel_noted",
    "cancelled",
    "outcome_unknown",
    "all_done",
    "failed",
    "check_waits",
    "check_due",
    "check_unclear",
    "metric_read",
    "rollback_begun",
    "rollback_asked",
    "rollback_approved",
    "rollback_continues",
    "rollback_done",
    "rollback_failed",
]

_FORWARD: dict[Signal, Status] = {
    "step_begun": Status.running,
    "step_done": Status.running,
    "approval_asked": Status.awaiting_approval,
    "retry_waits": Status.running,
    "outcome_unknown": Status.attention,
    "all_done": Status.succeeded,
    "check_waits": Status.verifying,
    "failed": Status.failed,
    "rollback_begun": Status.rolling_back,
    "cancelled": Status.cancelled,
}

_ENDED: Mapping[Signal, Status] = MappingProxyType({"rollback_asked": Status.rolling_back})

TRANSITIONS: Mapping[Status, Mapping[Signal, Status]] = MappingProxyType(
    {
        Status.queued: MappingProxyType(
            _FORWARD
            | {"step_reissued": Status.queued, "cancel_noted": Status.queued, "noticed": Status.queued}
            | {"judged": Status.queued, "skipped": Status.skipped, "metric_read": Status.queued},
        ),
        Status.running: MappingProxyType(
            _FORWARD
            | {
                "step_continues": Status.running,
                "step_reissued": Status.running,
                "retry_due": Status.running,
                "cancel_noted": Status.running,
                "noticed": Status.running,
                "metric_read": Status.running,
            },
        ),
        Status.awaiting_approval: MappingProxyType(
            {
                "vote_counted": Status.awaiting_approval,
                "reminded": Status.awaiting_approval,
                "noticed": Status.awaiting_approval,
                "metric_read": Status.awaiting_approval,
                "step_done": Status.running,
                "all_done": Status.succeeded,
                "check_waits": Status.verifying,
                "approved": Status.running,
                "rollback_approved": Status.rolling_back,
                "rollback_begun": Status.rolling_back,
                "halted": Status.halted,
                "cancelled": Status.cancelled,
            },
        ),
        Status.verifying: MappingProxyType(
            {
                "noticed": Status.verifying,
                "metric_read": Status.verifying,
                "check_due": Status.verifying,
                "check_unclear": Status.attention,
                "all_done": Status.succeeded,
                "failed": Status.failed,
                "rollback_begun": Status.rolling_back,
                "cancelled": Status.cancelled,
            },
        ),
        Status.rolling_back: MappingProxyType(
            {
                "noticed": Status.rolling_back,
                "metric_read": Status.rolling_back,
                "step_begun": Status.rolling_back,
                "step_continues": Status.rolling_back,
                "step_reissued": Status.rolling_back,
                "retry_waits": Status.rolling_back,
                "retry_due": Status.rolling_back,
                "approval_asked": Status.awaiting_approval,
                "rollback_continues": Status.rolling_back,
                "rollback_done": Status.rolled_back,
                "rollback_failed": Status.rollback_failed,
            },
        ),
        Status.attention: MappingProxyType(
            {
                "noticed": Status.attention,
                "metric_read": Status.attention,
                "step_done": Status.running,
                "retry_waits": Status.running,
                "all_done": Status.succeeded,
                "check_waits": Status.verifying,
                "failed": Status.failed,
                "rollback_begun": Status.rolling_back,
                "cancelled": Status.cancelled,
            },
        ),
        Status.succeeded: _ENDED,
        Status.failed: _ENDED,
        Status.halted: _ENDED,
        Status.cancelled: _ENDED,
        Status.rolled_back: _ENDED,
        Status.rollback_failed: _ENDED,
        Status.skipped: _ENDED,
    }
)

NEXT = {(status, signal): after for status, signals in TRANSITIONS.items() for signal, after in signals.items()}
"""The same table, to be asked once for each event."""
