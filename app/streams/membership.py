"""How long this worker can be certain that nobody else has been given its partitions.

The broker gives a partition to another worker when its owner has given it up, or when it has not heard of the owner
for the session timeout. The owner learns of the latter late: cut off from the broker it goes on with what it has
fetched, and when it is back it can fetch and write for some time before a heartbeat tells it that it is nobody's
member any more. What it writes then lands after what the new owner has read. So a worker may believe in what it wrote
only when it was still a member after the broker had it: as long as the session lasts from its last heartbeat on.
"""

import asyncio
import time
from collections.abc import Callable


class Membership:
    """One worker's place in its consumer group.

    turn: counts how often the partitions were shared out. on_shared_out: each is called when they are given up for it.
    """

    def __init__(self, session_timeout_s: float, monotonic: Callable[[], float] = time.monotonic) -> None:
        """Nothing is certain before the group was joined; session_timeout_s is the broker's for this worker."""
        self.turn = 0
        self.on_shared_out: list[Callable[[], None]] = []
        self._session_timeout_s = session_timeout_s
        self._monotonic = monotonic
        self._certain_until = float("-inf")
        self._changed = asyncio.Event()

    def heard(self, sent_at: float) -> None:
        """The broker took this worker for a member, in its answer to what was sent at this monotonic time."""
        self._certain_until = max(self._certain_until, sent_at + self._session_timeout_s)
        self._changed.set()

    def shared_out(self) -> None:
        """The partitions are given up, to be shared out anew."""
        self.turn += 1
        self._certain_until = float("-inf")
        self._changed.set()
        for tell in self.on_shared_out:
            tell()

    async def is_certain(self, turn: int) -> bool:
        """Whether what was owned in this turn still is, with everything that the broker has acknowledged until now.

        Waits for a heartbeat where the last one is too long ago.
        """
        while self.turn == turn and self._monotonic() >= self._certain_until:
            self._changed.clear()
            await self._changed.wait()
        return self.turn == turn
