"""What all executors share: reading their topic, and telling what they did for as long as it takes."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, Protocol

from faust.types import EventT

from app.core.commands import Command, read_command
from app.core.errors import RecordRefused, TemporaryError
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.receipts import Receipts
from app.streams.records import source_of

RETRY_S = 0.5
LAST_WORDS_S = 10.0
logger = logging.getLogger(__name__)


class Named(Protocol):
    """What belongs to an execution."""

    @property
    def tenant(self) -> str:
        """Whose it is."""

    @property
    def execution_id(self) -> str:
        """Which one."""


async def read_commands(
    records: AsyncIterator[EventT[bytes]], receipts: Receipts, log: Log, figures: Figures
) -> AsyncIterator[tuple[Command, EventT[bytes]]]:
    """The commands of a topic with their events, not acknowledged; what is none is put aside."""
    async for event in records:
        try:
            command = read_command(event.value)
        except RecordRefused as error:
            logger.warning("command_refused", extra={"offset": event.message.offset, "error": str(error)})
            figures.dead_letters.labels(event.message.topic).inc()
            await receipts.settle(event, [await log.send_dead_letter(source_of(event), error)])
        else:
            yield command, event


async def until_taken(named: Named, write: Callable[[], Awaitable[object]]) -> None:
    """Write to the broker, however long it takes: what was done must be known."""
    while True:
        try:
            await write()
        except TemporaryError as error:
            who = {"execution_id": named.execution_id, "tenant": named.tenant}
            logger.warning("log_unreachable", extra={**who, "error": str(error)})
            await asyncio.sleep(RETRY_S)
        else:
            return


async def give_up(running: Sequence["asyncio.Task[Any]"]) -> None:
    """Cancel what is being carried out, and wait until all of it has ended.

    Each is let tell the log how it ended, for some time: where nobody takes that, its lease tells.
    """
    left = set(running)
    for patience_s in (LAST_WORDS_S, None):
        for task in left:
            task.cancel()
        if left:
            _, left = await asyncio.wait(left, timeout=patience_s)
