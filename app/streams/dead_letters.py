"""What stands on ``dead-letters``: records that were put aside, and notes that one of them was put back.

A note is a record with an empty value. Its header ``requeued`` names the offset of the letter, ``by`` who did it,
``to`` where the record stands now.
"""

from datetime import datetime
from typing import Self

from aiokafka.structs import ConsumerRecord
from pydantic import BaseModel, ConfigDict

from app.clients.kafka import time_of

REQUEUED = "requeued"


class Letter(BaseModel):
    """One record that could not be read.

    arrived: when it was put aside. headers: where it stood, and why it was put aside; ``cut`` when it is not whole.
    """

    model_config = ConfigDict(frozen=True)

    offset: int
    arrived: datetime
    headers: dict[str, str]
    key: bytes | None
    value: bytes

    @classmethod
    def of(cls, record: ConsumerRecord) -> Self:
        """The letter in a record of the topic."""
        return cls(
            offset=record.offset,
            arrived=time_of(record),
            headers=headers_of(record),
            key=record.key,
            value=record.value or b"",
        )


class Note(BaseModel):
    """That a letter was put back: its offset, by whom, when, and where it stands now."""

    model_config = ConfigDict(frozen=True)

    letter: int
    by: str
    at: datetime
    to: str


def headers_of(record: ConsumerRecord) -> dict[str, str]:
    """A record's headers as text; what is no text is replaced."""
    return {name: (value or b"").decode(errors="replace") for name, value in record.headers}


def requeued_offset(record: ConsumerRecord) -> int | None:
    """The offset of the letter that a note is about; None when the record is a letter."""
    return next((int(value) for name, value in record.headers if name == REQUEUED and (value or b"").isdigit()), None)


def note_of(record: ConsumerRecord) -> Note | None:
    """The note in a record; None when it is a letter."""
    letter = requeued_offset(record)
    if letter is None:
        return None
    headers = headers_of(record)
    at = time_of(record)
    return Note(letter=letter, by=headers.get("by", ""), at=at, to=headers.get("to", ""))


def note_headers(letter: int, by: str, to: str) -> list[tuple[str, bytes]]:
    """The headers of a note."""
    return [(REQUEUED, str(letter).encode()), ("by", by.encode()), ("to", to.encode())]
