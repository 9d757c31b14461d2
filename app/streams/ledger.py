"""Which commands were ever taken, by whom, and which of them are done: the Faust table ``step_ledger``.

All groups of a family have one, whose changelog is the whole workers': what was done goes with a kind of step that is
given to another group.
"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, NamedTuple, cast

import orjson
from aiokafka.errors import KafkaError

from app.core.errors import TemporaryError
from app.core.model import JsonObject
from app.streams.membership import Membership
from app.streams.publisher import Publisher
from app.streams.rows import Outline
from app.streams.tables import DeferredTable

TABLE = "step_ledger"
COMMANDS_KEPT = timedelta(days=7)
"""As long as the command topics keep their records, or a while longer: Kafka deletes whole segments."""
LEDGER_KEPT = COMMANDS_KEPT + timedelta(days=1)
"""Who does not know where to begin reads no older commands than these, and is given a day for it."""

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


def is_newer_claim(before: JsonObject, row: JsonObject) -> bool:
    """Whether a row of the ledger may stand in the place of another one: what is done stays so."""
    return bool(row.get("done")) or not before.get("done")


def outline_of_claim(row: JsonObject) -> Outline:
    """What the table must know of a row; where messages were posted is needed in memory."""
    claim: Any = row
    until = datetime.fromisoformat(claim["at"]) + LEDGER_KEPT
    return Outline(claim["partition"], until, indexed="posted" in claim)


class Ledger:
    """The table's rows.

    channels: the ids of the places that messages were posted to, by what they were called.
    """

    def __init__(self, table: DeferredTable, publisher: Publisher, incarnation: str, membership: Membership) -> None:
        """Keep the parts; incarnation names this run of this worker."""
        self.incarnation = incarnation
        self.channels: dict[str, str] = {}
        self._table = table
        self._publisher = publisher
        self._membership = membership

    def recover(self) -> None:
        """Read, after every rebalance, where messages were posted."""
        rows = [orjson.loads(row.value) for row in self._table.rows.indexed()]
        for row in sorted(rows, key=lambda one: datetime.fromisoformat(one["at"])):
            posted = Posted(*row["posted"])
            self.channels[posted.to] = posted.channel_id

    def find(self, command_id: str) -> Entry | None:
        """What is known of it; None when nobody took it. A row from before it could be done is one that is not."""
        row = self._row(command_id)
        if row is None:
            return None
        posted = Posted(*row["posted"]) if "posted" in row else None
        return Entry(row["incarnation"], datetime.fromisoformat(row["at"]), row.get("done", False), posted)

    async def claim(self, command_id: str, partition: int, now: datetime) -> Claimed:
        """Take it for this worker."""
        turn = self._membership.turn
        self._put(command_id, {"partition": partition, "incarnation": self.incarnation, "at": now.isoformat()})
        for row in self._table.rows.expired(partition, now):
            self._table.drop(row)
        deliveries = await self._table.send_changes(self._publisher)

        async def claimed() -> bool:
            await asyncio.gather(*deliveries)
            return await self._membership.is_certain(turn)

        return claimed

    async def finish(self, command_id: str, posted: Posted | None = None) -> None:
        """Write that nothing is left to do, and wait until the broker has it.

        Raises TemporaryError when the broker does not take it. A row that went with its partition is left alone.
        """
        row = self._row(command_id)
        if row is None:
            return
        self._put(command_id, {**row, "done": True} | ({} if posted is None else {"posted": list(posted)}))
        try:
            await asyncio.gather(*await self._table.send_changes(self._publisher))
        except KafkaError as error:
            raise TemporaryError(f"Kafka did not acknowledge a record of the ledger: {error!r}") from error

    def _row(self, command_id: str) -> dict[str, Any] | None:
        row = self._table.rows.find(command_id)
        return None if row is None else cast("dict[str, Any]", orjson.loads(row.value))

    def _put(self, command_id: str, row: dict[str, Any]) -> None:
        self._table.put(command_id, orjson.dumps(row), outline_of_claim(row))
