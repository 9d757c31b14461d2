"""How far one tenant's requests may be ahead of the fold, so that a burst of one does not stand before all others.

Requests are written faster than executions are carried out. Written at once, thousands of them would lie in the
partition before the next event of every tenant in it: nothing of the burst itself would end before all of it is
folded. So a tenant has a few requests ahead, and the anomalies of the rest wait unacknowledged. What is folded by
another worker is not seen here; it counts as folded after a short time.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable

AHEAD = 64
FOLDED_AFTER_S = 0.5


class Pace:
    """The requests that were written and not folded yet, by tenant."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        """None yet."""
        self._monotonic = monotonic
        self._ahead: dict[str, dict[str, float]] = {}
        self._moved = asyncio.Event()

    def has_room(self, tenant: str) -> bool:
        """Whether one more request of a tenant may be written now."""
        ahead = self._ahead.get(tenant)
        if ahead is None:
            return True
        since = self._monotonic() - FOLDED_AFTER_S
        while ahead and ahead[oldest := next(iter(ahead))] < since:
            del ahead[oldest]
        if not ahead:
            del self._ahead[tenant]
        return len(ahead) < AHEAD

    def written(self, tenant: str, execution_id: str) -> None:
        """A request was written."""
        self._ahead.setdefault(tenant, {})[execution_id] = self._monotonic()

    def folded(self, tenant: str, execution_id: str) -> None:
        """A request was folded here."""
        if (ahead := self._ahead.get(tenant)) is not None and ahead.pop(execution_id, None) is not None:
            self._moved.set()

    async def moves(self) -> None:
        """Wait until something was folded, or counts as folded."""
        self._moved.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FOLDED_AFTER_S):
                await self._moved.wait()
