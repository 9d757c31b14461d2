"""Folding a batch of the log into rows: the pure part of the projector."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, NamedTuple

from app.core.events import Event
from app.core.execution import Execution
from app.core.lifecycle import evolve
from app.history.items import written_item
from app.history.schema import MAX_BIGINT, microseconds, searchable


class Happened(NamedTuple):
    """One event with its offset."""

    offset: int
    event: Event


Runs = dict[tuple[str, int], Execution]
"""States by execution_id and run."""
NO_ITEM: dict[str, Any] = {"item_offset": None, "item": None}


def fold(known: Mapping[str, Execution], happened: Iterable[Happened]) -> Runs:
    """The runs that these events changed, in their last state and in the order they were first changed.

    known: the latest run of every execution that the events name and that there was before.
    """
    latest = dict(known)
    changed: Runs = {}
    for offset, event in happened:
        before = latest.get(event.execution_id)
        if before is not None and before.tenant != event.tenant:
            continue
        after, refusal = evolve(before, event, offset)
        if refusal is None and isinstance(after, Execution):
            latest[event.execution_id] = after
            changed[after.execution_id, after.run] = after
    return changed


def latest_of(changed: Runs) -> dict[str, Execution]:
    """The latest run of each execution among these."""
    return {execution_id: state for (execution_id, _), state in sorted(changed.items(), key=lambda item: item[0][1])}


def row_of(execution: Execution, partition: int, *, shown: bool = True) -> dict[str, Any]:
    """A row of the table ``executions``; shown: with the item that a page shows of it."""
    request, waiting = execution.request, execution.waiting
    return {
        "execution_id": searchable(execution.execution_id),
        "run": execution.run,
        "tenant": execution.tenant,
        "partition": partition,
        "service_id": _searchable(execution.service_id),
        "runbook_name": request.runbook.name,
        "runbook_version": min(request.runbook_version, MAX_BIGINT),
        "trigger_anomaly_id": _searchable(request.anomaly.anomaly_id if request.anomaly else None),
        "status": execution.status.value,
        "dry_run": request.dry_run,
        "terminal": execution.terminal,
        "requested_us": microseconds(request.at),
        "started_us": _microseconds(execution.started_at),
        "finished_us": _microseconds(execution.finished_at),
        "waits_until_us": _microseconds(None if waiting is None else waiting.deadline),
        "last_offset": execution.last_offset,
        "state": execution.model_dump_json(),
        **(_item(execution) if shown else NO_ITEM),
    }


def holds_its_item(item_offset: int | None, last_offset: int, *, terminal: bool) -> bool:
    """Whether a row has the item of its last event, or none while it needs none."""
    return item_offset == last_offset or (item_offset is None and not terminal)


def with_item(row: dict[str, Any]) -> dict[str, Any]:
    """A row as this version writes it, where it is right: with the item that a page makes of it, if it has no own.

    Raises ValueError when its state cannot be read.
    """
    if holds_its_item(row["item_offset"], row["last_offset"], terminal=row["terminal"]):
        return row
    return row | _item(Execution.model_validate_json(row["state"]))


def _item(execution: Execution) -> dict[str, Any]:
    """What a page shows, kept of what has ended: it changes no more, and is asked for again and again."""
    if not execution.terminal:
        return NO_ITEM
    return {"item_offset": execution.last_offset, "item": written_item(execution)}


def _searchable(text: str | None) -> str | None:
    return None if text is None else searchable(text)


def _microseconds(moment: datetime | None) -> int | None:
    return None if moment is None else microseconds(moment)
