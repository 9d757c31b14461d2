"""Executions: start one, look at it, stop it, decide on it, look back at all of them."""

import asyncio
import difflib
import re
from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from app.core.catalog import Definition
from app.core.decisions import ApprovalDecision
from app.core.errors import Problem, Refused
from app.core.events import ApprovalDecided, CancelRequested, Decision, ExecutionRequested, StepResolved
from app.core.execution import Execution, Status
from app.core.ids import execution_id_for_key
from app.core.lifecycle import why_not_decided
from app.core.matching import why_not
from app.core.model import JsonObject
from app.core.runbook import Trigger
from app.history.items import HistoryItem, item_of
from app.history.queries import MAX_LIMIT, HistoryFilter
from app.web.auth import Caller, caller_of
from app.web.parts import Recorded, WebParts, parts_of
from app.web.problems import ApiProblem
from app.web.reading import Body, answer, instant, read_body, read_query, truth, whole_number

SEEN_TIMEOUT_S = 5.0
DRY_RUN_TIMEOUT_S = 30.0
POLL_S = 0.02
MAX_POLL_S = 0.2
DEFAULT_LIMIT = 20
HISTORY_PARAMETERS = ("service_id", "limit", "cursor", "status", "runbook_name", "from", "to", "dry_run")
KEY = re.compile(r"[\x20-\x7e]{1,200}")


class ExecuteBody(Body):
    """What to execute; version None is the one in force, dry_run None what the runbook itself says."""

    runbook_name: Annotated[str, Field(min_length=1, max_length=200)]
    dry_run: bool | None = None
    context: JsonObject = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1)] | None = None


class CancelBody(Body):
    """Why it is stopped."""

    comment: Annotated[str, Field(max_length=4096)] = ""


class ApprovalBody(Body):
    """A decision on the step that waits; step counts from 0 and may be left out."""

    step: Annotated[int, Field(ge=0)] | None = None
    decision: Decision
    comment: Annotated[str, Field(max_length=4096)] = ""


class ResolveBody(Body):
    """How a step whose outcome nobody knows did end."""

    outcome: Literal["succeeded", "failed"]
    comment: Annotated[str, Field(max_length=4096)] = ""


async def execute(request: web.Request) -> web.Response:
    """Start a runbook by hand, or ask what it would do."""
    parts, caller = parts_of(request), caller_of(request)
    body = await read_body(request, ExecuteBody)
    definition = _definition(parts, caller, body)
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Refused([Problem("Idempotency-Key", "must be 1 to 200 printable ASCII characters")])
    execution_id = parts.new_id() if key is None else execution_id_for_key(caller.tenant, key)
    event = _requested(parts, caller, body, definition, execution_id)
    if key is not None:
        await _check_same(parts, caller, event)
    recorded = await parts.log.publish_event(event)
    if event.dry_run:
        return await _dry_run_answer(parts, caller, event, recorded)
    await parts.projection.projected(recorded.partition, recorded.offset, SEEN_TIMEOUT_S)
    return _accepted(event)


def _definition(parts: WebParts, caller: Caller, body: ExecuteBody) -> Definition:
    catalog = parts.definitions.catalog
    found = catalog.get(caller.tenant, body.runbook_name, body.version)
    if found is not None:
        return found
    if body.version is not None and catalog.get(caller.tenant, body.runbook_name) is not None:
        raise ApiProblem(404, f"runbook {body.runbook_name} has no version {body.version}")
    names = [one.name for one in catalog.all_of(caller.tenant)]
    near = difflib.get_close_matches(body.runbook_name, names, n=1, cutoff=0.5)
    hint = f" (did you mean '{near[0]}'?)" if near else ""
    raise ApiProblem(404, f"no runbook is called {body.runbook_name}{hint}")


def _requested(
    parts: WebParts, caller: Caller, body: ExecuteBody, definition: Definition, execution_id: str
) -> ExecutionRequested:
    runbook = definition.runbook
    reason = _trigger_reason(runbook.trigger, body.context)
    return ExecutionRequested(
        tenant=caller.tenant,
        execution_id=execution_id,
        at=parts.clock(),
        runbook=runbook,
        runbook_version=definition.version,
        runbook_digest=definition.digest,
        context=body.context,
        dry_run=runbook.dry_run if body.dry_run is None else body.dry_run,
        requested_by=caller.subject,
        trigger_matches=reason is None,
        trigger_reason=reason or "",
        limits=parts.limits,
    )


def _trigger_reason(trigger: Trigger | None, context: JsonObject) -> str | None:
    """Which clause of the trigger this context would not meet; a field the context leaves out counts as met."""
    if trigger is None:
        return "the runbook has no trigger"
    named = {"service_id": trigger.service_id, "metric_name": trigger.metric_name} | context
    return why_not(trigger, named | {"anomaly": dict(named)})


async def _check_same(parts: WebParts, caller: Caller, event: ExecutionRequested) -> None:
    """An Idempotency-Key that comes again must come with the same request."""
    known = await parts.history.get(caller.tenant, event.execution_id)
    if known is None or (known.dedup_until is not None and event.at > known.dedup_until):
        return
    before = known.request
    same = (before.runbook.name, before.context, before.dry_run) == (event.runbook.name, event.context, event.dry_run)
    if not same:
        raise ApiProblem(409, "this Idempotency-Key was used for another request")


def _accepted(event: ExecutionRequested) -> web.Response:
    body = {
        "execution_id": event.execution_id,
        "runbook_name": event.runbook.name,
        "runbook_version": event.runbook_version,
        "dry_run": event.dry_run,
        "trigger": {"matched": event.trigger_matches, "reason": event.trigger_reason or None},
    }
    return answer(body, 202, {"Location": f"/api/v1/executions/{event.execution_id}"})


