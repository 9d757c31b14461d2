"""Changing what stands in the log of definitions, and waiting until it is in force here."""

from aiohttp import web

from app.core.catalog import Change, Verdict
from app.web.parts import parts_of
from app.web.problems import ApiProblem


async def in_force(request: web.Request, change: Change) -> Verdict:
    """What a change led to, once this worker has it; raises ApiProblem with 503 when that takes too long."""
    parts = parts_of(request)
    recorded = await parts.log.publish_change(change)
    try:
        return await parts.definitions.verdict(recorded, parts.patience.in_force_s)
    except TimeoutError:
        raise ApiProblem(503, "the change is recorded, and not in force here yet: read it again soon") from None
