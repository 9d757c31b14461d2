"""A Faust event as the record it came from."""

from faust.types import EventT

from app.streams.log import Source


def source_of(event: EventT[bytes]) -> Source:
    """Where the event stood, and its bytes."""
    message = event.message
    return Source(message.topic, message.partition, message.offset, message.key, event.value)
