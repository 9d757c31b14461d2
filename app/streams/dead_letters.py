"""What stands on ``dead-letters``: records that were put aside, and notes that one of them was put back.

A note is a record with an empty value. Its header ``requeued`` names the offset of the letter, ``by`` who did it,
``to`` where the record stands now.
"""

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Self

from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition

from app.clients.kafka import Consumer, time_of
from app.core.errors import RunbooksError, TemporaryError
from app.streams.connection import KafkaConnection
from app.streams.topics import DEAD_LETTERS

REQUEUED = "requeued"
LETTERS = TopicPartition(DEAD_LETTERS, 0)
READ_AT_ONCE = 100
LISTED_BYTES = 400
OFFSET_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Note:
    """That a letter was put back: its offset, by whom, when, and where it stands now; at: None as of ``time_of``."""

    letter: int
    by: str
    at: datetime | None
    to: str

    @classmethod
    def of(cls, record: ConsumerRecord) -> Self | None:
        """The note in a record; None when it is a letter."""
        letter = requeued_offset(record)
        if letter is None:
            return None
        headers = headers_of(record)
        return cls(letter, headers.get("by", ""), time_of(record), headers.get("to", ""))


@dataclass(frozen=True, slots=True)
class Letter:
    """One record that could not be read.

    headers: where it stood, and why it was put aside; ``cut`` when it was not kept whole. value: its first bytes where
    not all were asked for; size is how many are kept. requeued: None where nobody has put it back. arrived: None as of
    ``time_of``.
    """

    offset: int
    arrived: datetime | None
    headers: dict[str, str]
    key: bytes | None
    value: bytes
    size: int
    requeued: Note | None = None

    @classmethod
    def of(cls, record: ConsumerRecord, requeued: Note | None = None, most: int | None = None) -> Self:
        """The letter in a record, with at most so many bytes of its value."""
        value = record.value or b""
        headers = headers_of(record)
        return cls(record.offset, time_of(record), headers, record.key, value[:most], len(value), requeued)


class DeadLetters:
    """The topic as an operator reads it; what it does not have at hand it reads again."""

    def __init__(self, consumer: Consumer) -> None:
        """Read through this one, which is started."""
        self._consumer = consumer
        consumer.assign([LETTERS])

    @classmethod
    @contextlib.asynccontextmanager
    async def opened(cls, connection: KafkaConnection) -> AsyncIterator[Self]:
        """Through a consumer of its own, while it lasts.

        Raises ConfigurationError when no broker answers, TemporaryError when it stops answering.
        """
        consumer = Consumer(**connection.client_arguments())
        try:
            await consumer.start()
        except KafkaError as error:
            raise connection.not_made(error) from error
        try:
            yield cls(consumer)
        except KafkaError as error:
            raise TemporaryError(f"{DEAD_LETTERS} cannot be read: {error!r}") from error
        finally:
            await consumer.stop()

    async def newest(self, limit: int) -> list[Letter]:
        """The newest letters, the oldest of them first, with the beginning of each; read from the end backwards."""
        begin, stop = await self._span()
        found: list[Letter] = []
        notes: dict[int, Note] = {}
        while stop > begin and len(found) < limit:
            start, chunk = max(begin, stop - max(limit, READ_AT_ONCE)), list[Letter]()
            async for record in self._between(start, stop):
                if (note := Note.of(record)) is not None:
                    notes.setdefault(note.letter, note)
                else:
                    chunk.append(Letter.of(record, most=LISTED_BYTES))
            found, stop = [*chunk, *found], start
        return [replace(one, requeued=notes.get(one.offset)) for one in found[-limit:]]

    async def letter(self, offset: int) -> Letter:
        """The letter at an offset, whole; raises RunbooksError when there is none."""
        begin, end = await self._span()
        held = f"it holds {begin} to {end - 1}" if end > begin else "it is empty"
        if not begin <= offset < end:
            raise RunbooksError(f"dead-letters holds no record at offset {offset}: {held}")
        records = self._between(offset, end)
        async with contextlib.aclosing(records):
            found = await anext(records)
            if found.offset != offset:
                raise RunbooksError(f"dead-letters holds no record at offset {offset}: {held}")
            if (note := Note.of(found)) is not None:
                raise RunbooksError(f"offset {offset} is the note that the record at {note.letter} was requeued")
            async for record in records:
                note = Note.of(record)
                if note is not None and note.letter == offset:
                    return Letter.of(found, note)
        return Letter.of(found)

    async def _span(self) -> tuple[int, int]:
        begins, ends = await self._consumer.beginning_offsets([LETTERS]), await self._consumer.end_offsets([LETTERS])
        return begins[LETTERS], ends[LETTERS]

    async def _between(self, start: int, stop: int) -> AsyncGenerator[ConsumerRecord, None]:
        """The records from one offset up to another, one at a time."""
        self._consumer.seek(LETTERS, start)
        while await self._consumer.position(LETTERS) < stop:
            record = await self._consumer.getone(LETTERS)
            if record.offset < stop:
                yield record


def headers_of(record: ConsumerRecord) -> dict[str, str]:
    """A record's headers as text; what is no text is replaced."""
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


def requeued_offset(record: ConsumerRecord) -> int | None:
    """The offset of the letter that a note is about; None when the record is a letter."""
    return next((int(value) for name, value in record.headers if name == REQUEUED and _is_offset(value)), None)


def _is_offset(value: bytes | None) -> bool:
    return value is not None and value.isdigit() and len(value) <= OFFSET_DIGITS


def told_time(at: datetime | None) -> str:
    """When a letter or a note was written, as text."""
    return "an unknown time" if at is None else at.isoformat()


def note_headers(letter: int, by: str, to: str) -> list[tuple[str, bytes]]:
    """The headers of a note."""
    return [(REQUEUED, str(letter).encode()), ("by", by.encode()), ("to", to.encode())]
