"""How much waits to be read: where topics end, asked of the broker every few seconds, and the dead letters."""

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from app.clients.kafka import Consumer, Standing, time_of
from app.streams.connection import KafkaConnection
from app.streams.dead_letters import LETTERS, requeued_offset

EVERY_S = 5.0
MAX_LETTERS = 10_000
LATELY = timedelta(hours=1)
logger = logging.getLogger(__name__)


class Span(NamedTuple):
    """The first offset that a partition holds, and the one after its last."""

    begin: int
    end: int


class DeadLetterCount:
    """The dead letters that nobody has requeued.

    The newest 10,000 are known one by one. Of older ones only the number is, and all of them are taken to wait.
    """

    def __init__(self, span: Span, kept: int = MAX_LETTERS) -> None:
        """Nothing is read yet; what the span holds before ``next_offset`` is not read at all."""
        self._kept = kept
        self.next_offset = max(span.begin, span.end - kept)
        self._older_end = self.next_offset
        self._older = self.next_offset - span.begin
        self._waiting: OrderedDict[int, datetime | None] = OrderedDict()

    def take(self, record: ConsumerRecord) -> None:
        """The next record of the topic: a letter, or the note that one was requeued."""
        self.next_offset = record.offset + 1
        requeued = requeued_offset(record)
        if requeued is None:
            self._waiting[record.offset] = time_of(record)
        elif self._waiting.pop(requeued, None) is None and requeued < self._older_end:
            self._older = max(0, self._older - 1)
        if len(self._waiting) > self._kept:
            self._older_end = self._waiting.popitem(last=False)[0] + 1
            self._older += 1

    def drop_before(self, begin: int) -> None:
        """Forget what the broker has deleted."""
        if begin >= self._older_end:
            self._older = 0
        while self._waiting and next(iter(self._waiting)) < begin:
            self._waiting.popitem(last=False)

    def waiting(self) -> int:
        """How many wait."""
        return self._older + len(self._waiting)

    def since(self, at: datetime) -> int:
        """How many of those that wait have arrived since then; not one of which nobody can say when."""
        return sum(1 for arrived in self._waiting.values() if arrived is not None and arrived >= at)


Reader = Callable[[], Mapping[TopicPartition, Standing]]
"""Where a reader stands in the partitions that are its own."""


class Lag(NamedTuple):
    """How far a reader is behind in one topic, over all its partitions.

    events: records it has not done with. seconds: at most so long it has not been at the end.
    """

    events: int
    seconds: float


class Backlog:
    """Asks the broker every few seconds, and answers from memory."""

    def __init__(
        self,
        connection: KafkaConnection,
        readers: Iterable[Reader],
        clock: Callable[[], datetime],
        every_s: float,
        *,
        counts_letters: bool = True,
    ) -> None:
        """Ask for the partitions of these readers; who does not count dead letters needs no right to read them."""
        self._counts_letters = counts_letters
        self._connection = connection
        self._readers = tuple(readers)
        self._clock = clock
        self._every_s = every_s
        self._spans: dict[TopicPartition, Span] = {}
        self._level: dict[TopicPartition, datetime] = {}
        self._letters: DeadLetterCount | None = None

    def lags(self, reader: Reader) -> dict[str, Lag]:
        """How far one reader is behind, by topic; topics whose ends are not known are left out."""
        found: dict[str, Lag] = {}
        for place, standing in reader().items():
            span = self._spans.get(place)
            if span is not None:
                one, so_far = self._lag(place, standing, span), found.get(place.topic, Lag(0, 0.0))
                found[place.topic] = Lag(so_far.events + one.events, max(so_far.seconds, one.seconds))
        return found

    def waiting_letters(self) -> int | None:
        """How many dead letters wait; None while that is not known."""
        return None if self._letters is None else self._letters.waiting()

    def warnings(self) -> list[str]:
        """What somebody should look at, though the worker can do its work."""
        count = 0 if self._letters is None else self._letters.since(self._clock() - LATELY)
        said = "records were" if count > 1 else "record was"
        look = "look at them with `runbooks dead-letters list`"
        return [f"{count} {said} put on dead-letters within the last hour and not requeued: {look}"] if count else []

    async def run(self) -> None:
        """Ask until cancelled; while no broker answers nothing is known."""
        while True:
            consumer = Consumer(**self._connection.client_arguments())
            try:
                await consumer.start()
                await self._ask_on(consumer)
            except KafkaError as error:
                logger.warning("backlog_unknown", extra={"error": repr(error)})
            finally:
                await consumer.stop()
            self._spans, self._letters = {}, None
            await asyncio.sleep(self._every_s)

    async def _ask_on(self, consumer: Consumer) -> None:
        if self._counts_letters:
            consumer.assign([LETTERS])
        while True:
            places = {place for reader in self._readers for place in reader()} | set(consumer.assignment())
            begins, ends = await consumer.beginning_offsets(places), await consumer.end_offsets(places)
            self._spans = {place: Span(begins[place], ends[place]) for place in places}
            self._note_level()
            if self._counts_letters:
                await self._read_letters(consumer, self._spans[LETTERS])
            await asyncio.sleep(self._every_s)

    async def _read_letters(self, consumer: Consumer, span: Span) -> None:
        letters = self._letters
        if letters is None or span.end < letters.next_offset:  # the topic was made anew
            letters = DeadLetterCount(span)
            consumer.seek(LETTERS, letters.next_offset)
        while await consumer.position(LETTERS) < span.end:
            for records in (await consumer.getmany(LETTERS, timeout_ms=1000)).values():
                for record in records:
                    letters.take(record)
        letters.drop_before(span.begin)
        self._letters = letters

    def _note_level(self) -> None:
        """Remember which partitions were read to their end just now."""
        now = self._clock()
        standings = {place: one for reader in self._readers for place, one in reader().items()}
        seen = {place: at for place, at in self._level.items() if place in standings}
        level = (p for p, one in standings.items() if p in self._spans and _events(one, self._spans[p]) == 0)
        self._level = seen | dict.fromkeys(level, now)

    def _lag(self, place: TopicPartition, standing: Standing, span: Span) -> Lag:
        events = _events(standing, span)
        if events == 0:
            return Lag(0, 0.0)
        since = max(standing.at, self._level.get(place, standing.at))
        return Lag(events or 0, max(0.0, (self._clock() - since).total_seconds()))


def _events(standing: Standing, span: Span) -> int | None:
    """How many records are left; None while nobody knows, of a partition that holds any."""
    if standing.next_offset is None:
        return None if span.end > span.begin else 0
    return max(0, span.end - max(standing.next_offset, span.begin))
