"""``audit replay``: executions as they stood then, folded from the log and from nothing else."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from app.audit.findings import safe
from app.audit.reading import ESCAPE, Tell, open_log
from app.core.errors import RecordRefused
from app.core.events import Event, read_event
from app.core.execution import Execution
from app.core.lifecycle import evolve
from app.history.items import item_of
from app.streams.connection import KafkaConnection

AsOf = datetime | int
"""A moment, or an offset in the tenant's partition; both are included."""


class Wanted(NamedTuple):
    """What is replayed: of which tenant, as of when; execution_id None means all of the tenant's executions."""

    tenant: str
    as_of: AsOf
    execution_id: str | None = None


@dataclass(slots=True)
class Replayed:
    """How it stood: the latest run of each execution, in the order of their first request.

    partition: the tenant's. last_offset: of the last record that was folded, None when there was none. begins_at: where
    the log begins now. unreadable: records that are no events. later: records of the tenant that came after.
    """

    partition: int
    begins_at: int
    last_offset: int | None = None
    executions: dict[str, Execution] = field(default_factory=dict)
    unreadable: int = 0
    later: int = 0


async def replay(connection: KafkaConnection, topic: str, wanted: Wanted, progress: Tell) -> Replayed:
    """Fold the tenant's partition from its beginning.

    Raises RunbooksError or KafkaError.
    """
    async with open_log(connection, topic, progress, wanted.tenant) as log:
        ((partition, begins_at),) = log.starts.items()
        replayed = Replayed(partition, begins_at)
        ended: set[str] = set()
        named = None if wanted.execution_id is None else wanted.execution_id.encode()
        async for _, records in log.batches():
            for record in records:
                value = record.value or b""
                if named is not None and named not in value and ESCAPE not in value:
                    continue
                try:
                    event = read_event(record.value)
                except RecordRefused:
                    replayed.unreadable += 1
                    continue
                if _is_wanted(event, wanted):
                    _take(replayed, ended, event, record.offset, wanted.as_of)
    return replayed


def _is_wanted(event: Event, wanted: Wanted) -> bool:
    return event.tenant == wanted.tenant and wanted.execution_id in {None, event.execution_id}


def _take(replayed: Replayed, ended: set[str], event: Event, offset: int, as_of: AsOf) -> None:
    """Fold one event, unless it or one before it of the same execution came later: a fold has no holes."""
    name = event.execution_id
    late = offset > as_of if isinstance(as_of, int) else event.at > as_of
    if late or name in ended:
        ended.add(name)
        replayed.later += 1
        return
    replayed.last_offset = offset
    after, refusal = evolve(replayed.executions.get(name), event, offset)
    if refusal is None and isinstance(after, Execution):
        replayed.executions[name] = after


def told(replayed: Replayed) -> Iterator[str]:
    """A text for a person: a line an execution, and what the answer rests on."""
    for name, execution in replayed.executions.items():
        reason = f": {execution.reason}" if execution.reason else ""
        runbook = f"{execution.runbook.name} version {execution.request.runbook_version}"
        yield safe(f"{name}  {runbook}  {execution.status}{reason}  (record {execution.last_offset})")
    yield f"{len(replayed.executions):,} executions in partition {replayed.partition}, {_rests_on(replayed)}"


def _rests_on(replayed: Replayed) -> str:
    last = "no record" if replayed.last_offset is None else f"records up to {replayed.last_offset}"
    gone = f"; the log begins at {replayed.begins_at}: what was before is gone" if replayed.begins_at else ""
    unreadable = f"; {replayed.unreadable:,} records are no events" if replayed.unreadable else ""
    return f"folded from {last}, {replayed.later:,} came later{gone}{unreadable}"


def shown(replayed: Replayed) -> dict[str, Any]:
    """As JSON: each execution as the history shows it."""
    return {
        "partition": replayed.partition,
        "log_begins_at": replayed.begins_at,
        "last_offset": replayed.last_offset,
        "later_records": replayed.later,
        "unreadable_records": replayed.unreadable,
        "executions": [
            {"run": one.run, "last_offset": one.last_offset, **item_of(one).model_dump(mode="json")}
            for one in replayed.executions.values()
        ],
    }
