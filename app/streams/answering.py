"""Answers on their way to the ledger: those of a tenant that are made in one turn of the event loop share a record.

A record costs several times what an answer in it does: to send, to acknowledge, to read. A lone answer goes in the
next turn; nothing waits for others to come.
"""

import asyncio
from dataclasses import dataclass, field

from app.core.answers import Answered, write_answered
from app.streams.log import Log
from app.streams.publisher import Delivery

MAX_TOGETHER = 50
"""Anomalies of one record: its reader makes all of their rows at once."""
MAX_BYTES = 64 * 1024
"""Of one record with several anomalies; one alone may have more."""


@dataclass(slots=True)
class Together:
    """A record that is not sent yet; delivery: done once the broker has it."""

    tenant: str
    delivery: Delivery
    parts: list[bytes] = field(default_factory=list)
    size: int = 0

    def has_room(self, part: bytes) -> bool:
        """Whether one more goes into it."""
        return not self.parts or (len(self.parts) < MAX_TOGETHER and self.size + len(part) <= MAX_BYTES)

    def add(self, part: bytes) -> None:
        """One more."""
        self.parts.append(part)
        self.size += len(part)

    def sent(self, delivery: Delivery) -> None:
        """It is delivered when this is."""
        delivery.add_done_callback(self._tell)

    def _tell(self, delivery: Delivery) -> None:
        if delivery.cancelled():
            self.delivery.cancel()
        elif (error := delivery.exception()) is not None:
            self.delivery.set_exception(error)
        else:
            self.delivery.set_result(delivery.result())


class Answers:
    """What is to be sent."""

    def __init__(self, log: Log) -> None:
        """Send through this log."""
        self._log = log
        self._due: list[Together] = []
        self._open: dict[str, Together] = {}
        self._some = asyncio.Event()

    def add(self, tenant: str, answered: Answered) -> Delivery:
        """Have it sent by ``run``; done once the broker has it."""
        part = write_answered(answered)
        record = self._open.get(tenant)
        if record is None or not record.has_room(part):
            record = self._open[tenant] = Together(tenant, asyncio.get_running_loop().create_future())
            self._due.append(record)
            self._some.set()
        record.add(part)
        return record.delivery

    async def run(self) -> None:
        """Send until cancelled; what is not sent then is not delivered. Raises TemporaryError, RecordTooLarge."""
        while True:
            await self._some.wait()
            self._some.clear()
            due, self._due = self._due, []
            self._open.clear()
            for record in due:
                record.sent(await self._log.send_answers(record.tenant, record.parts))
