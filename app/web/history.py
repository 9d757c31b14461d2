"""The execution history: all executions of a tenant, narrowed and paged."""

import difflib

from aiohttp import web

from app.core.errors import Problem, Refused
from app.core.execution import Status
from app.history.queries import MAX_LIMIT, HistoryFilter
from app.web.answers import HistoryPage
from app.web.auth import caller_of
from app.web.parts import parts_of
from app.web.reading import instant, read_query, truth, whole_number, written_answer

DEFAULT_LIMIT = 20
TEXT = {"type": "string"}
INSTANT = {"type": "string", "format": "date-time"}
PARAMETERS = {
    "service_id": TEXT,
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "cursor": TEXT,
    "status": {"type": "string", "enum": [status.value for status in Status]},
    "runbook_name": TEXT,
    "from": INSTANT,
    "to": INSTANT,
    "dry_run": {"type": "boolean"},
}


async def history(request: web.Request) -> web.Response:
    """The execution history, newest first."""
    given = read_query(request, PARAMETERS)
    limit = whole_number("limit", given.get("limit", str(DEFAULT_LIMIT)), 1, MAX_LIMIT)
    found = await parts_of(request).history.page(
        caller_of(request).tenant, _wanted(given), limit=limit, cursor=given.get("cursor")
    )
    return written_answer(HistoryPage.written(found.items, found.next_cursor))


def _wanted(given: dict[str, str]) -> HistoryFilter:
    status = given.get("status")
    if status is not None and status not in set(Status):
        near = difflib.get_close_matches(status, list(Status), n=1, cutoff=0.5)
        raise Refused([Problem("status", f"'{status}' is no status", near[0] if near else None)])
    return HistoryFilter(
        service_id=given.get("service_id"),
        runbook_name=given.get("runbook_name"),
        status=status,
        dry_run=truth("dry_run", given["dry_run"]) if "dry_run" in given else None,
        since=instant("from", given["from"]) if "from" in given else None,
        until=instant("to", given["to"]) if "to" in given else None,
    )
