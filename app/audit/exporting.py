"""``audit export``: what was recorded of some executions, record by record, for who has to show it to somebody else.

Records come out as they stand in the log, where secrets stand by name only.
"""

import csv
import io
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import orjson
from pydantic import JsonValue

from app.audit.findings import safe
from app.audit.reading import ESCAPE, Tell, open_log
from app.audit.telling import Said, said_of
from app.core.chain import record_digest
from app.core.errors import RecordRefused
from app.core.events import read_event
from app.core.execution import Execution
from app.core.lifecycle import evolve
from app.core.model import JsonObject
from app.history.items import item_of
from app.streams.connection import KafkaConnection

FORMULAS = ("=", "+", "-", "@", "\t", "\r")
COLUMNS = (
    "partition",
    "offset",
    "when",
    "execution_id",
    "type",
    "who",
    "what",
    "why",
    "digest",
    "before",
    "after",
    "result",
    "refused",
    "sha256",
)


class Entry(NamedTuple):
    """One record: where it stands, when it happened, what it says, and the event as it was written.

    refused: why it changed nothing, None when it did. sha256: of the record, as the anchors of the log have it.
    """

    partition: int
    offset: int
    when: str
    execution_id: str
    type: str
    said: Said
    refused: str | None
    sha256: str
    event: JsonObject

    def shown(self) -> dict[str, Any]:
        """As JSON, in the order of the columns, the event at the end."""
        flat = {**self._asdict(), **self.said._asdict()}
        return {name: flat[name] for name in COLUMNS} | {"event": self.event}


class Exported(NamedTuple):
    """The records in their order, and how each execution whose request was found stands after its last one.

    begins_at: where the log begins now.
    """

    entries: list[Entry]
    executions: dict[str, Execution]
    begins_at: int = 0

    def without_request(self) -> list[str]:
        """The executions of which there are records, and none that they could begin with."""
        named = dict.fromkeys(entry.execution_id for entry in self.entries)
        return [name for name in named if name not in self.executions]

    def why_without(self) -> str:
        """What became of their requests."""
        return f"the log begins at {self.begins_at} now" if self.begins_at else "the log has no request of it"


async def export(
    connection: KafkaConnection, topic: str, tenant: str, execution_ids: Collection[str], progress: Tell
) -> Exported:
    """Read all that the log has of these executions of a tenant.

    Raises RunbooksError or KafkaError.
    """
    named = [name.encode() for name in execution_ids]
    async with open_log(connection, topic, progress, tenant) as log:
        found = Exported([], {}, min(log.starts.values()))
        async for partition, records in log.batches():
            for record in records:
                value = record.value or b""
                if ESCAPE in value or any(name in value for name in named):
                    _take(found, partition, record, (tenant, execution_ids))
    return found


def _take(found: Exported, partition: int, record: Any, whose: tuple[str, Collection[str]]) -> None:
    try:
        event = read_event(record.value)
    except RecordRefused:
        return
    name = event.execution_id
    if event.tenant != whose[0] or name not in whose[1]:
        return
    after, refusal = evolve(found.executions.get(name), event, record.offset)
    if refusal is None and isinstance(after, Execution):
        found.executions[name] = after
    found.entries.append(
        Entry(
            partition=partition,
            offset=record.offset,
            when=event.at.isoformat(),
            execution_id=name,
            type=event.type,
            said=said_of(event),
            refused=None if refusal is None else str(refusal),
            sha256=record_digest(partition, record.offset, record.key, record.value).hex(),
            event=orjson.loads(record.value),
        )
    )


def as_json_lines(exported: Exported) -> Iterator[str]:
    """One object a record."""
    return (orjson.dumps(entry.shown()).decode() for entry in exported.entries)


def as_csv(exported: Exported) -> Iterator[str]:
    """A table with a header; no cell can be taken for a formula."""
    yield _row(COLUMNS)
    for entry in exported.entries:
        shown = entry.shown()
        yield _row([_cell(shown[name]) for name in COLUMNS])


def _cell(value: JsonValue) -> str:
    text = "" if value is None else value if isinstance(value, str) else orjson.dumps(value).decode()
    return f"'{text}" if text.startswith(FORMULAS) else text


def _row(cells: Sequence[str]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="").writerow(cells)
    return text.getvalue()


def as_report(exported: Exported) -> Iterator[str]:
    """A text for a person: of each execution how it stands, then what happened, in order."""
    for name, execution in exported.executions.items():
        item = item_of(execution)
        yield safe(f"Execution {name}")
        for title, value in (
            ("runbook", f"{item.runbook_name} version {item.runbook_version}, digest {execution.runbook.digest()}"),
            ("tenant", execution.tenant),
            ("service", item.service_id),
            ("trigger", item.trigger_anomaly_id and f"anomaly {item.trigger_anomaly_id}"),
            ("requested by", item.requested_by),
            ("approved by", ", ".join(item.approvers)),
            ("status", item.status + (f": {item.reason}" if item.reason else "")),
            ("rollback", None if item.rollback.status == "none" else item.rollback.status),
        ):
            if value:
                yield safe(f"  {title + ':':14}{value}")
        yield ""
        yield from _told_of(exported, name)
    for name in exported.without_request():
        yield safe(f"Execution {name}")
        yield f"  how it began is gone, and how it stood: {exported.why_without()}"
        yield ""
        yield from _told_of(exported, name)


def _told_of(exported: Exported, name: str) -> Iterator[str]:
    for entry in exported.entries:
        if entry.execution_id == name:
            yield from _told(entry)
    yield ""


def _told(entry: Entry) -> Iterator[str]:
    said = entry.said
    yield safe(f"  {entry.when}  {said.what}" + (f", by {said.who}" if said.who else ""))
    details = {"why": said.why, "digest": said.digest, "before": said.before, "after": said.after}
    details |= {"result": said.result, "changed nothing": entry.refused}
    for title, value in details.items():
        if value is not None:
            text = value if isinstance(value, str) else orjson.dumps(value).decode()
            yield safe(f"      {title}: {text}")
    yield f"      record {entry.partition}/{entry.offset}, sha256 {entry.sha256}"