async def _dry_run_answer(
    parts: WebParts, caller: Caller, event: ExecutionRequested, recorded: Recorded
) -> web.Response:
    """The plan, once every step is prepared; 202 when that takes too long."""
    deadline = asyncio.get_running_loop().time() + DRY_RUN_TIMEOUT_S
    await parts.projection.projected(recorded.partition, recorded.offset, DRY_RUN_TIMEOUT_S)
    pause = POLL_S
    while asyncio.get_running_loop().time() < deadline:
        execution = await parts.history.get(caller.tenant, event.execution_id)
        if execution is not None and execution.terminal:
            return answer(item_of(execution))
        await asyncio.sleep(pause)
        pause = min(MAX_POLL_S, pause * 1.5)
    return _accepted(event)


async def history(request: web.Request) -> web.Response:
    """The execution history, newest first."""
    given = read_query(request, HISTORY_PARAMETERS)
    status = given.get("status")
    if status is not None and status not in set(Status):
        near = difflib.get_close_matches(status, list(Status), n=1, cutoff=0.5)
        raise Refused([Problem("status", f"'{status}' is no status", near[0] if near else None)])
    wanted = HistoryFilter(
        service_id=given.get("service_id"),
        runbook_name=given.get("runbook_name"),
        status=status,
        dry_run=truth("dry_run", given["dry_run"]) if "dry_run" in given else None,
        since=instant("from", given["from"]) if "from" in given else None,
        until=instant("to", given["to"]) if "to" in given else None,
    )
    limit = whole_number("limit", given.get("limit", str(DEFAULT_LIMIT)), 1, MAX_LIMIT)
    found = await parts_of(request).history.page(
        caller_of(request).tenant, wanted, limit=limit, cursor=given.get("cursor")
    )
    items = [item.model_dump(mode="json") for item in found.items]
    return answer({"items": items, "next_cursor": found.next_cursor})


async def show(request: web.Request) -> web.Response:
    """One execution."""
    return answer(item_of(await _known(request)))


async def cancel(request: web.Request) -> web.Response:
    """Stop an execution: what has begun is let finish, nothing else begins."""
    execution = await _known(request)
    body = await read_body(request, CancelBody) if request.can_read_body else CancelBody()
    if execution.terminal or execution.status == Status.rolling_back:
        raise ApiProblem(409, f"the execution is {execution.status}: it cannot be cancelled")
    event = CancelRequested(
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        at=parts_of(request).clock(),
        by=caller_of(request).subject,
        comment=body.comment,
    )
    recorded = await parts_of(request).log.publish_event(event)
    return answer(await _after(request, recorded), 202)


async def resolve(request: web.Request) -> web.Response:
    """Say how a step whose outcome nobody knows did end."""
    execution = await _known(request)
    body = await read_body(request, ResolveBody)
    if execution.status != Status.attention:
        raise ApiProblem(409, f"the execution is {execution.status}: nothing waits for an answer")
    event = StepResolved(
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        at=parts_of(request).clock(),
        outcome=body.outcome,
        by=caller_of(request).subject,
        comment=body.comment,
    )
    recorded = await parts_of(request).log.publish_event(event)
    return answer(await _after(request, recorded), 202)


async def decide(request: web.Request) -> web.Response:
    """Approve or reject the step that waits, bound to the very plan that the history shows."""
    parts = parts_of(request)
    execution = await _known(request)
    body = await read_body(request, ApprovalBody)
    decision = _decision(parts, caller_of(request), execution, body)
    reason = why_not_decided(execution, decision.event(None))
    if reason is not None:
        raise ApiProblem(409, reason)
    if parts.signing is None:
        raise ApiProblem(503, "decisions cannot be signed here: set RUNBOOKS_APPROVALS__SIGNING_KEYS")
    await parts.log.publish_decision(decision.signed(*parts.signing))
    taken = await _until_decided(parts, execution, decision.event(None))
    return answer(item_of(taken), 200) if taken else answer({"state": "recorded"}, 202)


def _decision(parts: WebParts, caller: Caller, execution: Execution, body: ApprovalBody) -> ApprovalDecision:
    step = execution.cursor if body.step is None else body.step
    state = execution.steps[step] if step < len(execution.steps) else None
    return ApprovalDecision(
        tenant=caller.tenant,
        execution_id=execution.execution_id,
        step=step,
        decision=body.decision,
        by=caller.subject,
        source="api",
        comment=body.comment,
        digest=state.approval.digest if state and state.approval else None,
        at=parts.clock(),
    )


async def _until_decided(parts: WebParts, before: Execution, event: ApprovalDecided) -> Execution | None:
    """The execution once the log shows this very decision; None when that takes too long."""
    deadline = asyncio.get_running_loop().time() + SEEN_TIMEOUT_S
    while asyncio.get_running_loop().time() < deadline:
        now = await parts.history.get(before.tenant, before.execution_id)
        approval = now.steps[event.step].approval if now else None
        if now and approval and any((vote.by, vote.at) == (event.by, event.at) for vote in approval.votes):
            return now
        await asyncio.sleep(POLL_S)
    return None


async def _known(request: web.Request) -> Execution:
    execution = await parts_of(request).history.get(caller_of(request).tenant, request.match_info["execution_id"])
    if execution is None:
        raise ApiProblem(404, "no such execution")
    return execution


async def _after(request: web.Request, recorded: Recorded) -> HistoryItem | dict[str, Any]:
    """The execution with the record folded in, or what is known when that takes too long."""
    await parts_of(request).projection.projected(recorded.partition, recorded.offset, SEEN_TIMEOUT_S)
    return item_of(await _known(request))
