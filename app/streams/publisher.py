"""The one producer: what a worker writes goes through it, idempotent, acknowledged by all replicas.

Faust's own producer buffers one message at a time and flushes in the way of the commit; this one batches, keeps the
order within a partition, and gives every record a future that says when the broker has it.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence

from aiokafka import AIOKafkaProducer
from aiokafka.errors import (
    KafkaError,
    OutOfOrderSequenceNumber,
    ProducerClosed,
    ProducerFenced,
    TopicAuthorizationFailedError,
)
from aiokafka.structs import RecordMetadata

from app.core.errors import NotAcknowledged, RecordTooLarge, TemporaryError
from app.streams.connection import KafkaConnection

DELIVERY_TIMEOUT_MS = 60_000
MAX_RECORD_BYTES = 10 * 1024 * 1024  # as max_record_bytes in topics.yaml
OVERHEAD_BYTES = 1024  # of a record and the batch around it, its headers' bytes aside
Delivery = asyncio.Future[RecordMetadata]


class Publisher:
    """A started producer.

    on_failure: called with the error when a record was lost on its way, or the producer takes no more. Records are
    numbered: after one that is missing the broker takes no later ones of its partition, so only a new producer helps.
    """

    def __init__(self, connection: KafkaConnection, client_id: str, limits: Mapping[str, int] | None = None) -> None:
        """Build it; ``start`` connects. limits: by topic, the bytes that the broker takes in one record."""
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self._connection = connection
        self._limits = dict(limits or {})
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
        """Connect.

        Raises ConfigurationError when no broker answers, or the one that does refuses.
        """
        try:
            await self._producer.start()
        except KafkaError as error:
            await self._producer.stop()
            raise self._connection.not_made(error) from error

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

        Raises TemporaryError when the buffer stays full or the topic cannot be reached, RecordTooLarge when the broker
        would refuse it: that is known before it is buffered, so that it is never in the way of others.
        """
        self._check_size(topic, value, key, headers)
        try:
            delivery: Delivery = await self._producer.send(
                topic, value, key=key, partition=partition, headers=list(headers)
            )
        except KafkaError as error:
            if _is_dead(error):
                self.on_failure(error)
            raise TemporaryError(f"Kafka did not take a record for {topic}: {error!r}") from error
        delivery.add_done_callback(self._arrived)
        return delivery

    def _arrived(self, delivery: Delivery) -> None:
        if not delivery.cancelled() and (error := delivery.exception()) is not None:
            self.on_failure(error)

    def room(self, topic: str) -> int:
        """How many bytes of key, value and headers one record of a topic may have."""
        return min(self._limits.get(topic, MAX_RECORD_BYTES), MAX_RECORD_BYTES) - OVERHEAD_BYTES

    def _check_size(
        self, topic: str, value: bytes | None, key: bytes | None, headers: Sequence[tuple[str, bytes]]
    ) -> None:
        size = len(value or b"") + len(key or b"") + sum(len(name) + len(one) for name, one in headers)
        if size > self.room(topic):
            raise RecordTooLarge(topic, size, self.room(topic))

    async def publish(
        self, topic: str, value: bytes, *, key: bytes | None = None, headers: Sequence[tuple[str, bytes]] = ()
    ) -> RecordMetadata:
        """Send one record and wait until the broker has it.

        Raises what ``send`` does, and NotAcknowledged when the record may stand there all the same.
        """
        delivery = await self.send(topic, value, key=key, headers=headers)
        try:
            return await asyncio.shield(delivery)
        except TopicAuthorizationFailedError as error:
            raise TemporaryError(f"Kafka did not take a record for {topic}: {error!r}") from error
        except KafkaError as error:
            raise NotAcknowledged(f"Kafka did not acknowledge a record for {topic}: {error!r}") from error


def _is_dead(error: KafkaError) -> bool:
    """Whether the producer has ended: all that is sent from then on is given what ended it, or a bare KafkaError."""
    return isinstance(error, OutOfOrderSequenceNumber | ProducerFenced | ProducerClosed) or type(error) is KafkaError
