"""How far a consumer group is, asked from outside of it."""

import asyncio
import time
from collections.abc import Iterable

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError, KafkaError
from aiokafka.structs import TopicPartition

from app.streams.connection import KafkaConnection

COORDINATOR_S, COORDINATOR_RETRY_S = 15.0, 0.2


async def group_offsets(connection: KafkaConnection, group_id: str, topic: str) -> dict[int, int]:
    """The offset up to which a group has read each partition of a topic; none of one that it has told nothing of.

    Raises KafkaError.
    """
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    await admin.start()
    try:
        found = await committed(admin, group_id)
    finally:
        await admin.close()
    return {place.partition: offset for place, offset in found.items() if place.topic == topic}


async def committed(
    admin: AIOKafkaAdminClient,
    group_id: str,
    places: Iterable[TopicPartition] | None = None,
    *,
    passing: type[KafkaError] = GroupCoordinatorNotAvailableError,
    patience_s: float = COORDINATOR_S,
) -> dict[TopicPartition, int]:
    """What a group has committed: a broker that has had no group yet, or just starts, takes a moment to tell.

    places: which partitions are asked about; None asks about all that it has told of. passing: the errors that are
    waited out, for patience_s seconds. Raises KafkaError.
    """
    wanted = None if places is None else list(places)
    if wanted == []:
        return {}
    deadline = time.monotonic() + patience_s
    while True:
        try:
            answer = await admin.list_consumer_group_offsets(group_id, partitions=wanted)
        except passing:
            if time.monotonic() > deadline:
                raise
        else:
            if wanted is None or answer.keys() >= set(wanted):
                return {place: at.offset for place, at in answer.items() if at.offset >= 0}
            if time.monotonic() > deadline:  # aiokafka does not look at an error of the whole answer
                raise KafkaError(f"no offsets of {group_id} were given")
        await asyncio.sleep(COORDINATOR_RETRY_S)
