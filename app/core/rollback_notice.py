"""The message that tells of a rollback: that it began and why, what became of each step, and how it ended."""

from datetime import datetime
from typing import Literal

from app.core.approval import Notice
from app.core.execution import Execution
from app.core.model import Frozen, Instant
from app.core.rollback import rollback_status
from app.core.step_state import Rollback, RollbackCause

ABOUT_ROLLBACK = 0
"""The request number of a message that is about no request; those of approvals count from 1."""


class RollbackLine(Frozen):
    """One step on the way back; number counts the forward steps from 1, detail says why it is as it is."""

    number: int
    summary: str
    status: str
    detail: str


class RollbackCard(Frozen):
    """All that the message says. over: whether the rollback has ended; status: how it stands, in one word."""

    kind: Literal["rollback"] = "rollback"
    execution_id: str
    runbook_name: str
    service_id: str | None
    requested_at: Instant
    cause: RollbackCause
    reason: str
    status: str
    over: bool
    steps: tuple[RollbackLine, ...]

    def may_be_posted(self, at: datetime) -> bool:  # noqa: ARG002 - the other kind of card asks
        """Always: that something was taken back is worth knowing afterwards, too."""
        return True


def rollback_card(execution: Execution, rollback: Rollback) -> RollbackCard:
    """The card of an execution's rollback as it stands."""
    return RollbackCard(
        execution_id=execution.execution_id,
        runbook_name=execution.runbook.name,
        service_id=execution.service_id,
        requested_at=rollback.begun_at or execution.request.at,
        cause=rollback.cause,
        reason=rollback.reason,
        status=rollback_status(rollback),
        over=execution.terminal,
        steps=tuple(
            RollbackLine(
                number=step.index + 1,
                summary=_summary(execution, step.index),
                status=step.status,
                detail=step.error or step.reason or "",
            )
            for step in rollback.steps
        ),
    )


def _summary(execution: Execution, index: int) -> str:
    plan = execution.steps[index].begun or execution.steps[index].plan
    return plan.summary if plan else execution.runbook.steps[index].action


def rollback_version(execution: Execution, rollback: Rollback) -> int:
    """Counts what can be seen of it: each step that has ended, and its end."""
    return sum(step.finished_at is not None for step in rollback.steps) + execution.terminal


def to_be_told(execution: Execution, notice: Notice, version: int) -> bool:
    """Whether the message is to be posted, or shows an older version."""
    if notice.state == "due":
        return True
    return notice.shown < version and (notice.state == "posted" or execution.terminal)
