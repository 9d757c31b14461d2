"""The live table ``executions`` beside the log, read from its changelog."""

from collections.abc import Iterator

import orjson
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import KafkaError
from pydantic import ValidationError

from app.audit.findings import Difference, Report
from app.audit.folding import Known, Position
from app.audit.reading import open_log
from app.core.execution import Execution, Marker
from app.streams.connection import KafkaConnection
from app.streams.index import state_of


class LiveTable:
    """The newest row of each execution in one partition, as the changelog gives them."""

    def __init__(self) -> None:
        """Start empty."""
        self._rows: dict[str, bytes] = {}

    def take(self, key: bytes | None, value: bytes | None) -> None:
        """Take the next record; one without a value deletes its key."""
        name = orjson.loads(key or b'""')
        if value is None:
            self._rows.pop(name, None)
        else:
            self._rows[name] = value

    def has(self, execution_id: str) -> bool:
        """Whether there is a row of this execution."""
        return execution_id in self._rows

    def live(self, end: int) -> Iterator[Execution]:
        """The executions that have not ended and stand before offset end, by id."""
        states = (_says(self._rows[name]) for name in sorted(self._rows))
        return (one for one in states if isinstance(one, Execution) and one.last_offset < end)

    def compare(self, position: Position, folded_by_workers: int, report: Report) -> int:
        """Report every row that is not what the log comes to; how many could not be compared.

        folded_by_workers: the offset up to which the workers have surely written their changes. What moved on since
        the end of the audit, or is not written yet, cannot be compared.
        """
        left_out = 0
        for name, known in position.known.items():
            row, last_offset = self._rows.pop(name, None), known.state.last_offset or 0
            if row is not None and _says(row) == known.state:
                continue
            moved = row is not None and _last_offset(row) >= position.next_offset
            if moved or last_offset >= folded_by_workers:
                left_out += 1
            elif row is not None or not isinstance(known.state, Marker):  # an old marker may be gone already
                self._tell(report, position.partition, known, "missing" if row is None else "different")
        return left_out + self._extra(position, report)

    def _extra(self, position: Position, report: Report) -> int:
        """What the table has and the log does not: markers outlive their window, and the end of the audit is no end."""
        for name, row in self._rows.items():
            state = _says(row)
            if isinstance(state, Execution) and _last_offset(row) < position.next_offset:
                detail = "the live table has a live execution that the log does not"
                report(Difference(position.partition, state.last_offset, "table", name, detail))
            elif state is None:
                report(Difference(position.partition, -1, "table", name, "the live table's row cannot be read"))
        return 0

    def _tell(self, report: Report, partition: int, known: Known, how: str) -> None:
        state = known.state
        detail = f"the live table's row is {how}; the log says {state.status}"
        report(Difference(partition, state.last_offset or state.run, "table", state.execution_id, detail))


async def acknowledged(connection: KafkaConnection, group: str | None, topic: str) -> dict[int, int]:
    """How far the workers have acknowledged each partition of the log; nothing where nobody says."""
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    await admin.start()
    try:
        found = await admin.list_consumer_group_offsets(group)
    except KafkaError:
        return {}
    finally:
        await admin.close()
    return {at.partition: place.offset for at, place in found.items() if at.topic == topic}


async def read_live_tables(connection: KafkaConnection, topic: str) -> dict[int, LiveTable]:
    """The table of each partition, from its changelog.

    Raises RunbooksError, NoSuchTopic among them, or KafkaError.
    """
    async with open_log(connection, topic, lambda _: None) as log:
        tables = {number: LiveTable() for number in log.ends}
        async for number, records in log.batches():
            for record in records:
                tables[number].take(record.key, record.value)
    return tables


def _says(row: bytes) -> Execution | Marker | None:
    try:
        return state_of(row)
    except (ValidationError, KeyError, TypeError, orjson.JSONDecodeError):
        return None


def _last_offset(row: bytes) -> int:
    state = _says(row)
    return -1 if state is None or state.last_offset is None else state.last_offset
