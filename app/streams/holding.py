"""Anomalies that wait until their tenant is less far ahead: a line for each tenant, in the order of its anomalies.

Whoever stands behind the first is not even read: a burst costs little more than looking whose it is, so that the
anomalies of others behind it in the partition are soon reached. Only the first one of a line can be read; it matches
then, and waits for room.
"""

import asyncio
from collections import deque
from dataclasses import dataclass, field

from faust.types import EventT

from app.core.anomaly import Anomaly

MAX_HELD = 20_000
"""Anomalies of all tenants that may wait for their turn, unacknowledged; a kilobyte or two each."""


@dataclass(slots=True)
class Line:
    """What waits of one tenant; read: the first one, where it was read."""

    events: deque[EventT[bytes]] = field(default_factory=deque)
    read: Anomaly | None = None


class Held:
    """All lines."""

    def __init__(self) -> None:
        """None yet."""
        self._lines: dict[str, Line] = {}
        self._some = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_HELD)
        self._cleared = 0

    def __len__(self) -> int:
        """How many wait."""
        return sum(len(line.events) for line in self._lines.values())

    def __contains__(self, tenant: str | None) -> bool:
        """Whether any of a tenant wait."""
        return tenant in self._lines

    @property
    def full(self) -> bool:
        """Whether there is no room for one more."""
        return self._room.locked()

    def tenants(self) -> list[str]:
        """Whose wait."""
        return list(self._lines)

    def line_of(self, tenant: str) -> Line | None:
        """A tenant's line; None when it has none, or not any more."""
        return self._lines.get(tenant)

    async def add(self, tenant: str, event: EventT[bytes], read: Anomaly | None = None) -> None:
        """Have it wait behind the tenant's others, when there is room for one more; read: what it is, where known.

        One that was waiting for room when all were let go is let go too.
        """
        cleared = self._cleared
        await self._room.acquire()
        if self._cleared != cleared:
            self._room.release()
            return
        line = self._lines.setdefault(tenant, Line())
        if not line.events:
            line.read = read
        line.events.append(event)
        self._some.set()

    def take(self, tenant: str, event: EventT[bytes]) -> None:
        """The first one of a tenant is done with; nothing happens when it was let go meanwhile."""
        line = self._lines.get(tenant)
        if line is None or line.events[0] is not event:
            return
        line.events.popleft()
        line.read = None
        self._room.release()
        if not line.events:
            del self._lines[tenant]
        if not self._lines:
            self._some.clear()

    def clear(self) -> None:
        """Let go of all."""
        for _ in range(len(self)):
            self._room.release()
        self._lines.clear()
        self._some.clear()
        self._cleared += 1

    async def some(self) -> None:
        """Wait until any wait."""
        await self._some.wait()
