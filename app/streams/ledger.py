"""Which commands were ever taken, by whom, and which of them are done: the Faust table ``step_ledger``."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError

from app.core.errors import TemporaryError
from app.streams.membership import Membership
from app.streams.publisher import Publisher
from app.streams.tables import DeferredTable

LEDGER_KEPT = timedelta(days=7)
"""As long as the command topics keep their records: an older command cannot come again."""


Claimed = Callable[[], Awaitable[bool]]
"""Waits until a claim is on the broker; whether everybody who may take the command from now on has to see it there."""


class Posted(NamedTuple):
    """Where a message stands, and to whom it was posted: a channel's name, mostly."""

    channel_id: str
    ts: str
    to: str


class Entry(NamedTuple):
    """One command in the ledger: which worker took it, and when.

    done: nothing is left to do for it. posted: the message that it posted or changed.
    """

    incarnation: str
    at: datetime
    done: bool = False
    posted: Posted | None = None


def is_newer_claim(before: dict[str, Any], row: dict[str, Any]) -> bool:
    """Whether a row of the ledger may stand in the place of another one: what is done stays so."""
    return row.get("done", False) or not before.get("done", False)


class Ledger:
    """The table's rows, and their order by age.

    channels: the ids of the places that messages were posted to, by what they were called.
    """

    def __init__(self, table: DeferredTable, publisher: Publisher, incarnation: str, membership: Membership) -> None:
        """Keep the parts; incarnation names this run of this worker."""
        self.incarnation = incarnation
        self.channels: dict[str, str] = {}
        self._table = table
        self._publisher = publisher
        self._membership = membership
        self._ages: dict[int, deque[tuple[datetime, str]]] = {}

    def recover(self) -> None:
        """Order what the table holds by age, after every rebalance."""
        self._ages.clear()
        rows = [(datetime.fromisoformat(row["at"]), name, row) for name, row in self._table.items()]
        for at, name, row in sorted(rows, key=lambda one: one[:2]):
            self._ages.setdefault(row["partition"], deque()).append((at, name))
            if "posted" in row:
                posted = Posted(*row["posted"])
                self.channels[posted.to] = posted.channel_id

    def find(self, command_id: str) -> Entry | None:
        """What is known of it; None when nobody took it. A row from before it could be done is one that is not."""
        row = self._table.get(command_id)
        if row is None:
            return None
        posted = Posted(*row["posted"]) if "posted" in row else None
        return Entry(row["incarnation"], datetime.fromisoformat(row["at"]), row.get("done", False), posted)

    async def claim(self, command_id: str, partition: int, now: datetime) -> Claimed:
        """Take it for this worker."""
        turn = self._membership.turn
        self._table[command_id] = {"partition": partition, "incarnation": self.incarnation, "at": now.isoformat()}
        ages = self._ages.setdefault(partition, deque())
        ages.append((now, command_id))
        while ages[0][0] < now - LEDGER_KEPT:
            self._table.pop(ages.popleft()[1], None)
        deliveries = await self._table.send_changes(self._publisher)

        async def claimed() -> bool:
            await asyncio.gather(*deliveries)
            return await self._membership.is_certain(turn)

        return claimed

    async def finish(self, command_id: str, posted: Posted | None = None) -> None:
        """Write that nothing is left to do, and wait until the broker has it.

        Raises TemporaryError when the broker does not take it. A row that went with its partition is left alone.
        """
        row = self._table.get(command_id)
        if row is None:
            return
        self._table[command_id] = {**row, "done": True} | ({} if posted is None else {"posted": list(posted)})
        try:
            await asyncio.gather(*await self._table.send_changes(self._publisher))
        except KafkaError as error:
            raise TemporaryError(f"Kafka did not acknowledge a record of the ledger: {error!r}") from error
