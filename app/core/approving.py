"""Requests for approval: asked, reminded of, decided, told.

Silence is never a yes, a decision counts for one plan only, and what does not count changes nothing.
"""

from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import takewhile
from typing import NamedTuple

from app.core.approval import MAX_REPLACED, Approval, Notice, Vote, cut, words_of
from app.core.approval_card import TAKES_BACK, ApprovalCard, card_of, difference, undo_of
from app.core.commands import PLACED, NoticeCommand
from app.core.events import ApprovalDecided, ApprovalNoticed, StepPrepared
from app.core.execution import Execution, Place
from app.core.ids import message_id
from app.core.planning import Prepared, size_of
from app.core.rollback_notice import ABOUT_ROLLBACK, RollbackCard, rollback_card, rollback_version, to_be_told
from app.core.step_state import StepState
from app.core.stepping import Move, Stale, advance, begun, cancelled, expect, given_up, halted
from app.core.steps import SlackStep, Step

GROUP = "group:"
MAX_REQUESTS = 5
"""In a row, of one step: a plan that is never the one that was approved is not asked about for ever."""
COMMENTS_LIMIT = 64 * 1024
"""Bytes of all comments kept in one state, which is one record; past it only the beginning of each is kept."""
REMIND_AFTER, ESCALATE_AFTER = 0.5, 0.75  # of the time there is


def on_prepared(execution: Execution, event: StepPrepared) -> Move:
    """A plan is known: a dry run goes on, any other asks for approval."""
    place, step = expect(execution, event, ("pending", "approved"))
    if execution.request.dry_run:
        done = place.change(execution, status="planned", plan=event.plan, finished_at=event.at)
        return advance(done, event.at)
    if not place.asks(execution):
        raise Stale("the step asks for no approval")
    if execution.cancel_by is not None:
        return cancelled(execution, event.at)
    if _asked_in_a_row(step) >= MAX_REQUESTS:
        why = f"its plan was another one than the approved one {MAX_REQUESTS} times"
        return given_up(execution, place, why, event.at)
    asked = _request(execution, place, event.plan, event.at)
    again: dict[str, object] = {} if step.approval is None else {"superseded": _superseded(step)}
    if again or place.rolling_back:  # to plan and to take back are one phase: only the attempt tells them apart
        again["attempt"] = step.attempt + 1
    waits = place.change(
        begun(execution, event.at), status="awaiting_approval", plan=event.plan, approval=asked, **again
    )
    moved = f"the plan changed after it was approved: {asked.changed}" if asked.changed else ""
    reason = moved or _why_asked(execution, place)
    return Move("approval_asked", waits.now(reason=reason))


def _why_asked(execution: Execution, place: Place) -> str:
    """Why a step that needs no approval of its own asks all the same."""
    verdict = execution.verdict
    if verdict is None or execution.runbook.steps[place.forward(execution)].require_approval:
        return ""
    return f"{verdict.guard}: {verdict.reason}"


def _asked_in_a_row(step: StepState) -> int:
    """How often the plan was approved and was another one when it was to be carried out."""
    if step.approval is None:
        return 0
    return 1 + sum(1 for _ in takewhile(lambda one: one.state == "superseded", reversed(step.superseded)))


def _superseded(step: StepState) -> tuple[Approval, ...]:
    assert step.approval is not None
    return (*step.superseded, step.approval.replaced("the plan changed, and it was asked again"))


def _request(execution: Execution, place: Place, plan: Prepared, at: datetime) -> Approval:
    """A new request, with the messages that ask, remind and escalate where the runbook or the settings name a place."""
    index, state = place.forward(execution), place.step(execution)
    step = execution.runbook.steps[index]
    undo = TAKES_BACK if place.rolling_back else undo_of(step, plan)
    channel = _channel(execution, step, plan)
    time = timedelta(seconds=execution.runbook.approval_timeout_s(index))
    return Approval(
        digest=plan.digest,
        **words_of(plan, undo, with_text=isinstance(step, SlackStep) and not place.rolling_back),
        requested_at=at,
        deadline=at + time,
        number=1 + max((one.number for one in execution.requests(index)), default=0),
        notices=() if channel is None else (Notice(kind="ask", to=channel),),
        remind_at=None if channel is None else at + REMIND_AFTER * time,
        escalate_at=at + ESCALATE_AFTER * time if step.escalate_to else None,
        changed="" if state.approval is None or state.plan is None else difference(state.plan, plan),
    )


def _channel(execution: Execution, step: Step, plan: Prepared) -> str | None:
    own = plan.params.get("channel") if isinstance(step, SlackStep) else step.approval_channel
    return str(own) if own else execution.runbook.notify_channel or execution.request.limits.approval_channel


