"""Faust's recoveries of the tables: one that ends too late says nothing, and one that the broker lets wait fails.

Faust interrupts a recovery when partitions are assigned anew, not when they are given up before that. One that ends
in between, or just after, would give this worker back what another one owns by then, with rows that are not the newest.
"""

import asyncio
from typing import Any

from faust.types import TP

from app.core.errors import TemporaryError
from app.streams.membership import Membership


class Recoveries:
    """Which recovery is of the partitions that are owned now."""

    def __init__(self, membership: Membership) -> None:
        """None has begun."""
        self._membership = membership
        self._begun: tuple[int, int] | None = None
        self._ending: int | None = None

    def watch(self, recovery: Any) -> None:
        """Hear of the beginning of each of Faust's recoveries, and let only the latest one end."""
        assigned, completed = recovery.on_rebalance, recovery.on_recovery_completed

        async def on_rebalance(now: set[TP], revoked: set[TP], new: set[TP], generation_id: int = 0) -> None:
            self.begins(generation_id)
            await assigned(now, revoked, new, generation_id)

        async def on_recovery_completed(generation_id: int = 0) -> None:
            if self.ends(generation_id):
                await completed(generation_id)

        recovery.on_rebalance, recovery.on_recovery_completed = on_rebalance, on_recovery_completed

    def begins(self, generation: int) -> None:
        """Partitions are assigned."""
        self._begun = generation, self._membership.turn

    def ends(self, generation: int) -> bool:
        """Whether a recovery that ends now is the latest, and nothing was given up since it began."""
        self._ending = self._membership.turn
        return (generation, self._ending) == self._begun

    def is_current(self) -> bool:
        """Whether nothing was given up since the recovery that ends was let end."""
        return self._membership.turn == self._ending


def crash_when_late(recovery: Any) -> None:
    """Have a recovery fail where the broker lets it wait for too long: Faust has it end then, and says nothing."""
    wait = recovery._wait  # noqa: SLF001 - Faust has no other place for it

    async def waited(what: Any, timeout: float | None = None) -> None:  # noqa: ASYNC109 - Faust's signature
        try:
            async with asyncio.timeout(timeout):
                await wait(what)
        except TimeoutError:
            raise TemporaryError(f"the broker let a recovery wait for more than {timeout:g} s") from None

    recovery._wait = waited  # noqa: SLF001 - the same
