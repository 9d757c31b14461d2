"""A Kafka consumer whose ``stop`` ends all that it began."""

import asyncio

from aiokafka import AIOKafkaConsumer


class Consumer(AIOKafkaConsumer):  # type: ignore[misc]
    """aiokafka's consumer, stopped to the end.

    aiokafka 0.14 awaits each fetch that it has just cancelled. One that ends as cancelled ends ``stop`` there: the
    connections stay open, the other fetches go on, and whoever called is told that it was cancelled when nobody did.
    """

    async def stop(self) -> None:
        """Stop fetching, leave the group and close every connection; stopping a stopped one does nothing."""
        task = asyncio.current_task()
        assert task is not None
        asked = task.cancelling()
        try:
            await super().stop()
        except asyncio.CancelledError:
            if task.cancelling() > asked:
                raise
        finally:
            await self._end_fetches()
            await self._client.close()

    async def _end_fetches(self) -> None:
        fetches = [] if self._fetcher is None else [*self._fetcher._pending_tasks]  # noqa: SLF001 - see above
        for fetch in fetches:
            fetch.cancel()
        await asyncio.gather(*fetches, return_exceptions=True)