def on_decision(execution: Execution, event: ApprovalDecided) -> Move:
    """Somebody decided: the first no ends it, the last yes that is needed lets the step go on."""
    refusal = event.refusal or why_not_decided(execution, event)
    if refusal is not None:
        raise Stale(refusal)
    place = execution.standing
    approval = place.step(execution).approval if place else None
    assert place is not None
    assert approval is not None
    comment = _kept_comment(execution, event.comment)
    counted = approval.now(votes=(*approval.votes, Vote.of(event, comment)))
    said = f": {comment}" if comment else ""
    if event.decision == "reject":
        reason = f"rejected by {event.by}{said}"
        rejected = place.change(execution, approval=counted.now(state="rejected", ended=reason))
        return halted(rejected, event.at, reason)
    if len(counted.votes) < execution.runbook.steps[event.step].approvals_required:
        return Move("vote_counted", place.change(execution, approval=counted))
    agreed = counted.now(state="approved", ended=f"approved by {', '.join(vote.by for vote in counted.votes)}")
    approved = place.change(execution, approval=agreed, status="approved")
    if place.rolling_back:
        return Move("rollback_approved", approved)
    if isinstance(execution.runbook.steps[event.step], SlackStep):
        return _asking_was_all(approved, event.step, agreed, event.at)
    return Move("approved", approved)


def _kept_comment(execution: Execution, comment: str) -> str:
    """The comment as the state keeps it; the log has all of it."""
    requests = (one for index in range(len(execution.steps)) for one in execution.requests(index))
    kept = sum(size_of(vote.comment) for one in requests for vote in one.votes)
    return comment if kept + size_of(comment) <= COMMENTS_LIMIT else cut(comment, MAX_REPLACED)


def _asking_was_all(execution: Execution, index: int, approval: Approval, at: datetime) -> Move:
    """A slack step that needs approval is the request itself: its message has been posted, and somebody agreed."""
    ask = approval.ask
    posted = None
    if ask is not None and ask.ts is not None:
        posted = {"channel": ask.channel_id, "ts": ask.ts, "thread_ts": None, "posted_to": ask.to}
    done = execution.with_step(
        index, status="succeeded", output=posted, error=None, started_at=approval.requested_at, finished_at=at
    )
    return advance(done, at)


def why_not_decided(execution: Execution, event: ApprovalDecided) -> str | None:  # noqa: PLR0911 - one rule each
    """Why a decision does not count for this state; None when it does."""
    if event.run not in {None, execution.run}:
        return "it was given for an earlier run"
    place = execution.standing
    if place is None or event.step != place.forward(execution):
        return f"the execution is not at step {event.step}"
    step, approval = execution.runbook.steps[event.step], place.step(execution).approval
    if place.step(execution).status != "awaiting_approval" or approval is None:
        return f"step {event.step} does not wait for approval"
    if event.request not in {None, approval.number} or event.digest not in {None, approval.digest}:
        return "it was given for another plan"
    if event.request is None and event.at < approval.requested_at:
        return "it was given before this was asked"
    if event.at >= approval.deadline:
        return "it came after the deadline"
    if not may_decide(step, approval, event.by, event.groups):
        return f"{event.by} is not among the step's approvers"
    asked_by = execution.rollback.by if execution.rollback else execution.request.requested_by
    own = event.decision == "approve" and event.by == asked_by
    if own and not step.allow_self_approval:
        return f"{event.by} asked for this {'rollback' if execution.rollback else 'run'} and may not approve it"
    if any(vote.by == event.by for vote in approval.votes):
        return f"{event.by} has decided already"
    return None


def may_decide(step: Step, approval: Approval, subject: str, groups: tuple[str, ...]) -> bool:
    """Whether a subject is among the step's approvers, or those it was escalated to; with none named, anybody is."""
    if not step.approvers:
        return True
    named = {*step.approvers, *(step.escalate_to if approval.escalated else ())}
    by_name = subject in named and not subject.startswith(GROUP)
    return by_name or any(GROUP + group in named for group in groups)


