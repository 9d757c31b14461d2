"""Answers on their way to the ledger: those of one tenant that are made in the same moment share a record.

A record costs several times what an answer in it does: to send, to acknowledge, to read. A lone answer goes in the
next turn of the event loop. While one record of a tenant is on its way, its next answers gather, until that one has
arrived or theirs is full: nothing waits longer than the broker takes for one record.
"""

import asyncio
from collections import Counter, deque
from dataclasses import dataclass, field
from functools import partial

from app.core.answers import Answered, write_answered
from app.streams.log import Log
from app.streams.publisher import Delivery

MAX_TOGETHER = 50
"""Anomalies of one record: its reader makes all of their rows at once."""
MAX_BYTES = 64 * 1024
"""Of one record with several anomalies; one alone may have more."""


@dataclass(slots=True)
class Together:
    """A record that is not sent yet; delivery: done once the broker has it. due: it is to be sent."""

    tenant: str
    delivery: Delivery
    due: bool = False
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def has_room(self, part: bytes) -> bool:
        """Whether one more goes into it."""
        return not self.parts or (len(self.parts) < MAX_TOGETHER and self.size + len(part) <= MAX_BYTES)

    def add(self, part: bytes) -> None:
        """One more."""
        self.parts.append(part)
        self.size += len(part)

    def tell(self, delivery: Delivery) -> None:
        """What became of it."""
        if delivery.cancelled():
            self.delivery.cancel()
        elif (error := delivery.exception()) is not None:
            self.delivery.set_exception(error)
        else:
            self.delivery.set_result(delivery.result())


class Answers:
    """What is to be sent, and by tenant how many records are on their way."""

    def __init__(self, log: Log) -> None:
        """Send through this log."""
        self._log = log
        self._open: dict[str, Together] = {}
        self._due: deque[Together] = deque()
        self._on_way: Counter[str] = Counter()
        self._some_due = asyncio.Event()

    def add(self, tenant: str, answered: Answered) -> Delivery:
        """Have it sent by ``run``; done once the broker has it."""
        part = write_answered(answered)
        record = self._open.get(tenant)
        if record is not None and not record.has_room(part):
            self._close(record)
            record = None
        if record is None:
            record = self._open[tenant] = Together(tenant, asyncio.get_running_loop().create_future())
            if not self._on_way[tenant]:
                self._let_go(record)
        record.add(part)
        return record.delivery

    async def run(self) -> None:
        """Send until cancelled; what is not sent then is not delivered. Raises TemporaryError, RecordTooLarge."""
        while True:
            await self._some_due.wait()
            while self._due:
                record = self._due[0]
                self._close(record)
                delivery = await self._log.send_answers(record.tenant, record.parts)
                delivery.add_done_callback(partial(self._arrived, record))
                self._due.popleft()
            self._some_due.clear()

    def _close(self, record: Together) -> None:
        """Nothing more goes into it."""
        if self._open.get(record.tenant) is record:
            del self._open[record.tenant]
        if not record.due:
            self._let_go(record)

    def _let_go(self, record: Together) -> None:
        """Have it sent; until then there may be more of it."""
        record.due = True
        self._on_way[record.tenant] += 1
        self._due.append(record)
        self._some_due.set()

    def _arrived(self, record: Together, delivery: Delivery) -> None:
        """Tell who waits for the record, and send what was gathered meanwhile."""
        record.tell(delivery)
        self._on_way[record.tenant] -= 1
        if self._on_way[record.tenant]:
            return
        del self._on_way[record.tenant]
        if (gathered := self._open.get(record.tenant)) is not None and not gathered.due:
            self._let_go(gathered)
