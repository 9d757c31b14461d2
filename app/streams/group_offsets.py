"""How far a consumer group is, asked from outside of it."""

import asyncio
import time

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import GroupCoordinatorNotAvailableError
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from app.streams.connection import KafkaConnection

COORDINATOR_S, COORDINATOR_RETRY_S = 15.0, 0.2


async def group_offsets(connection: KafkaConnection, group_id: str, topic: str) -> dict[int, int]:
    """The offset up to which a group has read each partition of a topic; none of one that it has told nothing of.

    Raises KafkaError.
    """
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    await admin.start()
    try:
        found = await _committed(admin, group_id)
    finally:
        await admin.close()
    return {place.partition: at.offset for place, at in found.items() if place.topic == topic and at.offset >= 0}


async def _committed(admin: AIOKafkaAdminClient, group_id: str) -> dict[TopicPartition, OffsetAndMetadata]:
    """Where the group is; a broker that has had no group yet takes a moment to begin with that."""
    deadline = time.monotonic() + COORDINATOR_S
    while True:
        try:
            found: dict[TopicPartition, OffsetAndMetadata] = await admin.list_consumer_group_offsets(group_id)
        except GroupCoordinatorNotAvailableError:
            if time.monotonic() > deadline:
                raise
            await asyncio.sleep(COORDINATOR_RETRY_S)
        else:
            return found
