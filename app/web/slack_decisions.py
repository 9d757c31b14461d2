"""A click in Slack, made a decision on its way to the log: who it is, what it is about, and what the person is told."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from app.core.approval import Approval
from app.core.approval_card import RequestReference
from app.core.approving import why_not_decided
from app.core.decisions import ApprovalDecision
from app.core.errors import TemporaryError
from app.core.events import Decision
from app.core.execution import Execution
from app.core.people import SlackUsers
from app.web.parts import HistoryPort, LogPort

MAX_REFUSAL = 1024
HISTORY_S, RECORD_S, BOUND_S, POLL_S = 0.5, 1.2, 0.8, 0.02
"""Seconds for each part of an answer; together less than the three that Slack waits."""
NOT_RECORDED = "Your decision is NOT recorded: {why}. Please look at the message, and try again or use the API."


class Click(NamedTuple):
    """Who clicked where: Slack's team and user ids, and the message's channel id and timestamp."""

    team: str
    user: str
    channel_id: str
    ts: str


class Answer(NamedTuple):
    """What became of a click.

    recorded: whether the log has it. refusal: why it does not count, None when it was let through to the log's fold.
    execution: as the history knew it, None when it did not.
    """

    recorded: bool
    decision: ApprovalDecision | None
    refusal: str | None
    execution: Execution | None

    @property
    def told(self) -> str | None:
        """What only the person who clicked is told; None when the message itself will say it."""
        if not self.recorded:
            return NOT_RECORDED.format(why=self.refusal or "the log did not take it in time")
        return None if self.refusal is None else f"Your decision is recorded and does not count: {self.refusal}."


@dataclass(frozen=True, slots=True)
class SlackDecisions:
    """Records decisions for the people of a workspace."""

    log: LogPort
    history: HistoryPort
    users: SlackUsers
    clock: Callable[[], datetime]
    signing: tuple[str, bytes] | None

    async def decide(self, click: Click, reference: RequestReference, decision: Decision, comment: str = "") -> Answer:
        """Record a decision and say what became of it, in less than three seconds, however slow the rest is."""
        if self.signing is None:
            return Answer(False, None, "no signing key is configured", None)
        try:
            execution = await self._execution(click, reference)
        except (TimeoutError, TemporaryError):
            return Answer(False, None, "the history cannot be read at the moment", None)
        made = self._decision(click, reference, decision, comment)
        refusal = (made.refusal or _why_not(execution, click, reference, made) or "")[:MAX_REFUSAL] or None
        made = made.model_copy(update={"refusal": refusal}).signed(*self.signing)
        try:
            async with asyncio.timeout(RECORD_S):
                await self.log.publish_decision(made)
        except (TimeoutError, TemporaryError):
            return Answer(False, made, None, execution)
        return Answer(True, made, refusal, execution)

    def refusal_of(self, click: Click, reference: RequestReference) -> str | None:
        """Why the person may decide nothing here; None when it may."""
        known = self.users.find(click.team, click.user)
        if known is None:
            return f"Slack user {click.user} of team {click.team} is mapped to nobody in RUNBOOKS_SLACK__USERS_FILE"
        return known.why_not(reference.tenant)

    def _decision(
        self, click: Click, reference: RequestReference, decision: Decision, comment: str
    ) -> ApprovalDecision:
        known = self.users.find(click.team, click.user)
        return ApprovalDecision(
            tenant=reference.tenant,
            execution_id=reference.execution_id,
            step=reference.step,
            decision=decision,
            by=known.subject if known else f"slack:{click.team}/{click.user}",
            groups=known.groups if known else (),
            source="slack",
            comment=comment,
            run=reference.run,
            request=reference.request,
            digest=reference.digest,
            refusal=self.refusal_of(click, reference),
            at=self.clock(),
        )

    async def _execution(self, click: Click, reference: RequestReference) -> Execution | None:
        """The execution as the history has it; a click that comes before its message is known there is waited for."""
        deadline = asyncio.get_running_loop().time() + BOUND_S
        while True:
            async with asyncio.timeout(HISTORY_S):
                found = await self.history.get(reference.tenant, reference.execution_id)
            unknown = found is None or not _is_bound(found, click, reference)
            if not unknown or asyncio.get_running_loop().time() >= deadline:
                return found
            await asyncio.sleep(POLL_S)


def request_of(execution: Execution, reference: RequestReference) -> Approval | None:
    """The request that a reference names; None when the execution never made it."""
    if execution.run != reference.run or reference.step >= len(execution.steps):
        return None
    return next((one for one in execution.requests(reference.step) if one.number == reference.request), None)


def _is_bound(execution: Execution, click: Click, reference: RequestReference) -> bool:
    """Whether the message that was clicked on is one that told of this very request."""
    request = request_of(execution, reference)
    if request is None or request.digest != reference.digest:
        return False
    return any((notice.channel_id, notice.ts) == (click.channel_id, click.ts) for notice in request.notices)


def _why_not(
    execution: Execution | None, click: Click, reference: RequestReference, decision: ApprovalDecision
) -> str | None:
    if execution is None:
        return "there is no such execution"
    if not _is_bound(execution, click, reference):
        return "this message is not the one that asked for it"
    request = request_of(execution, reference)
    assert request is not None
    if request.state != "pending":
        return request.ended
    return why_not_decided(execution, decision.event(None))
