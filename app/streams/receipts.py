"""Acknowledging to Kafka only after all that came of a record is acknowledged by the broker."""

import asyncio
from collections.abc import Callable, Sequence

from faust.types import EventT

from app.ending import tell_failure
from app.streams.publisher import Delivery


class Receipts:
    """Records that wait for their outputs.

    limit: how many may wait at once; more make the reader wait, which bounds memory.
    on_failure: called with the error when an output was not taken; the record then stays unacknowledged.
    """

    def __init__(self, limit: int, on_failure: Callable[[BaseException], None]) -> None:
        """Start with none."""
        self._room = asyncio.Semaphore(limit)
        self._on_failure = on_failure

    async def settle(self, event: EventT, deliveries: Sequence[Delivery]) -> None:
        """Acknowledge the event once all deliveries are; returns at once while there is room."""
        await self._room.acquire()
        waiting = [delivery for delivery in deliveries if not delivery.done() or delivery.exception()]
        left = len(waiting)
        if not left:
            self._done(event)
            return

        def arrived(delivery: Delivery) -> None:
            nonlocal left
            left -= 1
            error = None if delivery.cancelled() else delivery.exception()
            if delivery.cancelled() or error is not None:
                self._on_failure(error or asyncio.CancelledError())
            elif left == 0:
                self._done(event)

        for delivery in waiting:
            delivery.add_done_callback(arrived)

    def fail_with(self, task: "asyncio.Task[None]") -> None:
        """Report what ended a task that must not end."""
        tell_failure(task, self._on_failure)

    def _done(self, event: EventT) -> None:
        self._room.release()
        event.ack()
