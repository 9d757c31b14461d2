"""Faust's transport with short waits in its fetcher.

aiokafka keeps one fetch in flight for each node. While it waits for data, a partition whose records were just handed
out is not part of it, so a new record there waits for the whole fetch to come back: up to the 1.5 s that Faust sets.
And while one partition of a node has records that nobody has taken yet, nothing at all is fetched from that node for
up to 100 ms. With several topics on one node these two are the tail of every hop. Short waits bound it, at the price
of some idle polls; docs/performance.md has the figures.
"""

from typing import Any

from faust.transport.drivers import aiokafka as driver
from faust.types import AppT

FETCH_WAIT_MS = 10
PREFETCH_BACKOFF_S = 0.01


class _Thread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """A consumer thread whose fetches come back soon."""

    def _create_worker_consumer(self, transport: Any) -> Any:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS  # noqa: SLF001 - Faust has no setting for it
        return consumer

    async def on_start(self) -> None:
        """Start, and let a node be fetched from while one of its partitions has records that were not taken."""
        await super().on_start()
        self._consumer._fetcher._prefetch_backoff = PREFETCH_BACKOFF_S  # noqa: SLF001 - aiokafka has no setting for it


class _Consumer(driver.Consumer):  # type: ignore[misc]
    def _new_consumer_thread(self) -> _Thread:
        return _Thread(self, loop=self.loop, beacon=self.beacon)


class QuickTransport(driver.Transport):  # type: ignore[misc]
    """The aiokafka transport over such consumers."""

    Consumer = _Consumer

    @classmethod
    def of(cls, app: AppT[Any]) -> "QuickTransport":
        """The transport of an application."""
        return cls(app.conf.broker_consumer, app)
