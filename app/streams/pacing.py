"""How far one tenant's requests may be ahead of the fold, so that a burst of one does not stand before all others.

Requests are written faster than executions are carried out. Written at once, thousands of them would lie in the
partition before the next event of every tenant in it: nothing of the burst itself would end before all of it is
folded. So a tenant has a few requests ahead, and the anomalies of the rest wait unacknowledged. What is folded by
another worker is not seen here; it counts as folded after a short time.

Once enough of a tenant's executions wait for their turn, more of them are of no use yet, and each costs the worker what
carrying out a step costs. Then as many are ahead as are folded in good time: one more after each that was, half of
them after one that was not (additive increase, multiplicative decrease, as TCP shares a line).
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

AHEAD = 64
SUPPLY = 32
"""As many that wait for their turn are enough for all slots to be taken for some time."""
IN_GOOD_TIME_S = 0.01
SLOWER, MEMORY = 1.5, 256
"""With a broker that is never so quick, what takes up to so many times the least is in good time, too.

The least goes up by one MEMORY-th of the way to each that takes longer: a broker that has become slow is known after
some hundred requests.
"""
FOLDED_AFTER_S = 0.5


class Pace:
    """The requests that were written and not folded yet, by tenant."""

    def __init__(
        self, monotonic: Callable[[], float] = time.monotonic, waiting: Callable[[str], int] = lambda _: 0
    ) -> None:
        """None yet; waiting: how many executions of a tenant wait for their turn, as far as this worker knows."""
        self.waiting = waiting
        self._monotonic = monotonic
        self._ahead: dict[str, dict[str, float]] = {}
        self._moved = asyncio.Event()
        self._window = float(AHEAD)
        self._least = IN_GOOD_TIME_S
        self._narrowed_at = float("-inf")

    def has_room(self, tenant: str, *, hurried: bool = False) -> bool:
        """Whether one more request of a tenant may be written now.

        hurried: others wait for this, so it does not matter that the tenant has enough.
        """
        ahead = self._ahead.get(tenant)
        if ahead is None:
            return True
        since = self._monotonic() - FOLDED_AFTER_S
        while ahead and ahead[oldest := next(iter(ahead))] < since:
            del ahead[oldest]
        if not ahead:
            del self._ahead[tenant]
        of_use = hurried or self.waiting(tenant) < SUPPLY
        return len(ahead) < (AHEAD if of_use else self._window)

    def written(self, tenant: str, execution_id: str) -> None:
        """A request was written."""
        self._ahead.setdefault(tenant, {})[execution_id] = self._monotonic()

    def folded(self, tenant: str, execution_id: str) -> None:
        """A request was folded here."""
        ahead = self._ahead.get(tenant)
        written_at = None if ahead is None else ahead.pop(execution_id, None)
        if written_at is not None:
            self._adapt(written_at)
            self._moved.set()

    def _adapt(self, written_at: float) -> None:
        """Let fewer be ahead when one took too long that was written since there were last fewer, else more."""
        now = self._monotonic()
        took = now - written_at
        self._least = min(took, self._least + (took - self._least) / MEMORY)
        if took <= max(IN_GOOD_TIME_S, SLOWER * self._least):
            self._window = min(AHEAD, self._window + 1 / self._window)
        elif written_at > self._narrowed_at:
            self._window = max(1.0, self._window / 2)
            self._narrowed_at = now

    async def moves(self) -> None:
        """Wait until something was folded, or counts as folded."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLDED_AFTER_S):
                await self._moved.wait()
