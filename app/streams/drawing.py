"""The records of a stream as its queue holds them, and not one a turn of the event loop.

A stream of Faust lets the loop turn before each record. While a turn holds milliseconds of other agents' work, an agent
gets one record in that time, whatever waits for it. Here the loop turns when nothing waits, and every few milliseconds.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from typing import Any

from faust.types import EventT, StreamT

TURN_S = 0.002
"""An agent that has records enough lets the others have their turn after so long."""


class Turn:
    """One turn of the event loop, and when it has been long enough."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """It begins now."""
        self._monotonic = monotonic
        self._began = monotonic()

    async def passes(self) -> None:
        """Let the loop turn."""
        await asyncio.sleep(0)
        self.begins()

    def begins(self) -> None:
        """The loop has turned."""
        self._began = self._monotonic()

    def is_over(self) -> bool:
        """Whether it is the others' turn."""
        return self._monotonic() - self._began >= TURN_S


async def drawn(
    stream: StreamT[bytes], monotonic: Callable[[], float] = time.monotonic
) -> AsyncGenerator[EventT[bytes], None]:
    """The stream's records, none of which it acknowledges; ends when the stream is stopped.

    Raises what was thrown into its channel. Like Faust's own iterator it passes over what came before the partitions
    were shared out anew, which is read again. Faust's sensors are told nothing.
    """
    source: Any = stream.noack()
    app, queue = source.app, source.channel.queue
    started_here = await source.maybe_start()
    turn = Turn(monotonic)
    try:
        while not source.should_stop:
            if queue.empty():
                event = await queue.get()
                turn.begins()
            elif turn.is_over():
                await turn.passes()
                continue
            else:
                event = queue.get_nowait()
            message = event.message
            if app.flow_control.is_active() and message.generation_id == app.consumer_generation_id:
                yield event
    except StopAsyncIteration:  # Faust's way to end an agent
        return
    finally:
        source.channel.on_stop_iteration()
        if started_here:
            await source.stop()
            source.service_reset()
