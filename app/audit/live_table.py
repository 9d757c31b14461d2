"""The live table ``executions`` beside the log, read from its changelog."""

from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

import orjson
from pydantic import ValidationError

from app.audit.findings import Difference, Report
from app.audit.folding import Known, Position
from app.audit.reading import open_log
from app.core.execution import Execution, Marker
from app.streams.connection import KafkaConnection
from app.streams.group_offsets import group_offsets
from app.streams.index import state_of

SHOWN = 100  # characters of a key that is none


class LiveTable:
    """The newest row of each execution in one partition, as the changelog gives them."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[str, bytes] = {}
        self._nameless: list[tuple[int, str]] = []

    def take(self, key: bytes | None, value: bytes | None, offset: int) -> None:
        """Take the next record; one without a value deletes its key, one whose key is no id is told of later."""
        name = _name_in(key)
        if name is None:
            self._nameless.append((offset, repr(key)[:SHOWN]))
        elif value is None:
            self._rows.pop(name, None)
        else:
            self._rows[name] = value

    def pass_over(self, begins_at: int, known: Collection[str]) -> None:
        """Forget live executions of which the log has nothing, as it begins after their request."""
        for name, row in [*self._rows.items()] if begins_at > 0 else ():
            state = _says(row)
            if isinstance(state, Execution) and state.run < begins_at and name not in known:
                del self._rows[name]

    def tell_of_keys(self, partition: int, report: Report) -> None:
        """Report every record whose key is no execution's id; its offset is one of the changelog."""
        for offset, key in self._nameless:
            detail = f"the key of record {offset} of the changelog is no execution's id: {key}"
            report(Difference(partition, offset, "table", "", detail))

    def has(self, execution_id: str) -> bool:
        """Whether there is a row of this execution."""
        return execution_id in self._rows

    def live(self, end: int) -> Iterator[Execution]:
        """The executions that have not ended and stand before offset end, by id."""
        states = (_says(self._rows[name]) for name in sorted(self._rows))
        return (one for one in states if isinstance(one, Execution) and one.last_offset < end)

    def compare(self, position: Position, folded_by_workers: int, log_end: int, report: Report) -> int:
        """Report every row that is not what the log comes to; how many could not be compared.

        folded_by_workers: the offset up to which the workers have surely written their changes. What moved on since
        the end of the audit, or is not written yet, cannot be compared. log_end: of the log, asked for after the table
        was read: no row is of a later event.
        """
        left_out = 0
        for name, known in position.known.items():
            row, last_offset = self._rows.pop(name, None), known.state.last_offset or 0
            state = None if row is None else _says(row)
            if state == known.state:
                continue
            stands_at = _last_offset(state)
            moved = position.next_offset <= stands_at < log_end
            readable = row is None or state is not None
            if moved or (readable and stands_at < last_offset >= folded_by_workers):
                left_out += 1
            elif row is not None or not isinstance(known.state, Marker):  # an old marker may be gone already
                self._tell(report, position.partition, known, "missing" if row is None else "different")
        self._extra(position, log_end, report)
        return left_out

    def _extra(self, position: Position, log_end: int, report: Report) -> None:
        """What the table has and the log does not: markers outlive their window, and the end of the audit is no end."""
        for name, row in self._rows.items():
            state = _says(row)
            stands_at = _last_offset(state)
            if state is None:
                detail = "the live table's row cannot be read"
            elif stands_at >= log_end:
                detail = f"the live table's row is of an event at {stands_at}, and the log ends at {log_end}"
            elif isinstance(state, Execution) and stands_at < position.next_offset:
                detail = "the live table has a live execution that the log does not"
            else:
                continue
            report(Difference(position.partition, stands_at, "table", name, detail))

    def _tell(self, report: Report, partition: int, known: Known, how: str) -> None:
        state = known.state
        detail = f"the live table's row is {how}; the log says {state.status}"
        report(Difference(partition, state.last_offset or state.run, "table", state.execution_id, detail))


class LiveTables(NamedTuple):
    """The tables by partition, and up to where the workers have surely written their changes to them.

    A partition that they have told nothing of has no offset in acknowledged, and its rows cannot be compared.
    """

    rows: dict[int, LiveTable]
    acknowledged: dict[int, int]

    def of(self, partition: int) -> LiveTable:
        """The table of one partition."""
        return self.rows.get(partition, LiveTable())

    def folded(self, partition: int, end: int) -> int | None:
        """Up to where the workers have written a partition that ends at an offset; None where they do not say."""
        return self.acknowledged.get(partition, None if end > 0 else 0)

    def comparable(self, partition: int, end: int, report: Report) -> tuple[LiveTable, int] | None:
        """A partition's table, and up to where the workers have written it; None where they do not say.

        Records whose key is no id are reported.
        """
        table, folded = self.of(partition), self.folded(partition, end)
        table.tell_of_keys(partition, report)
        return None if folded is None else (table, folded)

    def notes(self, group: str | None, ends: Mapping[int, int]) -> Iterator[str]:
        """What is left out, of partitions that end at these offsets."""
        unknown = [str(number) for number, end in ends.items() if self.folded(number, end) is None]
        if unknown:
            where = ", ".join(unknown)
            yield f"the group {group} has no offset for partition {where}: the live table was not compared there"


async def read_live_tables(connection: KafkaConnection, topic: str, group: str | None, log: str) -> LiveTables:
    """The table of each partition, from its changelog; group: of the workers, log: the topic that they fold into it.

    Raises RunbooksError, NoSuchTopic among them, or KafkaError.
    """
    # asked before the end of the changelog is: what they have written by then stands in it
    acknowledged = {} if group is None else await group_offsets(connection, group, log)
    async with open_log(connection, topic, lambda _: None) as changelog:
        tables = {number: LiveTable() for number in changelog.ends}
        async for number, records in changelog.batches():
            for record in records:
                tables[number].take(record.key, record.value, record.offset)
    return LiveTables(tables, acknowledged)


def _name_in(key: bytes | None) -> str | None:
    try:
        name = orjson.loads(key or b"")
    except orjson.JSONDecodeError:
        return None
    return name if isinstance(name, str) else None


def _says(row: bytes) -> Execution | Marker | None:
    try:
        return state_of(row)
    except (ValidationError, KeyError, TypeError, orjson.JSONDecodeError):
        return None


def _last_offset(state: Execution | Marker | None) -> int:
    return -1 if state is None or state.last_offset is None else state.last_offset