def on_request_due(execution: Execution, place: Place, at: datetime) -> Move:
    """A request's time: half of it has passed, three quarters, or all."""
    approval = place.step(execution).approval
    assert approval is not None
    if at >= approval.deadline:
        reason = "nobody approved it in time"
        late = place.change(execution, approval=approval.now(state="expired", ended=reason))
        return halted(late, at, reason)
    told = approval
    if approval.remind_at is not None and at >= approval.remind_at:
        ask = approval.ask
        again = (Notice(kind="remind", to=ask.to),) if ask else ()
        told = told.now(notices=(*told.notices, *again), remind_at=None)
    if approval.escalate_at is not None and at >= approval.escalate_at:
        named = execution.runbook.steps[place.forward(execution)].escalate_to
        more = tuple(Notice(kind="escalate", to=to) for to in named if not to.startswith(GROUP))
        told = told.now(notices=(*told.notices, *more), escalate_at=None, escalated=True)
    return Move("reminded", place.change(execution, approval=told))


def next_request_time(approval: Approval) -> datetime:
    """When a request falls due by time alone."""
    return min(moment for moment in (approval.deadline, approval.remind_at, approval.escalate_at) if moment is not None)


def on_noticed(execution: Execution, event: ApprovalNoticed) -> Move:
    """A message was posted or changed, or could not be."""
    if event.request == ABOUT_ROLLBACK:
        return _on_rollback_noticed(execution, event)
    approval = next((one for one in execution.requests(event.step) if one.number == event.request), None)
    if approval is None or event.notice >= len(approval.notices):
        raise Stale("there is no such request")
    changed = approval.with_notice(event.notice, **_changes(approval.notices[event.notice], event))
    return Move("noticed", execution.with_request(event.step, changed))


def _on_rollback_noticed(execution: Execution, event: ApprovalNoticed) -> Move:
    rollback = execution.rollback
    if rollback is None or rollback.notice is None or event.notice != rollback.number:
        raise Stale("there is no such message")
    told = rollback.notice.now(**_changes(rollback.notice, event))
    return Move("noticed", execution.now(rollback=rollback.model_copy(update={"notice": told})))


def _changes(notice: Notice, event: ApprovalNoticed) -> dict[str, object]:
    """What an event makes of a notice: what is posted stays so, what is unknown is not known to have failed later on.

    Raises Stale when it is known already.
    """
    if notice.state == "posted":
        if event.version <= notice.shown:
            raise Stale("the message shows it already")
        return {"shown": event.version, "error": event.error}
    if event.error is None:
        where = {"channel_id": event.channel_id, "ts": event.ts}
        return {"state": "posted", **where, "shown": event.version, "error": None}
    if event.unknown and notice.state != "unknown":
        return {"state": "unknown", "shown": event.version, "error": event.error}
    if notice.state == "due":
        return {"state": "failed", "shown": event.version, "error": event.error}
    if event.version <= notice.shown:
        raise Stale("that it failed is known")
    return {"shown": event.version}


def notices_due(execution: Execution) -> tuple[NoticeCommand, ...]:
    """The messages that are to be posted or changed, of an execution that has ended too."""
    return (*_rollback_notices(execution), *_request_notices(execution))


def _rollback_notices(execution: Execution) -> Iterator[NoticeCommand]:
    rollback = execution.rollback
    if rollback is None or rollback.notice is None:
        return
    notice, version = rollback.notice, rollback_version(execution, rollback)
    if to_be_told(execution, notice, version):
        about = About(0, ABOUT_ROLLBACK, rollback.number, version)
        yield _message(execution, notice, about, rollback_card(execution, rollback))


def _request_notices(execution: Execution) -> tuple[NoticeCommand, ...]:
    return tuple(
        _notice_command(execution, index, approval, place)
        for index in range(len(execution.steps))
        for approval in execution.requests(index)
        for place in approval.to_be_told()
    )


def _notice_command(execution: Execution, index: int, approval: Approval, place: int) -> NoticeCommand:
    notice = approval.notices[place]
    ask = approval.ask
    thread = ask.ts if ask is not None and notice.kind == "remind" else None
    about = About(index, approval.number, place, approval.version)
    return _message(execution, notice, about, card_of(execution, index, approval, notice), thread)


class About(NamedTuple):
    """What a message is about, and which version of it is wanted; the names are NoticeCommand's."""

    step_index: int
    request: int
    notice: int
    version: int


def _message(
    execution: Execution,
    notice: Notice,
    about: About,
    card: ApprovalCard | RollbackCard,
    thread_ts: str | None = None,
) -> NoticeCommand:
    """Post the message of a notice, or change it where it stands."""
    message = message_id(execution.execution_id, execution.run, about.step_index, about.request, about.notice)
    return NoticeCommand(
        command_id=f"{message}/{about.version}{PLACED if notice.ts else ''}",
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        run=execution.run,
        **about._asdict(),
        to=notice.to,
        channel_id=notice.channel_id,
        ts=notice.ts,
        thread_ts=thread_ts,
        doubtful=notice.state == "unknown",
        card=card,
    )
