"""Definitions: list, read, put, delete, check."""

import re
from typing import Any

from aiohttp import web

from app.core.catalog import Definition, RunbookDeleted, RunbookPut
from app.core.errors import Problem, Refused, RunbookRefused
from app.core.runbook import Runbook, read_runbook
from app.web.answers import DefinitionItem, DefinitionList, Validation, told
from app.web.auth import Caller, caller_of
from app.web.changes import in_force
from app.web.parts import parts_of
from app.web.problems import ApiProblem
from app.web.reading import answer, read_small_object

ETAG = re.compile(r'"([1-9]\d{0,8})"')
RESERVED = frozenset({"backtest", "execute", "history", "validate"})
"""Paths of this API: a runbook of this name could not be read."""


async def index(request: web.Request) -> web.Response:
    """All definitions in force for the caller's tenant, by name."""
    found = parts_of(request).definitions.catalog.all_of(caller_of(request).tenant)
    return answer(DefinitionList(items=[DefinitionItem.of(one) for one in found]))


async def show(request: web.Request) -> web.Response:
    """The definition in force; its version is the ETag."""
    found = _in_force(request)
    if found is None:
        raise ApiProblem(404, "no such runbook")
    return answer(DefinitionItem.of(found), headers=_etag(found))


async def versions(request: web.Request) -> web.Response:
    """All versions there ever were, the newest first."""
    catalog = parts_of(request).definitions.catalog
    found = catalog.versions(caller_of(request).tenant, request.match_info["name"])
    if not found:
        raise ApiProblem(404, "no such runbook")
    return answer(DefinitionList(items=[DefinitionItem.of(one) for one in reversed(found)]))


async def put(request: web.Request) -> web.Response:
    """Bring a definition into force; answers once it is."""
    parts, caller = parts_of(request), caller_of(request)
    name = request.match_info["name"]
    if name in RESERVED:
        raise Refused([Problem("name", f"'{name}' is a path of this API: call the runbook something else")])
    content = await read_small_object(request)
    if content.setdefault("name", name) != name:
        raise Refused([Problem("name", f"must be '{name}' as in the path, or be left out")])
    runbook = _definition_in(content, caller)
    before = _in_force(request)
    change = RunbookPut(
        tenant=caller.tenant,
        runbook=runbook,
        by=caller.subject,
        at=parts.clock(),
        expected_version=_expected_version(request, before),
    )
    verdict = await in_force(request, change)
    if verdict.refusal is not None or verdict.definition is None:
        raise ApiProblem(412, f"the runbook was not changed: {verdict.refusal}")
    return answer(DefinitionItem.of(verdict.definition), 200 if before else 201, _etag(verdict.definition))


async def delete(request: web.Request) -> web.Response:
    """Take a definition out of force; its versions stay readable."""
    caller, before = caller_of(request), _in_force(request)
    if before is None:
        raise ApiProblem(404, "no such runbook")
    change = RunbookDeleted(
        tenant=caller.tenant,
        name=before.name,
        by=caller.subject,
        at=parts_of(request).clock(),
        expected_version=_expected_version(request, before),
    )
    verdict = await in_force(request, change)
    if verdict.refusal is not None:
        gone = change.expected_version is None
        raise ApiProblem(404 if gone else 412, f"the runbook was not deleted: {verdict.refusal}")
    return web.Response(status=204)


async def validate(request: web.Request) -> web.Response:
    """Whether a definition would be taken, and every problem where it would not; nothing is changed."""
    content = await read_small_object(request)
    try:
        runbook = _definition_in(content, caller_of(request))
    except RunbookRefused as error:
        return answer(Validation(valid=False, digest=None, problems=told(error.problems)))
    return answer(Validation(valid=True, digest=runbook.digest(), problems=[]))


def _definition_in(content: dict[str, Any], caller: Caller) -> Runbook:
    """The definition, without its tenant, which is the caller's.

    Raises RunbookRefused.
    """
    if content.pop("tenant", None) not in {None, caller.tenant}:
        raise RunbookRefused([Problem("tenant", f"must be '{caller.tenant}' as in the token, or be left out")])
    return read_runbook(content)


def _in_force(request: web.Request) -> Definition | None:
    return parts_of(request).definitions.catalog.get(caller_of(request).tenant, request.match_info["name"])


def _expected_version(request: web.Request, before: Definition | None) -> int | None:
    """If-Match names the version to replace, * any there is; If-None-Match: * says that there must be none.

    Raises Refused for what is none of these, ApiProblem when * finds nothing.
    """
    match, none_match = request.headers.get("If-Match"), request.headers.get("If-None-Match")
    if none_match is not None:
        if none_match != "*" or match is not None:
            raise Refused([Problem("If-None-Match", "only * is understood, and no If-Match beside it")])
        return 0
    if match is None:
        return None
    if match == "*":
        if before is None:
            raise ApiProblem(412, "there is no such runbook to change")
        return before.version
    found = ETAG.fullmatch(match)
    if found is None:
        raise Refused([Problem("If-Match", 'must be an ETag of this API, as "3", or *')])
    return int(found[1])


def _etag(definition: Definition) -> dict[str, str]:
    return {"ETag": f'"{definition.version}"'}
