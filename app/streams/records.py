"""A Faust event as the record it came from."""

from datetime import datetime

from faust.types import EventT

from app.core.model import moment_at
from app.streams.log import Source


def source_of(event: EventT[bytes]) -> Source:
    """Where the event stood, and its bytes."""
    message = event.message
    return Source(message.topic, message.partition, message.offset, message.key, event.value)


def time_of_event(event: EventT[bytes]) -> datetime | None:
    """When the event's record was written; None where that can be no moment, as of ``time_of``."""
    return moment_at(event.message.timestamp)  # Faust has made seconds of it
