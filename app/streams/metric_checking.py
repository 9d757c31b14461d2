"""The agent ``check_metrics``: readings of metrics, a few at once, each answered into the log whatever comes of it."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime

from faust.types import EventT

from app.actions.metric_reading import MetricReader
from app.core.commands import MetricCommand
from app.core.events import MetricChecked
from app.core.measuring import Measured, failed
from app.streams.commanding import give_up, read_commands, until_taken
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.receipts import Receipts
from app.streams.tracing import CommandTracing

MAX_DETAIL = 1000
logger = logging.getLogger(__name__)


class MetricChecker:
    """Carries out metric commands.

    A command is acknowledged once its answer is on the broker. One that comes again is read again: the engine takes
    the first answer, and a reading changes nothing. tracing: None where no traces are exported.
    """

    def __init__(
        self, reader: MetricReader, log: Log, clock: Callable[[], datetime], figures: Figures, *, concurrency: int
    ) -> None:
        """Keep the parts; concurrency bounds how many readings are made at once."""
        self._reader = reader
        self._log = log
        self._clock = clock
        self._figures = figures
        self._room = asyncio.Semaphore(concurrency)
        self._running: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.tracing: CommandTracing | None = None

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        async for command, event in read_commands(records, receipts, self._log, self._figures):
            if isinstance(command, MetricCommand):
                await self.take(command, event)
            else:  # it was put on the wrong topic
                event.ack()

    async def take(self, command: MetricCommand, event: EventT[bytes]) -> None:
        """Begin a reading, as soon as there is room; none once it is stopped."""
        await self._room.acquire()
        if self._stopping:
            self._room.release()
            return
        if self.tracing is not None:
            self.tracing.begin(command, event.message.headers)
        task = asyncio.create_task(self._check(command, event))
        self._running.add(task)
        task.add_done_callback(lambda done: self._ended(command, done))

    def _ended(self, command: MetricCommand, task: "asyncio.Task[None]") -> None:
        self._running.discard(task)
        self._room.release()
        if self.tracing is not None:
            self.tracing.end(command.command_id)

    async def _check(self, command: MetricCommand, event: EventT[bytes]) -> None:
        at = self._clock()
        found = await self._measured(command, at)
        self._figures.metric_readings.labels(self._reader.name, found.result).inc()
        answer = MetricChecked(
            tenant=command.tenant,
            execution_id=command.execution_id,
            at=at,
            moment=command.moment,
            run=command.run,
            attempt=command.attempt,
            value=found.value,
            detail=found.detail[:MAX_DETAIL],
        )
        await until_taken(answer, lambda: self._log.publish_event(answer))
        if self.tracing is not None:
            self.tracing.came_to(command.command_id, found.result)
        event.ack()

    async def _measured(self, command: MetricCommand, at: datetime) -> Measured:
        """A reader that breaks must not leave an execution without an answer: there is no data then."""
        try:
            return await self._reader.read(command, at)
        except Exception as error:
            named = {"tenant": command.tenant, "execution_id": command.execution_id, "command_id": command.command_id}
            logger.exception("metric_reading_broke", extra=named)
            return failed(f"reading the metric broke: {type(error).__name__}")

    async def stop(self) -> None:
        """Give up the readings that are being made: their commands are not acknowledged, and come again."""
        self._stopping = True
        await give_up(list(self._running))

    def in_flight(self) -> int:
        """How many readings are being made."""
        return len(self._running)
