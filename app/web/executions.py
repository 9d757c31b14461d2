"""One execution: look at it, stop it, say how an unclear step ended."""

from typing import Annotated, Any, Literal

from aiohttp import web
from pydantic import Field

from app.core.events import CancelRequested, RollbackRequested, StepResolved
from app.core.execution import Execution, Status
from app.core.manual_rollback import why_not_rolled_back
from app.core.stepping import doubt_of
from app.history.items import item_of
from app.web.answers import EventItem, EventList, ExecutionItem
from app.web.auth import caller_of
from app.web.parts import Recorded, parts_of
from app.web.problems import ApiProblem
from app.web.reading import Body, answer, read_body

MAX_ID = 200
Comment = Annotated[str, Field(max_length=4096)]


class CancelBody(Body):
    """Why it is stopped."""

    comment: Comment = ""


class RollbackBody(Body):
    """Why it is taken back."""

    comment: Comment = ""


class ResolveBody(Body):
    """How a step whose outcome nobody knows did end."""

    outcome: Literal["succeeded", "failed"]
    comment: Comment = ""


async def known_execution(request: web.Request) -> Execution:
    """The execution that the path names.

    Raises ApiProblem with 404 when the caller's tenant has no such one, whoever else may have.
    """
    named = request.match_info["execution_id"]
    plain = len(named) <= MAX_ID and named.isprintable()
    execution = await parts_of(request).history.get(caller_of(request).tenant, named) if plain else None
    if execution is None:
        raise ApiProblem(404, "no such execution")
    return execution


async def show(request: web.Request) -> web.Response:
    """One execution; of a queued one also what it waits for."""
    execution = await known_execution(request)
    parts = parts_of(request)
    waits_for = await parts.history.in_the_way(execution)
    pause = parts.definitions.catalog.pauses.pause_of(execution, parts.clock())
    return answer(ExecutionItem.of(execution, waits_for, pause))


async def events(request: web.Request) -> web.Response:
    """The records of the log that made an execution what it is, oldest first."""
    execution = await known_execution(request)
    read, complete = await parts_of(request).trail.read(
        execution.tenant, execution.execution_id, execution.run, execution.last_offset
    )
    items = [EventItem(offset=offset, event=event) for offset, event in read]
    return answer(EventList(items=items, complete=complete))


async def cancel(request: web.Request) -> web.Response:
    """Stop an execution: what has begun is let finish, nothing else begins."""
    execution = await known_execution(request)
    body = await read_body(request, CancelBody) if request.can_read_body else CancelBody()
    if execution.terminal or execution.status == Status.rolling_back:
        raise ApiProblem(409, f"the execution is {execution.status}: it cannot be cancelled")
    if execution.is_stopping:
        return answer(item_of(execution), 202)
    event = CancelRequested(
        **_word(request, execution, body.comment),
    )
    return await _seen(request, await parts_of(request).log.publish_event(event))


async def resolve(request: web.Request) -> web.Response:
    """Say how a step whose outcome nobody knows did end."""
    execution = await known_execution(request)
    body = await read_body(request, ResolveBody)
    if execution.status != Status.attention:
        raise ApiProblem(409, f"the execution is {execution.status}: nothing waits for an answer")
    step, attempt = doubt_of(execution)
    event = StepResolved(
        **_word(request, execution, body.comment),
        outcome=body.outcome,
        step=step,
        attempt=attempt,
    )
    return await _seen(request, await parts_of(request).log.publish_event(event))


async def roll_back(request: web.Request) -> web.Response:
    """Take back what an execution that has ended did; a step that needed approval is asked about again."""
    execution = await known_execution(request)
    body = await read_body(request, RollbackBody) if request.can_read_body else RollbackBody()
    why_not = why_not_rolled_back(execution) if execution.terminal else "it has not ended"
    if why_not is not None:
        raise ApiProblem(409, f"the execution is {execution.status} and cannot be rolled back: {why_not}")
    event = RollbackRequested(
        **_word(request, execution, body.comment),
        run=execution.run,
        finished=execution.model_dump(mode="json"),
    )
    return await _seen(request, await parts_of(request).log.publish_event(event))


def _word(request: web.Request, execution: Execution, comment: str) -> dict[str, Any]:
    """What every event holds that says what a person wants of an execution."""
    return {
        "tenant": execution.tenant,
        "execution_id": execution.execution_id,
        "at": parts_of(request).clock(),
        "by": caller_of(request).subject,
        "comment": comment,
    }


async def _seen(request: web.Request, recorded: Recorded) -> web.Response:
    """The execution with the record folded in, or as the history has it when that takes too long."""
    parts = parts_of(request)
    await parts.projection.projected(recorded.partition, recorded.offset, parts.patience.seen_s)
    return answer(item_of(await known_execution(request)), 202)
