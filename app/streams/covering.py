"""Anomalies that no runbook is about: counted from the topic, as nothing is kept of them."""

import asyncio
import contextlib
import time
from collections import Counter
from datetime import datetime
from typing import NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer
from app.core.anomaly import object_in
from app.core.catalog import Catalog
from app.core.errors import TemporaryError
from app.streams.connection import KafkaConnection
from app.streams.ordered import Span, in_order
from app.streams.topics import ANOMALY_EVENTS

MAX_SECONDS = 10.0
MAX_RECORDS = 1_000_000
MAX_PLACES = 1000


class Uncovered(NamedTuple):
    """How many anomalies of the tenant were read, and how many no runbook is about, by service and metric.

    others: of services and metrics beyond the first 1,000. complete: whether all of the period was read.
    """

    anomalies: int
    places: Counter[tuple[str, str]]
    others: int
    complete: bool


class CoverageReader:
    """Counts, with a consumer of its own for each question, one at a time."""

    def __init__(self, connection: KafkaConnection, catalog: Catalog) -> None:
        """Nothing connects yet; catalog: the definitions in force."""
        self._connection = connection
        self._catalog = catalog
        self._room = asyncio.Semaphore(1)

    async def uncovered(self, tenant: str, since: datetime) -> Uncovered:
        """Anomalies since then that no runbook in force now is about; in at most 10 s and a million records.

        Raises TemporaryError when Kafka does not answer, or while another one reads.
        """
        if self._room.locked():
            raise TemporaryError("the coverage is being counted here already: try again soon")
        arguments = self._connection.client_arguments()
        try:
            async with (
                self._room,
                Consumer(**arguments) as consumer,
            ):
                return await self._count(consumer, tenant, await _spans(consumer, since))
        except KafkaError as error:
            raise TemporaryError(f"the anomalies cannot be read: {error!r}") from error

    async def _count(self, consumer: Consumer, tenant: str, spans: dict[TopicPartition, Span]) -> Uncovered:
        places: Counter[tuple[str, str]] = Counter()
        read = anomalies = others = 0
        complete, deadline = True, time.monotonic() + MAX_SECONDS
        async with contextlib.aclosing(in_order(consumer, spans)) as slices:
            async for records in slices:
                read += len(records)
                for record in records:
                    body = object_in(record.value)
                    if body is None or (body.get("tenant_id") or "default") != tenant:
                        continue
                    place = (body.get("service_id"), body.get("metric_name"))
                    if not (isinstance(place[0], str) and isinstance(place[1], str)):
                        continue
                    anomalies += 1
                    if any(self._catalog.candidates(tenant, place[0], place[1])):
                        continue
                    if place in places or len(places) < MAX_PLACES:
                        places[place[0], place[1]] += 1
                    else:
                        others += 1
                if time.monotonic() > deadline or read > MAX_RECORDS:
                    complete = False
                    break
                await asyncio.sleep(0)
        return Uncovered(anomalies, places, others, complete)


async def _spans(consumer: Consumer, since: datetime) -> dict[TopicPartition, Span]:
    metadata = await consumer._client.fetch_all_metadata()  # noqa: SLF001 - the public way wants to consume
    places = [
        TopicPartition(ANOMALY_EVENTS, number) for number in sorted(metadata.partitions_for_topic(ANOMALY_EVENTS))
    ]
    ends = await consumer.end_offsets(places)
    found = await consumer.offsets_for_times(dict.fromkeys(places, max(0, int(since.timestamp() * 1000))))
    return {place: Span(found[place].offset if found[place] else ends[place], ends[place]) for place in places}
