"""The topic ``metric-samples``: read by every worker as a whole, and the newest sample of each metric kept.

A command to read a metric can be any worker's, whatever partition the metric's samples are on, so each reads all of
them with a consumer of its own and without a group. What cannot be read is put aside by an agent, once for all workers.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.structs import ConsumerRecord, TopicPartition
from faust.types import EventT

from app.actions.metric_reading import since
from app.clients.kafka import Consumer, time_of
from app.core.commands import MetricCommand
from app.core.errors import RecordRefused
from app.core.measuring import Found, Measured, failed, measured
from app.core.metric_sample import MetricSample, read_metric_sample
from app.ending import Ended, stopped
from app.streams.connection import KafkaConnection
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.receipts import Receipts
from app.streams.records import source_of, time_of_event
from app.streams.topics import METRIC_SAMPLES

MAX_KEPT = 100_000
MAX_KEPT_OF_TENANT = 10_000
CATCH_UP_S = 10.0
AGAIN_S = 5.0
POLL_MS = 500
logger = logging.getLogger(__name__)


class Newest(NamedTuple):
    """The newest sample of one metric of one service."""

    value: float
    at: datetime


class Samples:
    """The newest sample of each metric: at most 100,000 in all, and 10,000 of one tenant, the oldest given up first."""

    def __init__(self, max_age: timedelta, kept: int = MAX_KEPT, kept_of_tenant: int = MAX_KEPT_OF_TENANT) -> None:
        """max_age: what is older counts for nothing, and is given up."""
        self._max_age = max_age
        self._kept, self._kept_of_tenant = kept, kept_of_tenant
        self._tenants: dict[str, OrderedDict[tuple[str, str], Newest]] = {}
        self._count = 0

    def __len__(self) -> int:
        """How many are kept."""
        return self._count

    def add(self, sample: MetricSample, now: datetime) -> bool:
        """Keep it if it is the newest of its metric and not too old; whether it was kept."""
        if sample.timestamp < now - self._max_age:
            return False
        mine = self._tenants.setdefault(sample.tenant_id, OrderedDict())
        key = (sample.service_id, sample.metric_name)
        before = mine.get(key)
        if before is not None and before.at > sample.timestamp:
            return False
        self._count += before is None
        mine[key] = Newest(sample.value, sample.timestamp)
        mine.move_to_end(key)
        self._give_up(sample.tenant_id, now - self._max_age)
        return True

    def find(self, tenant: str, service_id: str, metric_name: str) -> Newest | None:
        """The newest one; None when there is none."""
        mine = self._tenants.get(tenant)
        return None if mine is None else mine.get((service_id, metric_name))

    def _give_up(self, tenant: str, oldest: datetime) -> None:
        """The tenant's that are too old or too many, and, where all are too many, those of whoever has the most."""
        mine = self._tenants[tenant]
        while len(mine) > self._kept_of_tenant or next(iter(mine.values())).at < oldest:
            self._drop(tenant)
        while self._count > self._kept:
            self._drop(max(self._tenants, key=lambda name: len(self._tenants[name])))

    def _drop(self, tenant: str) -> None:
        self._tenants[tenant].popitem(last=False)
        self._count -= 1
        if not self._tenants[tenant]:
            del self._tenants[tenant]


class SampleReader:
    """Answers readings from the topic."""

    name = "metric-samples"

    def __init__(
        self,
        connection: KafkaConnection,
        partitions: int,
        max_age_s: float,
        clock: Callable[[], datetime],
        figures: Figures,
        *,
        catch_up_s: float = CATCH_UP_S,
        again_s: float = AGAIN_S,
    ) -> None:
        """partitions: of the topic. max_age_s: how far back it is read, and what is older is no data.

        catch_up_s: how long a reading waits for what is on the topic. again_s: until a broker is asked again.
        """
        self.samples = Samples(timedelta(seconds=max_age_s))
        self._connection = connection
        self._places = [TopicPartition(METRIC_SAMPLES, number) for number in range(partitions)]
        self._max_age_s = max_age_s
        self._clock = clock
        self._figures = figures
        self._catch_up_s = catch_up_s
        self._again_s = again_s
        self._broken = "its samples are still being read"
        self._caught_up = asyncio.Event()
        self._reading: asyncio.Task[None] | None = None

    async def start(self, ended: Ended) -> None:
        """Begin to read; readings wait until it has caught up. ended: called with the reading when that has ended."""
        self._reading = asyncio.create_task(self._read_on())
        self._reading.add_done_callback(ended)

    async def close(self) -> None:
        """Stop reading."""
        if self._reading is not None:
            await stopped(self._reading)

    async def read(self, command: MetricCommand, at: datetime) -> Measured:
        """The newest sample of the metric, if it was measured when it counts."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._catch_up_s):
                await self._caught_up.wait()
        if not self._caught_up.is_set():
            return failed(f"the topic {METRIC_SAMPLES} cannot be read: {self._broken}")
        newest = self.samples.find(command.tenant, command.service_id, command.check.metric_name)
        found = [] if newest is None else [Found(newest.value, newest.at)]
        return measured(found, command.check, since(command, at, self._max_age_s))

    async def _read_on(self) -> None:
        """Read for ever; a broker that is away or refuses is asked again, and readings say so meanwhile."""
        while True:
            consumer = Consumer(**self._connection.client_arguments())
            try:
                await consumer.start()
                await self._follow(consumer)
            except KafkaError as error:
                self._broken = repr(error)
                self._caught_up.clear()
                logger.warning("metric_samples_unreadable", extra={"error": self._broken})
            finally:
                await consumer.stop()
            await asyncio.sleep(self._again_s)

    async def _follow(self, consumer: Consumer) -> None:
        consumer.assign(self._places)
        ends = await consumer.end_offsets(self._places)
        begin_ms = int((self._clock().timestamp() - self._max_age_s) * 1000)
        begins = await consumer.offsets_for_times(dict.fromkeys(self._places, begin_ms))
        for place in self._places:
            begin = begins.get(place)
            consumer.seek(place, ends[place] if begin is None else begin.offset)
        while True:
            behind = [place for place in self._places if await consumer.position(place) < ends[place]]
            if not behind:
                self._caught_up.set()
            for records in (await consumer.getmany(timeout_ms=POLL_MS)).values():
                for record in records:
                    self._take(record)

    def _take(self, record: ConsumerRecord) -> None:
        try:
            sample = read_metric_sample(record.value, time_of(record))
        except RecordRefused:
            self._figures.metric_samples.labels("refused").inc()
        else:
            kept = self.samples.add(sample, self._clock())
            self._figures.metric_samples.labels("kept" if kept else "old").inc()


class SampleInspector:
    """The agent that puts aside what is no sample, with the field named."""

    def __init__(self, log: Log, figures: Figures) -> None:
        """Keep the parts."""
        self._log = log
        self._figures = figures

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        async for event in records:
            message = event.message
            try:
                read_metric_sample(event.value, time_of_event(event))
            except RecordRefused as error:
                logger.warning("sample_refused", extra={"offset": message.offset, "error": str(error)})
                self._figures.dead_letters.labels(message.topic).inc()
                await receipts.settle(event, [await self._log.send_dead_letter(source_of(event), error)])
            else:
                event.ack()
