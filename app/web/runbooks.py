"""Definitions: list, read, put, delete, check."""

import re
from typing import Any

from aiohttp import web

from app.core.catalog import Definition, RunbookDeleted, RunbookPut, Verdict
from app.core.errors import Problem, Refused, RunbookRefused
from app.core.runbook import read_runbook
from app.web.auth import caller_of
from app.web.parts import Recorded, parts_of
from app.web.problems import ApiProblem
from app.web.reading import answer, read_object

IN_FORCE_TIMEOUT_S = 10.0
ETAG = re.compile(r'"(\d{1,9})"')


async def index(request: web.Request) -> web.Response:
    """All definitions in force for the caller's tenant, by name."""
    found = parts_of(request).definitions.catalog.all_of(caller_of(request).tenant)
    return answer({"items": [_shown(one) for one in found]})


async def show(request: web.Request) -> web.Response:
    """The definition in force."""
    found = _known(request)
    return answer(_shown(found), headers={"ETag": f'"{found.version}"'})


async def versions(request: web.Request) -> web.Response:
    """All versions there ever were, the newest first."""
    catalog = parts_of(request).definitions.catalog
    found = catalog.versions(caller_of(request).tenant, request.match_info["name"])
    if not found:
        raise ApiProblem(404, "no such runbook")
    return answer({"items": [_shown(one) for one in reversed(found)]})


async def put(request: web.Request) -> web.Response:
    """Bring a definition into force; answers once it is."""
    parts, caller = parts_of(request), caller_of(request)
    name = request.match_info["name"]
    content = await read_object(request)
    for field, mine in (("name", name), ("tenant", caller.tenant)):
        if content.setdefault(field, mine) != mine:
            raise Refused([Problem(field, f"is {content[field]!r}, and this call is for {mine!r}")])
    content.pop("tenant")
    runbook = read_runbook(content)
    before = parts.definitions.catalog.get(caller.tenant, name)
    change = RunbookPut(
        tenant=caller.tenant,
        runbook=runbook,
        by=caller.subject,
        at=parts.clock(),
        expected_version=_expected_version(request),
    )
    verdict = await _verdict(request, await parts.log.publish_change(change))
    if verdict.refusal is not None or verdict.definition is None:
        raise ApiProblem(412, f"the runbook was not changed: {verdict.refusal}")
    body = _shown(verdict.definition)
    return answer(body, 200 if before else 201, {"ETag": f'"{verdict.definition.version}"'})


async def delete(request: web.Request) -> web.Response:
    """Take a definition out of force; its versions stay readable."""
    parts, caller = parts_of(request), caller_of(request)
    _known(request)
    change = RunbookDeleted(
        tenant=caller.tenant,
        name=request.match_info["name"],
        by=caller.subject,
        at=parts.clock(),
        expected_version=_expected_version(request),
    )
    verdict = await _verdict(request, await parts.log.publish_change(change))
    if verdict.refusal is not None:
        raise ApiProblem(412, f"the runbook was not deleted: {verdict.refusal}")
    return web.Response(status=204)


async def validate(request: web.Request) -> web.Response:
    """Whether a definition would be taken, and every problem where it would not."""
    try:
        runbook = read_runbook(await read_object(request))
    except RunbookRefused as error:
        problems = [{"path": one.path, "message": one.message, "nearest": one.nearest} for one in error.problems]
        return answer({"valid": False, "digest": None, "problems": problems})
    return answer({"valid": True, "digest": runbook.digest(), "problems": []})


def _known(request: web.Request) -> Definition:
    catalog = parts_of(request).definitions.catalog
    found = catalog.get(caller_of(request).tenant, request.match_info["name"])
    if found is None:
        raise ApiProblem(404, "no such runbook")
    return found


async def _verdict(request: web.Request, recorded: Recorded) -> Verdict:
    try:
        return await parts_of(request).definitions.verdict(recorded, IN_FORCE_TIMEOUT_S)
    except TimeoutError:
        raise ApiProblem(503, "the change is recorded, and not in force here yet: read it again soon") from None


def _expected_version(request: web.Request) -> int | None:
    """If-Match names the version to replace, If-None-Match: * says that there must be none."""
    if request.headers.get("If-None-Match") == "*":
        return 0
    given = request.headers.get("If-Match")
    if given is None or given == "*":
        return None
    found = ETAG.fullmatch(given)
    if found is None:
        raise Refused([Problem("If-Match", 'must be an ETag of this API, as "3"')])
    return int(found[1])


def _shown(definition: Definition) -> dict[str, Any]:
    return {
        "name": definition.name,
        "version": definition.version,
        "digest": definition.digest,
        "changed_by": definition.by,
        "changed_at": definition.at.isoformat(),
        "runbook": definition.runbook.content(),
    }
