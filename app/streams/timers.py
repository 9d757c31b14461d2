"""Deadlines: a heap per worker, each answered by a ``timer_fired`` record in the log."""

import asyncio
import contextlib
import heapq
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from app.core.errors import TemporaryError
from app.core.execution import Execution
from app.core.lifecycle import wake_at

RETRY = timedelta(seconds=1)


class Armed(NamedTuple):
    """Whose deadline it is; not the state: that of an execution that has ended would be kept until the deadline."""

    tenant: str
    execution_id: str


class Timers:
    """The next deadline of each live execution.

    fire: publishes ``timer_fired`` for an execution; raises TemporaryError while the broker is away,
    and is asked again.
    """

    def __init__(self, fire: Callable[[Armed], Awaitable[object]], clock: Callable[[], datetime]) -> None:
        """Start with none."""
        self._fire = fire
        self._clock = clock
        self._heap: list[tuple[datetime, int, Armed]] = []
        self._armed: dict[str, datetime] = {}
        self._count = 0
        self._changed = asyncio.Event()

    def clear(self) -> None:
        """Forget all."""
        self._heap.clear()
        self._armed.clear()

    def arm(self, execution: Execution) -> None:
        """Take an execution's next deadline, in place of the one before; none disarms it."""
        deadline = None if execution.terminal else wake_at(execution)
        if deadline is None:
            self._armed.pop(execution.execution_id, None)
        elif self._armed.get(execution.execution_id) != deadline:
            self._push(deadline, Armed(execution.tenant, execution.execution_id))

    def arm_now(self, execution: Execution) -> None:
        """Let it fire at once: after recovery, so that what is outstanding is said again."""
        self._push(self._clock(), Armed(execution.tenant, execution.execution_id))

    def _push(self, deadline: datetime, armed: Armed) -> None:
        self._armed[armed.execution_id] = deadline
        self._count += 1
        heapq.heappush(self._heap, (deadline, self._count, armed))
        self._changed.set()

    async def run(self) -> None:
        """Fire each deadline when its time has come, until cancelled."""
        while True:
            self._changed.clear()
            while self._heap and self._heap[0][0] <= self._clock():
                deadline, _, armed = heapq.heappop(self._heap)
                if self._armed.get(armed.execution_id) == deadline:
                    await self._fire_one(armed)
            await self._until_next()

    async def _fire_one(self, armed: Armed) -> None:
        self._armed.pop(armed.execution_id, None)
        try:
            await self._fire(armed)
        except TemporaryError:
            self._push(self._clock() + RETRY, armed)

    async def _until_next(self) -> None:
        wait_s = (self._heap[0][0] - self._clock()).total_seconds() if self._heap else None
        with contextlib.suppress(TimeoutError):  # wait_for of Python 3.11 forgets a cancellation now and then
            async with asyncio.timeout(None if wait_s is None else max(wait_s, 0)):
                await self._changed.wait()
