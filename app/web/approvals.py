"""Deciding on the step that waits, bound to the very plan that the history shows."""

from typing import Annotated

from aiohttp import web
from pydantic import Field

from app.core.decisions import ApprovalDecision
from app.core.events import ApprovalDecided, Decision
from app.core.execution import Execution, Status
from app.core.lifecycle import why_not_decided
from app.history.queries import MAX_LIMIT, WaitingPage
from app.web.answers import Decided, DecisionRecorded, WaitingApproval, WaitingList, request_decided
from app.web.auth import Caller, caller_of
from app.web.executions import Comment, known_execution
from app.web.parts import WebParts, parts_of
from app.web.problems import ApiProblem
from app.web.reading import Body, answer, read_body, read_query, truth, whole_number

DEFAULT_LIMIT = 50
MAX_PAGES = 5  # looked through for the first request that is the caller's
MAX_REFUSAL = 1024
PARAMETERS = {
    "all": {"type": "boolean", "default": False},
    "execution_id": {"type": "string"},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "cursor": {"type": "string"},
}


class ApprovalBody(Body):
    """A decision.

    step: counted from 0; None is the step that waits. digest: of the plan that the decider saw, as the history shows
    it; None is the plan that waits now.
    """

    step: Annotated[int, Field(ge=0)] | None = None
    decision: Decision
    comment: Comment = ""
    digest: Annotated[str, Field(max_length=200)] | None = None


async def waiting(request: web.Request) -> web.Response:
    """What waits for the caller's approval; with ``all`` also what waits for others, and why it is not the caller's."""
    parts, caller = parts_of(request), caller_of(request)
    given = read_query(request, PARAMETERS)
    everything = truth("all", given["all"]) if "all" in given else False
    limit = whole_number("limit", given.get("limit", str(DEFAULT_LIMIT)), 1, MAX_LIMIT)
    cursor = given.get("cursor")
    for _ in range(MAX_PAGES):
        page = await _page(parts, caller, given.get("execution_id"), limit, cursor)
        listed = [_waiting(execution, caller, parts) for execution in page.executions]
        items = [item for item in listed if item.may_decide or everything]
        cursor = page.next_cursor
        if items or cursor is None:
            break
    return answer(WaitingList(items=items, next_cursor=cursor))


async def _page(
    parts: WebParts, caller: Caller, execution_id: str | None, limit: int, cursor: str | None
) -> WaitingPage:
    """One page of what waits, or the one execution that is asked for."""
    if execution_id is None:
        return await parts.history.waiting(caller.tenant, limit=limit, cursor=cursor)
    found = await parts.history.get(caller.tenant, execution_id)
    return WaitingPage([] if found is None or found.waiting is None else [found], None)


def _waiting(execution: Execution, caller: Caller, parts: WebParts) -> WaitingApproval:
    body = ApprovalBody(decision="approve")
    yes = _decision(parts, caller, execution, body).event(None)
    held = caller.may(("approver",))
    reason = why_not_decided(execution, yes) if held else "this needs the role approver"
    return WaitingApproval.of(execution, reason)


async def decide(request: web.Request) -> web.Response:
    """Approve or reject the step that waits, bound to the very plan that the history shows."""
    parts = parts_of(request)
    execution = await known_execution(request)
    body = await read_body(request, ApprovalBody)
    decision = _decision(parts, caller_of(request), execution, body)
    reason = _why_not(execution, decision.event(None))
    if parts.signing is None:
        raise ApiProblem(503, "decisions cannot be signed here: no signing key is configured")
    if reason is not None:  # recorded too, with its reason, so that it can never count
        refused = decision.model_copy(update={"refusal": reason[:MAX_REFUSAL]})
        await parts.log.publish_decision(refused.signed(*parts.signing))
        raise ApiProblem(409, reason)
    await parts.log.publish_decision(decision.signed(*parts.signing))
    decided = await _until_decided(parts, execution, decision.event(None))
    if decided is None:
        return answer(DecisionRecorded(execution_id=execution.execution_id), 202)
    return answer(Decided.of(decided, decision.event(None)))


def _decision(parts: WebParts, caller: Caller, execution: Execution, body: ApprovalBody) -> ApprovalDecision:
    place = execution.standing
    standing = execution.cursor if place is None else place.forward(execution)
    step = standing if body.step is None else body.step
    waiting = place.step(execution).approval if place and step == standing else None
    return ApprovalDecision(
        tenant=caller.tenant,
        execution_id=execution.execution_id,
        step=step,
        decision=body.decision,
        by=caller.subject,
        groups=caller.groups,
        source="api",
        comment=body.comment,
        run=execution.run,
        request=waiting.number if waiting else None,
        digest=waiting.digest if waiting and body.digest is None else body.digest,
        at=parts.clock(),
    )


def _why_not(execution: Execution, event: ApprovalDecided) -> str | None:
    """Why a decision would not count; None when it would."""
    waits = execution.waiting
    if waits is not None and event.request == waits.number and event.digest not in {None, waits.digest}:
        return f"the plan has moved: the decision is about {event.digest}, and what waits now is {waits.digest}"
    if execution.status != Status.awaiting_approval:
        return f"the execution is {execution.status}: no step waits for approval"
    return why_not_decided(execution, event)


async def _until_decided(parts: WebParts, before: Execution, event: ApprovalDecided) -> Execution | None:
    """The execution once the log shows this very decision; None when that takes too long.

    Raises ApiProblem with 409 when another decision, or the end, came first.
    """
    decided = await parts.projection.until(
        before.tenant,
        before.execution_id,
        lambda now: _counted(now, event) or _why_not_counted(now, event) is not None,
        parts.patience.decided_s,
        before,
    )
    if decided is None or _counted(decided, event):
        return decided
    raise ApiProblem(409, f"something else came first: {_why_not_counted(decided, event)}")


def _counted(execution: Execution, event: ApprovalDecided) -> bool:
    """Whether the request that was decided on has this very vote, even when another has taken its place since."""
    request = request_decided(execution, event)
    return request is not None and any((vote.by, vote.at) == (event.by, event.at) for vote in request.votes)


def _why_not_counted(execution: Execution, event: ApprovalDecided) -> str | None:
    """Why the decision has not counted and never will; None while it still may."""
    if execution.run != event.run:
        return None
    request = request_decided(execution, event)
    superseded = request is not None and request.state == "superseded"
    return request.ended if request and superseded else _why_not(execution, event)
