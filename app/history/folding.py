"""Folding a batch of the log into rows: the pure part of the projector."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from app.core.events import Event
from app.core.execution import Execution
from app.core.lifecycle import evolve
from app.history.schema import microseconds


class Happened(NamedTuple):
    """One event with its offset."""

    offset: int
    event: Event


def fold(known: Mapping[str, Execution], happened: Iterable[Happened]) -> dict[tuple[str, int], Execution]:
    """The runs that these events changed, in their last state, by (execution_id, run).

    known: the latest run of every execution that the events name and that there was before.
    """
    latest = dict(known)
    changed: dict[tuple[str, int], Execution] = {}
    for offset, event in happened:
        before = latest.get(event.execution_id)
        if before is not None and before.tenant != event.tenant:
            continue
        after, refusal = evolve(before, event, offset)
        if refusal is None and isinstance(after, Execution):
            latest[event.execution_id] = after
            changed[after.execution_id, after.run] = after
    return changed


def row_of(execution: Execution, partition: int) -> dict[str, Any]:
    """A row of the table ``executions``."""
    return {
        "execution_id": execution.execution_id,
        "run": execution.run,
        "tenant": execution.tenant,
        "partition": partition,
        "service_id": execution.service_id,
        "runbook_name": execution.runbook.name,
        "status": execution.status.value,
        "dry_run": execution.request.dry_run,
        "terminal": execution.terminal,
        "requested_us": microseconds(execution.request.at),
        "state": execution.model_dump_json(),
    }
