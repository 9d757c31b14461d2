"""Which records of a partition were handed out and not acknowledged: how far its offset may be committed.

Faust's own count commits past a record that is still being worked on when it is the first one after the committed
offset and the next one is done already, when nothing was committed before, and when it takes records fetched before a
seek for a gap in the log. Agents here acknowledge in any order, so a worker killed at the wrong moment would lose
exactly that record. This count knows no gaps: what was handed out and not acknowledged is never passed.
"""

import heapq


class Deliveries:
    """One partition's records, by offset."""

    def __init__(self) -> None:
        """Nothing was handed out."""
        self._pending: set[int] = set()
        self._order: list[int] = []
        self._next: int | None = None

    def deliver(self, offset: int) -> None:
        """It is handed out, perhaps again."""
        if offset not in self._pending:
            self._pending.add(offset)
            heapq.heappush(self._order, offset)
        self._next = offset + 1 if self._next is None else max(self._next, offset + 1)

    def acknowledge(self, offset: int) -> None:
        """All that came of it is safe; one that was never handed out is none of ours."""
        self._pending.discard(offset)

    def committable(self) -> int | None:
        """The offset that a restart may begin to read at; None before anything was handed out."""
        while self._order and self._order[0] not in self._pending:
            heapq.heappop(self._order)
        return self._order[0] if self._order else self._next
