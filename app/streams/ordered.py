"""Reading parts of several partitions as one stream, in the order of the records' times; memory stays flat."""

import heapq
import time
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from typing import Any, NamedTuple, TypeAlias

from aiokafka.structs import ConsumerRecord, TopicPartition

from app.clients.kafka import Consumer, time_of
from app.core.errors import TemporaryError

SLICE = 500  # records handed on before anything else on the event loop gets its turn
POLL_MS = 500
SILENCE_S = 20.0
BEFORE_ALL = -(2**63)
Record: TypeAlias = ConsumerRecord


class Span(NamedTuple):
    """A part of a partition: from the first offset on, end excluded."""

    first: int
    end: int

    @property
    def length(self) -> int:
        """How many offsets it has."""
        return max(0, self.end - self.first)


def turn_of(record: Record) -> int:
    """When it is a record's turn, in milliseconds since the epoch: by its time, and at once where that is no moment."""
    return record.timestamp if time_of(record) else BEFORE_ALL


async def in_order(consumer: Consumer, spans: Mapping[TopicPartition, Span]) -> AsyncGenerator[list[Record], None]:
    """The records of all spans in slices, the earliest first; within a partition in the order of the log.

    What is read ahead is at most one fetch a partition. Raises TemporaryError when nothing comes for a while.
    """
    unread = {place: span for place, span in spans.items() if span.length}
    if not unread:
        return
    consumer.assign(list(unread))
    for place, span in unread.items():
        consumer.seek(place, span.first)
    heads: dict[TopicPartition, deque[Record]] = {place: deque() for place in unread}
    while heads:
        await _fill(consumer, heads, unread)
        yield _earliest(heads, unread)


async def _fill(
    consumer: Consumer, heads: dict[TopicPartition, deque[Record]], unread: dict[TopicPartition, Span]
) -> None:
    """Have a record of every partition at hand that is not read to its end."""
    deadline = time.monotonic() + SILENCE_S
    while dry := [place for place in heads if not heads[place]]:
        batches: Mapping[TopicPartition, list[Record]] = await consumer.getmany(*dry, timeout_ms=POLL_MS)
        if batches:
            deadline = time.monotonic() + SILENCE_S
        for place in dry:
            heads[place].extend(record for record in batches.get(place, ()) if record.offset < unread[place].end)
            if not heads[place] and await consumer.position(place) >= unread[place].end:
                del heads[place], unread[place]
        if time.monotonic() > deadline:
            raise TemporaryError(f"Kafka gives no records of {', '.join(sorted(place.topic for place in dry))}")


def _earliest(heads: dict[TopicPartition, deque[Record]], unread: dict[TopicPartition, Span]) -> list[Record]:
    """Records in order, as long as one of every partition is at hand."""
    waiting: list[Any] = [(turn_of(records[0]), place) for place, records in heads.items()]
    heapq.heapify(waiting)
    found: list[Record] = []
    while waiting and len(found) < SLICE:
        _, place = waiting[0]
        records = heads[place]
        record = records.popleft()
        found.append(record)
        if records:
            heapq.heapreplace(waiting, (turn_of(records[0]), place))
        elif record.offset + 1 >= unread[place].end:
            heapq.heappop(waiting)
            del heads[place], unread[place]
        else:
            break
    return found
