"""Writing to the topics: each message on its topic, under its key, acknowledged."""

from collections.abc import Iterable
from typing import NamedTuple

from aiokafka.structs import RecordMetadata

from app.core.answers import write_answers
from app.core.catalog import Change, change_key
from app.core.commands import Command, write_command
from app.core.decisions import ApprovalDecision
from app.core.events import Event, write_event
from app.core.model import as_text
from app.core.spans import TRACEPARENT, SpanContext
from app.streams.publisher import Delivery, Publisher
from app.streams.topics import (
    ANOMALY_EVENTS,
    APPROVAL_DECISIONS,
    DEAD_LETTERS,
    EXECUTION_EVENTS,
    MATCH_DECISIONS,
    RUNBOOK_DEFINITIONS,
)

MAX_DEAD_LETTER_ERROR = 2048
MAX_DEAD_LETTER_KEY = 1024
HEADERS_ROOM = 32 * 1024  # bytes; an error may be written with twelve for each of its characters


def headers_of(context: SpanContext | None) -> list[tuple[str, bytes]]:
    """The record headers that carry a span; none without one."""
    return [] if context is None else [(TRACEPARENT, context.header.encode())]


class Recorded(NamedTuple):
    """Where a record stands."""

    topic: str
    partition: int
    offset: int

    @classmethod
    def at(cls, place: RecordMetadata) -> "Recorded":
        """Of what the broker answered."""
        return cls(place.topic, place.partition, place.offset)


class Log:
    """What the agents and the API write."""

    def __init__(self, publisher: Publisher) -> None:
        """Write through this producer."""
        self._publisher = publisher

    def room(self, topic: str) -> int:
        """How many bytes one record of a topic may have."""
        return self._publisher.room(topic)

    async def publish_event(self, event: Event, came_from: SpanContext | None = None) -> Recorded:
        """Append an event to its tenant's log; raises TemporaryError, or RecordTooLarge.

        came_from: a span of whoever asked, in the record's headers.
        """
        value, key = write_event(event), event.tenant.encode()
        return Recorded.at(
            await self._publisher.publish(EXECUTION_EVENTS, value, key=key, headers=headers_of(came_from))
        )

    async def send_event(self, event: Event, came_from: SpanContext | None = None) -> Delivery:
        """The same without waiting for the acknowledgement."""
        value, key = write_event(event), event.tenant.encode()
        return await self._publisher.send(EXECUTION_EVENTS, value, key=key, headers=headers_of(came_from))

    async def send_command(self, command: Command, sent_by: SpanContext | None = None) -> Delivery:
        """Send a command to the agents of its kind; sent_by: the span of that."""
        value, key = write_command(command), command.execution_id.encode()
        return await self._publisher.send(command.topic, value, key=key, headers=headers_of(sent_by))

    async def publish_change(self, change: Change) -> Recorded:
        """Append a change of the definitions."""
        key = change_key(change).encode()
        value = change.model_dump_json().encode()
        return Recorded.at(await self._publisher.publish(RUNBOOK_DEFINITIONS, value, key=key))

    async def publish_anomaly(self, body: bytes, key: str | None, came_from: SpanContext | None = None) -> Recorded:
        """Append an anomaly event; came_from: as of ``publish_event``."""
        named = None if key is None else key.encode()
        headers = headers_of(came_from)
        return Recorded.at(await self._publisher.publish(ANOMALY_EVENTS, body, key=named, headers=headers))

    async def publish_decision(self, decision: ApprovalDecision) -> Recorded:
        """Append an approval decision."""
        value = decision.model_dump_json().encode()
        return Recorded.at(await self._publisher.publish(APPROVAL_DECISIONS, value, key=decision.tenant.encode()))

    async def send_answers(self, tenant: str, parts: Iterable[bytes]) -> Delivery:
        """Keep what the candidate runbooks said of some anomalies, in one record."""
        return await self._publisher.send(MATCH_DECISIONS, write_answers(tenant, parts), key=tenant.encode())

    async def send_dead_letter(self, source: "Source", error: Exception) -> Delivery:
        """Put aside a record that cannot be read or acted on, with where it stood and why.

        One that is too large for ``dead-letters`` too is cut; the header ``cut`` says how many bytes it had.
        """
        headers = [
            ("source-topic", source.topic.encode()),
            ("source-partition", str(source.partition).encode()),
            ("source-offset", str(source.offset).encode()),
            ("error", as_text(str(error)[:MAX_DEAD_LETTER_ERROR]).encode()),
        ]
        value, key = source.value or b"", source.key
        room = self._publisher.room(DEAD_LETTERS) - HEADERS_ROOM
        if len(value) + len(key or b"") > room:
            headers.append(("cut", str(len(value)).encode()))
            key = None if key is None else key[:MAX_DEAD_LETTER_KEY]
            value = value[: room - len(key or b"")]
        return await self._publisher.send(DEAD_LETTERS, value, key=key, headers=headers)


class Source(NamedTuple):
    """A record as it was read."""

    topic: str
    partition: int
    offset: int
    key: bytes | None
    value: bytes | None
