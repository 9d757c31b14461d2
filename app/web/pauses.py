"""Pausing and resuming: the kill switch of a tenant, and its maintenance windows."""

from typing import Annotated

from aiohttp import web
from pydantic import Field, TypeAdapter, ValidationError, model_validator

from app.core.anomaly import Name
from app.core.errors import Problem, Refused
from app.core.model import Instant
from app.core.pauses import Pause, PauseEnded, PauseName, PausePut
from app.core.runbook import RunbookName
from app.web.answers import PauseItem, PauseList
from app.web.auth import caller_of
from app.web.changes import in_force
from app.web.parts import parts_of
from app.web.problems import ApiProblem
from app.web.reading import Body, answer, read_body

Moment = Annotated[Instant, Field(strict=False)]  # a body is JSON, in which a time is text
NAME: TypeAdapter[str] = TypeAdapter(PauseName)


class PauseBody(Body):
    """What is paused, since or from when, until when, and why.

    runbook, service_id: only this one, None for any. starts_at: None is now. ends_at: None is until it is resumed.
    """

    runbook: RunbookName | None = None
    service_id: Name | None = None
    starts_at: Moment | None = None
    ends_at: Moment | None = None
    reason: Annotated[str, Field(max_length=1024)] = ""

    @model_validator(mode="after")
    def _ends_after_it_starts(self) -> "PauseBody":
        if self.starts_at is not None and self.ends_at is not None and self.ends_at <= self.starts_at:
            raise ValueError("ends_at must be later than starts_at")
        return self


async def index(request: web.Request) -> web.Response:
    """The pauses that concern the caller's tenant and are not over, its own first."""
    parts = parts_of(request)
    now = parts.clock()
    found = parts.definitions.catalog.pauses.of(caller_of(request).tenant)
    return answer(PauseList(items=[PauseItem.of(one, now) for one in found if not one.is_over(now)]))


async def put(request: web.Request) -> web.Response:
    """Keep runbooks from starting, at once or in a window; answers once this worker does."""
    parts, caller = parts_of(request), caller_of(request)
    name = _name(request)
    body = await read_body(request, PauseBody) if request.can_read_body else PauseBody()
    now = parts.clock()
    if body.ends_at is not None and body.ends_at <= max(now, body.starts_at or now):
        raise Refused([Problem("ends_at", "has passed already: leave it out to pause until somebody resumes")])
    pause = Pause(
        tenant=caller.tenant,
        name=name,
        runbook=body.runbook,
        service_id=body.service_id,
        starts_at=body.starts_at or now,
        ends_at=body.ends_at,
        by=caller.subject,
        reason=body.reason,
    )
    await in_force(request, PausePut(pause=pause, at=now))
    return answer(PauseItem.of(pause, now))


async def delete(request: web.Request) -> web.Response:
    """Resume: what the pause kept from starting goes on."""
    parts, caller = parts_of(request), caller_of(request)
    name = _name(request)
    known = parts.definitions.catalog.pauses.of(caller.tenant)
    if all((one.tenant, one.name) != (caller.tenant, name) for one in known):
        raise ApiProblem(404, "your tenant has no such pause")
    change = PauseEnded(tenant=caller.tenant, name=name, by=caller.subject, at=parts.clock())
    if (await in_force(request, change)).pause is None:
        raise ApiProblem(404, "your tenant has no such pause")
    return web.Response(status=204)


def _name(request: web.Request) -> str:
    try:
        return NAME.validate_python(request.match_info["name"])
    except ValidationError:
        said = "must be 1 to 100 letters, digits, dots, hyphens or underscores, and begin with a letter or digit"
        raise Refused([Problem("name", said)]) from None
