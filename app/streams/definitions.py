"""The catalog of one worker: reads ``runbook-definitions`` from its beginning and keeps reading."""

import asyncio
import logging
from collections import OrderedDict
from typing import Protocol

from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer
from app.core.catalog import Catalog, Verdict, read_change
from app.core.errors import RecordRefused
from app.ending import Ended, stopped
from app.streams.connection import KafkaConnection
from app.streams.pausing import Pauses
from app.streams.topics import RUNBOOK_DEFINITIONS

REMEMBERED_VERDICTS = 10_000
logger = logging.getLogger(__name__)


class Place(Protocol):
    """Where a change was recorded."""

    @property
    def offset(self) -> int:
        """Its offset in the one partition."""


class Definitions:
    """The definitions in force, as far as this worker has read."""

    def __init__(self, connection: KafkaConnection) -> None:
        """Build it; ``start`` reads up to the present."""
        self.catalog = Catalog()
        self.pauses = Pauses(self.catalog.pauses)
        self._consumer = Consumer(
            **connection.client_arguments(),
        )
        self._verdicts: OrderedDict[int, Verdict] = OrderedDict()
        self._folded = asyncio.Condition()
        self._next_offset = 0
        self._reading: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read all there is, then go on in the background."""
        await self._consumer.start()
        partition = TopicPartition(RUNBOOK_DEFINITIONS, 0)
        self._consumer.assign([partition])
        self._next_offset = (await self._consumer.beginning_offsets([partition]))[partition]
        end = (await self._consumer.end_offsets([partition]))[partition]
        self._reading = asyncio.create_task(self._read())
        async with self._folded:
            await self._folded.wait_for(lambda: self._next_offset >= end or self._broken())
        self.check()

    async def stop(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            await stopped(self._reading)
        await self._consumer.stop()

    def on_end(self, ended: Ended) -> None:
        """Have this called with the reading once it has ended: from then on no pause would be heard of."""
        assert self._reading is not None
        self._reading.add_done_callback(ended)

    def check(self) -> None:
        """Raise what made the reading stop, if anything did."""
        if self._reading is not None and self._reading.done() and not self._reading.cancelled():
            self._reading.result()

    async def verdict(self, recorded: Place, timeout_s: float) -> Verdict:
        """What the change recorded there led to, once it is in force on this worker.

        Raises TimeoutError after timeout_s seconds, KeyError when it was read too long ago.
        """
        async with asyncio.timeout(timeout_s), self._folded:
            await self._folded.wait_for(lambda: self._next_offset > recorded.offset)
        return self._verdicts[recorded.offset]

    def _broken(self) -> bool:
        return self._reading is not None and self._reading.done()

    async def _read(self) -> None:
        try:
            async for record in self._consumer:
                self._fold(record.offset, record.value)
                async with self._folded:
                    self._folded.notify_all()
        finally:
            async with self._folded:
                self._folded.notify_all()

    def _fold(self, offset: int, value: bytes | None) -> None:
        try:
            verdict = self._verdicts[offset] = self.catalog.apply(read_change(value))
            if verdict.pause is not None:
                self.pauses.tell()
        except RecordRefused as error:
            logger.warning("definition_refused", extra={"offset": offset, "error": str(error)})
            self._verdicts[offset] = Verdict(None, str(error))
        while len(self._verdicts) > REMEMBERED_VERDICTS:
            self._verdicts.popitem(last=False)
        self._next_offset = offset + 1
