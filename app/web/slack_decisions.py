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
from app.web.parts import LogPort, ProjectionPort

MAX_REFUSAL = 1024
DECIDE_S, HISTORY_S = 2.5, 1.5
"""Seconds until the person is answered, of the three that Slack waits, and what of them a lagging history may take."""
NOT_RECORDED = "Your decision is NOT recorded: {why}. Please try again, or use the API."
NOT_CONFIRMED = (
    "Your decision is NOT confirmed: the log did not acknowledge it in time. It may have been recorded after all; the "
    "message shows it then within a minute. If it does not, please try again, or use the API."
)
LAGS = "the history does not show yet what this message asks for"


class Click(NamedTuple):
    """Who clicked where: Slack's team and user ids, and the message's channel id and timestamp."""

    team: str
    user: str
    channel_id: str
    ts: str


class Answer(NamedTuple):
    """What became of a click.

    recorded: whether the log has it, None when nobody knows. refusal: why it does not count, or is not recorded; None
    when it was let through to the log's fold. execution: as the history knew it, None when it was not asked or did not.
    """

    recorded: bool | None
    decision: ApprovalDecision | None
    refusal: str | None
    execution: Execution | None

    @property
    def told(self) -> str | None:
        """What only the person who clicked is told; None when the message itself will say it."""
        if self.recorded is None:
            return NOT_CONFIRMED
        if not self.recorded:
            return NOT_RECORDED.format(why=self.refusal)
        return None if self.refusal is None else f"Your decision is recorded and does not count: {self.refusal}."


@dataclass(frozen=True, slots=True)
class SlackDecisions:
    """Records decisions for the people of a workspace."""

    log: LogPort
    projection: ProjectionPort
    users: SlackUsers
    clock: Callable[[], datetime]
    signing: tuple[str, bytes] | None
    decide_s: float = DECIDE_S
    history_s: float = HISTORY_S

    async def decide(self, click: Click, reference: RequestReference, decision: Decision, comment: str = "") -> Answer:
        """Record a decision and say what became of it, within decide_s seconds, however slow the rest is.

        A history that lags is waited for history_s of them: what it does not know yet is no reason to refuse anybody.
        """
        ends = asyncio.get_running_loop().time() + self.decide_s
        if self.signing is None:
            return Answer(False, None, "no signing key is configured", None)
        made, execution = self._decision(click, reference, decision, comment), None
        if made.refusal is None:
            execution = await self._judging(click, reference, made)
            if execution is None:
                return Answer(False, None, LAGS, None)
            made = made.model_copy(update={"refusal": _why_not(execution, click, reference, made)})
        if made.refusal is not None:
            made = made.model_copy(update={"refusal": made.refusal[:MAX_REFUSAL]})
        made = made.signed(*self.signing)
        try:
            async with asyncio.timeout_at(ends):
                await self.log.publish_decision(made)
        except (TimeoutError, TemporaryError):
            return Answer(None, made, made.refusal, execution)
        return Answer(True, made, made.refusal, execution)

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

    async def _judging(self, click: Click, reference: RequestReference, made: ApprovalDecision) -> Execution | None:
        """The execution, once the history knows enough of it to judge the decision; None when that takes too long."""
        return await self.projection.until(
            reference.tenant,
            reference.execution_id,
            lambda execution: _is_judged(execution, click, reference, made),
            self.history_s,
        )


def request_of(execution: Execution, reference: RequestReference) -> Approval | None:
    """The request that a reference names; None when the execution never made it."""
    if execution.run != reference.run or reference.step >= len(execution.steps):
        return None
    return next((one for one in execution.requests(reference.step) if one.number == reference.request), None)


def _is_judged(execution: Execution, click: Click, reference: RequestReference, made: ApprovalDecision) -> bool:
    """Whether a decision can be judged by what the history knows: only what will not change any more makes a no."""
    if execution.run != reference.run:
        return execution.run > reference.run
    request = request_of(execution, reference)
    if request is None:
        return reference.step >= len(execution.steps)
    if not _is_bound(request, click, reference):
        return request.digest != reference.digest or _tells_all(request, made.at)
    overdue = request.state == "pending" and _is_over(request.escalate_at, made.at) and made.at < request.deadline
    return not overdue or why_not_decided(execution, made.event(None)) is None


def _tells_all(request: Approval, at: datetime) -> bool:
    """Whether every message about the request that there may be by now is known, with its place."""
    awaited = request.state == "pending" and any(_is_over(one, at) for one in (request.remind_at, request.escalate_at))
    return not awaited and all(notice.ts is not None for notice in request.notices)


def _is_over(moment: datetime | None, at: datetime) -> bool:
    return moment is not None and moment <= at


def _is_bound(request: Approval, click: Click, reference: RequestReference) -> bool:
    """Whether the message that was clicked on is one that told of this very request."""
    if request.digest != reference.digest:
        return False
    return any((notice.channel_id, notice.ts) == (click.channel_id, click.ts) for notice in request.notices)


def _why_not(execution: Execution, click: Click, reference: RequestReference, decision: ApprovalDecision) -> str | None:
    if execution.run != reference.run:
        return "it was given for an earlier run"
    request = request_of(execution, reference)
    if request is None or not _is_bound(request, click, reference):
        return "this message is not the one that asked for it"
    if request.state != "pending":
        return request.ended
    return why_not_decided(execution, decision.event(None))
