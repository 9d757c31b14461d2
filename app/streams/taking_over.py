"""Where a group goes on in topics that another group of its family has read before it.

A kind of step is carried out by the group of the whole workers, or by that of workers for some kinds. When it is given
to another one, that one begins where the furthest of them has committed: what lies before is settled. What was taken
after that is in the ledger, which they share. Where nobody has committed anything, as when the offsets have expired,
it begins with the oldest commands that the ledger would know of.

Offsets are committed for the new group before it has members. Who is told that it has some already looks whether one
of them has done so, and is refused otherwise: a group cannot be moved while it reads.
"""

import logging
from collections.abc import Collection, Iterable, Mapping
from contextlib import AsyncExitStack
from datetime import datetime

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import CommitFailedError, KafkaError
from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer
from app.core.errors import ConfigurationError
from app.streams.backlog import Span
from app.streams.connection import KafkaConnection
from app.streams.former_ledgers import copy_former_ledgers, former_ledgers
from app.streams.group_offsets import committed
from app.streams.groups import is_of
from app.streams.ledger import COMMANDS_KEPT
from app.streams.publisher import Publisher

ANSWER_TIMEOUT_S = 10.0
Offsets = Mapping[TopicPartition, int]
Spans = Mapping[TopicPartition, Span]
logger = logging.getLogger(__name__)


def beginnings(own: Offsets, others: Iterable[Offsets], spans: Spans, oldest: Offsets) -> dict[TopicPartition, int]:
    """Where a group has to begin, by partition; those where it begins there anyway are left out.

    own, others: what it and the other groups of its family have committed; an offset beyond the end is of a topic that
    was there before this one. spans: of the partitions to look at. oldest: where to begin if nobody has committed.
    """
    committed, found = [*others, own], {}
    for place, span in spans.items():
        known = [offsets[place] for offsets in committed if offsets.get(place, span.end + 1) <= span.end]
        from_itself = own.get(place, span.begin)
        begin = max(known, default=from_itself if place in own else oldest.get(place, from_itself))
        if begin > from_itself:
            found[place] = begin
    return found


async def take_over(
    connection: KafkaConnection,
    publisher: Publisher,
    topics: Collection[str],
    own_group: str,
    family: str,
    now: datetime,
) -> None:
    """Have a group that is about to read these topics begin where others of its family have ended.

    Raises ConfigurationError when the broker does not say, or when the group reads already and has not begun there.
    """
    try:
        async with AsyncExitStack() as stack:
            succession = _Succession(connection, own_group, family)
            stack.push_async_callback(succession.stop)
            await succession.start()
            await succession.begin(publisher, topics, now)
    except KafkaError as error:
        raise ConfigurationError(f"the broker does not say how far commands were read: {error!r}") from error


class _Succession:
    """One group, and those of its family before it."""

    def __init__(self, connection: KafkaConnection, own_group: str, family: str) -> None:
        """Nothing is connected yet."""
        self._own_group = own_group
        self._family = family
        self._admin = AIOKafkaAdminClient(**connection.client_arguments())
        self._consumer = Consumer(group_id=own_group, **connection.client_arguments())

    async def start(self) -> None:
        """Connect."""
        await self._consumer.start()
        await self._admin.start()

    async def stop(self) -> None:
        """Disconnect."""
        await self._admin.close()
        await self._consumer.stop()

    async def begin(self, publisher: Publisher, topics: Collection[str], now: datetime) -> None:
        """Commit where the group begins, where that is not where it has been."""
        spans = await self._spans(topics)
        if not spans:
            return
        others = await self._committed(spans)
        own = others.pop(self._own_group, {})
        nowhere = spans.keys() - own.keys() - {place for offsets in others.values() for place in offsets}
        begins = beginnings(own, others.values(), spans, await self._oldest(nowhere, spans, now))
        readers = [self._own_group, *(group for group, offsets in others.items() if offsets)]
        read, copied = await self._copy_ledgers(readers, publisher, now)
        await self._commit(begins | read, begins.keys() | copied)
        _tell(begins, others)

    async def _spans(self, topics: Collection[str]) -> dict[TopicPartition, Span]:
        """Where the partitions that hold records begin and end."""
        places = await self._consumer.places_of(topics)
        begins, ends = await self._consumer.beginning_offsets(places), await self._consumer.end_offsets(places)
        return {place: Span(begins[place], end) for place, end in ends.items() if end > begins[place]}

    async def _copy_ledgers(
        self, groups: Iterable[str], publisher: Publisher, now: datetime
    ) -> tuple[dict[TopicPartition, int], set[TopicPartition]]:
        """Copy the ledgers that these groups had of their own, where that was not done.

        Gives up to where they were read, and which of them held anything that is needed.
        """
        spans = await self._spans(former_ledgers(groups, self._family))
        copied = await self._committed_by(self._own_group, spans)
        begins = {place: max(copied.get(place, 0), span.begin) for place, span in spans.items()}
        ends = {place: span.end for place, span in spans.items() if begins[place] < span.end}
        if not ends:
            return {}, set()
        return ends, await copy_former_ledgers(self._consumer, publisher, begins, ends, self._family, now)

    async def _committed(self, places: Iterable[TopicPartition]) -> dict[str, Offsets]:
        """By group of the family, what it has committed of these partitions."""
        groups = [group for group, _ in await self._admin.list_consumer_groups() if is_of(self._family, group)]
        return {group: await self._committed_by(group, places) for group in groups}

    async def _committed_by(self, group: str, places: Iterable[TopicPartition]) -> dict[TopicPartition, int]:
        """What one has: a broker that has just started reads the offsets itself, and is waited for."""
        return await committed(self._admin, group, places, passing=KafkaError, patience_s=ANSWER_TIMEOUT_S)

    async def _oldest(self, places: Iterable[TopicPartition], spans: Spans, now: datetime) -> dict[TopicPartition, int]:
        """The first record since when the ledger keeps all that was done; the end where there is none."""
        wanted = dict.fromkeys(places, int((now - COMMANDS_KEPT).timestamp() * 1000))
        found = await self._consumer.offsets_for_times(wanted) if wanted else {}
        return {place: spans[place].end if one is None else one.offset for place, one in found.items()}

    async def _commit(self, offsets: Offsets, needed: Iterable[TopicPartition]) -> None:
        """Commit for a group without members; one that has some must have committed where it is needed."""
        if not offsets:
            return
        self._consumer.assign(list(offsets))
        self._consumer.pause(*offsets)
        try:
            await self._consumer.commit(dict(offsets))
        except CommitFailedError:
            there = await self._committed_by(self._own_group, offsets)
            behind = {place.topic for place in needed if there.get(place, 0) < offsets[place]}
            if behind:
                raise ConfigurationError(
                    f"the consumer group {self._own_group} has members and does not go on yet where others ended in "
                    f"{', '.join(sorted(behind))}: stop all its workers, wait for as long as a killed one stays a "
                    "member (RUNBOOKS_WORKER__SESSION_TIMEOUT_S), and start them again"
                ) from None


def _tell(begins: Offsets, committed: Mapping[str, Offsets]) -> None:
    """Log from whom each partition was taken over, and what is too old for anybody to know of it."""
    for place, begin in sorted(begins.items()):
        named = {"topic": place.topic, "partition": place.partition, "offset": begin}
        groups = [group for group, offsets in committed.items() if offsets.get(place) == begin]
        if groups:
            logger.info("commands_taken_over", extra={**named, "from_group": groups[0]})
        else:
            logger.warning("commands_too_old", extra=named)
