"""The one producer: what a worker writes goes through it, idempotent, acknowledged by all replicas.

Faust's own producer buffers one message at a time and flushes in the way of the commit; this one batches, keeps the
order within a partition, and gives every record a future that says when the broker has it.
"""

import asyncio
from collections.abc import Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import KafkaError
from aiokafka.structs import RecordMetadata

from app.core.errors import TemporaryError
from app.streams.connection import KafkaConnection

DELIVERY_TIMEOUT_MS = 60_000
MAX_RECORD_BYTES = 10 * 1024 * 1024  # as max_record_bytes in topics.yaml
Delivery = asyncio.Future[RecordMetadata]


class Publisher:
    """A started producer."""

    def __init__(self, connection: KafkaConnection, client_id: str) -> None:
        """Build it; ``start`` connects."""
        self._producer = AIOKafkaProducer(
            **connection.client_arguments(),
            client_id=client_id,
            acks="all",
            enable_idempotence=True,
            request_timeout_ms=DELIVERY_TIMEOUT_MS,
            max_batch_size=256 * 1024,
            max_request_size=MAX_RECORD_BYTES,
        )

    async def start(self) -> None:
        """Connect."""
        await self._producer.start()

    async def stop(self) -> None:
        """Send what is buffered and disconnect."""
        await self._producer.stop()

    async def send(
        self,
        topic: str,
        value: bytes | None,
        *,
        key: bytes | None = None,
        partition: int | None = None,
        headers: Sequence[tuple[str, bytes]] = (),
    ) -> Delivery:
        """Buffer one record; the future gives its place once the broker has it.

        Raises TemporaryError when the buffer stays full or the topic cannot be reached.
        """
        try:
            delivery: Delivery = await self._producer.send(
                topic, value, key=key, partition=partition, headers=list(headers)
            )

        except KafkaError as error:
            raise TemporaryError(f"Kafka did not take a record for {topic}: {error!r}") from error
        return delivery

    async def publish(self, topic: str, value: bytes, *, key: bytes | None = None) -> RecordMetadata:
        """Send one record and wait until the broker has it.

        Raises TemporaryError.
        """
        delivery = await self.send(topic, value, key=key)
        try:
            return await asyncio.shield(delivery)
        except KafkaError as error:
            raise TemporaryError(f"Kafka did not acknowledge a record for {topic}: {error!r}") from error
