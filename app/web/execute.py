"""Starting a runbook by hand, or asking what it would do."""

import difflib
import re
from datetime import datetime
from typing import Annotated

import orjson
from aiohttp import web
from pydantic import Field

from app.core.catalog import Definition
from app.core.errors import Problem, Refused
from app.core.events import ExecutionRequested
from app.core.execution import SHADOW, Execution, begin
from app.core.ids import execution_id_for_key
from app.core.matching import why_not
from app.core.model import JsonObject, canonical, depth_of
from app.core.runbook import Trigger
from app.core.spans import SpanContext
from app.web.answers import Accepted, DryRun
from app.web.auth import Caller, caller_of
from app.web.parts import WebParts, parts_of
from app.web.problems import ApiProblem
from app.web.reading import Body, answer, came_from, read_body

MAX_CONTEXT_BYTES = 64 * 1024  # it travels in every command of the execution
MAX_CONTEXT_DEPTH = 32
MAX_NAME = 200
KEY = re.compile(r"[\x20-\x7e]{1,200}")


class ExecuteBody(Body):
    """What to execute; version None is the one in force, dry_run None what the runbook itself says."""

    runbook_name: Annotated[str, Field(min_length=1, max_length=MAX_NAME)]
    dry_run: bool | None = None
    context: JsonObject = Field(default_factory=dict)
    version: Annotated[int, Field(ge=1)] | None = None


async def execute(request: web.Request) -> web.Response:
    """Start a runbook by hand, or ask what it would do."""
    parts, caller = parts_of(request), caller_of(request)
    body = await read_body(request, ExecuteBody)
    _check_context(body.context)
    key, asked_in = _idempotency_key(request), came_from(request)
    if key is None:
        return await _answer(parts, await _begin(parts, caller, body, parts.new_id(), asked_in))
    execution_id = execution_id_for_key(caller.tenant, key)
    found = await _current(parts, caller.tenant, execution_id, parts.clock())
    execution = found or await _begin(parts, caller, body, execution_id, asked_in)
    if not _same(execution, body):
        raise ApiProblem(409, "this Idempotency-Key was used for another request")
    return await _answer(parts, execution)


def _check_context(context: JsonObject) -> None:
    """Raise Refused for a context that is too large, or names what the history could not be searched for."""
    problems = []
    if len(orjson.dumps(context)) > MAX_CONTEXT_BYTES:
        problems.append(Problem("context", f"is larger than {MAX_CONTEXT_BYTES} bytes"))
    if depth_of(context, MAX_CONTEXT_DEPTH) > MAX_CONTEXT_DEPTH:
        problems.append(Problem("context", f"is nested deeper than {MAX_CONTEXT_DEPTH}"))
    for name in ("service_id", "metric_name"):
        value = context.get(name)
        if isinstance(value, str) and not (0 < len(value) <= MAX_NAME and value.isprintable()):
            problems.append(Problem(f"context.{name}", f"must be 1 to {MAX_NAME} printable characters"))
    if problems:
        raise Refused(problems)


def _idempotency_key(request: web.Request) -> str | None:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not KEY.fullmatch(key):
        raise Refused([Problem("Idempotency-Key", "must be 1 to 200 printable ASCII characters")])
    return key


async def _current(parts: WebParts, tenant: str, execution_id: str, at: datetime) -> Execution | None:
    """What the history knows of an id, unless a request at this time would be a new run of it."""
    found = await parts.history.get(tenant, execution_id)
    return found if found is not None and _is_current(found, at) else None


def _is_current(execution: Execution, at: datetime) -> bool:
    return execution.dedup_until is None or at <= execution.dedup_until


def _same(execution: Execution, body: ExecuteBody) -> bool:
    """Whether a body asks for what was requested; what it leaves open is as the pinned definition has it."""
    request = execution.request
    dry_run = request.runbook.dry_run if body.dry_run is None else body.dry_run
    return (
        (request.runbook.name, request.dry_run) == (body.runbook_name, dry_run)
        and body.version in {None, request.runbook_version}
        and canonical(request.context) == canonical(body.context)
    )


async def _begin(
    parts: WebParts, caller: Caller, body: ExecuteBody, execution_id: str, asked_in: SpanContext | None
) -> Execution:
    """Request an execution, and how it stands once the history shows it, or as it begins when that takes too long."""
    event = _requested(parts, caller, body, _definition(parts, caller, body), execution_id)
    _refuse_paused(parts, event)
    recorded = await parts.log.publish_event(event, asked_in)
    await parts.projection.projected(recorded.partition, recorded.offset, parts.patience.seen_s)
    shown = await _current(parts, caller.tenant, execution_id, event.at)
    return shown or begin(event, recorded.offset)


def _refuse_paused(parts: WebParts, event: ExecutionRequested) -> None:
    """Raises ApiProblem with 409 for a shadow, or while somebody keeps it from starting; a dry run may always be."""
    if event.dry_run:
        return
    if event.runbook.mode == "shadow":
        raise ApiProblem(409, f"'{event.runbook.name}' cannot be started, only dry run: {SHADOW}")
    named = event.context.get("service_id")
    service = named if isinstance(named, str) else None
    pause = parts.definitions.catalog.pauses.why_paused(event.tenant, event.runbook.name, service, event.at)
    if pause is not None:
        raise ApiProblem(409, f"'{event.runbook.name}' is {pause.told()}")


def _definition(parts: WebParts, caller: Caller, body: ExecuteBody) -> Definition:
    catalog = parts.definitions.catalog
    found = catalog.get(caller.tenant, body.runbook_name, body.version)
    if found is not None:
        return found
    if catalog.get(caller.tenant, body.runbook_name) is not None:
        raise ApiProblem(404, f"runbook '{body.runbook_name}' has no version {body.version}")
    names = [one.name for one in catalog.all_of(caller.tenant)]
    near = difflib.get_close_matches(body.runbook_name, names, n=3, cutoff=0.5)
    hint = f" (did you mean {' or '.join(repr(name) for name in near)}?)" if near else ""
    problem = Problem("runbook_name", "no runbook in force has this name", near[0] if near else None)
    raise ApiProblem(404, f"no runbook is called '{body.runbook_name}'{hint}", problems=[problem])


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
    """Which clause of the trigger this context does not meet; service or metric left out counts as met."""
    if trigger is None:
        return "the runbook has no trigger"
    named: JsonObject = {"service_id": trigger.service_id, "metric_name": trigger.metric_name}
    variables = {name: value for name, value in named.items() if value != "*"} | context
    return why_not(trigger, variables | {"anomaly": dict(variables)})


async def _answer(parts: WebParts, execution: Execution) -> web.Response:
    """A dry run's plan once it has ended, and 202 when that takes too long; a real run's 202 at once."""
    ended = await _until_ended(parts, execution) if execution.request.dry_run else None
    if ended is not None:
        return answer(DryRun.of(ended))
    return answer(Accepted.of(execution), 202, {"Location": f"/api/v1/executions/{execution.execution_id}"})


async def _until_ended(parts: WebParts, execution: Execution) -> Execution | None:
    if execution.terminal:
        return execution
    at = execution.request.at
    return await parts.projection.until(
        execution.tenant,
        execution.execution_id,
        lambda shown: shown.terminal and _is_current(shown, at),
        parts.patience.dry_run_s,
        execution,
    )
