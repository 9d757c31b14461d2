"""Who may act on what: one execution a target at a time, in the order in which they came, across runbooks."""

import bisect
from collections.abc import Iterator


class Waiter:
    """One execution that waits; place orders it, targets are what it needs all at once."""

    __slots__ = ("execution_id", "place", "targets")

    def __init__(self, execution_id: str, place: int, targets: tuple[str, ...]) -> None:
        """Keep the three."""
        self.execution_id = execution_id
        self.place = place
        self.targets = targets


class TargetLocks:
    """The targets of one tenant's executions, and who may start.

    An execution may start when nobody holds any of its targets and it is the first of each one's line: whoever came
    first is never overtaken, so nobody waits in a circle.
    """

    def __init__(self) -> None:
        """Nobody waits, nobody holds."""
        self._waiting: dict[str, Waiter] = {}
        self._lines: dict[str, dict[str, None]] = {}
        self._holders: dict[str, dict[str, None]] = {}
        self._held: dict[str, tuple[str, ...]] = {}
        self._ready: list[tuple[int, str]] = []

    def wait(self, execution_id: str, place: int, targets: tuple[str, ...]) -> None:
        """It wants to start; whoever waits comes in the order of places."""
        if execution_id in self._waiting:
            return
        self._waiting[execution_id] = Waiter(execution_id, place, targets)
        for target in targets:
            self._lines.setdefault(target, {})[execution_id] = None
        self._look_at(execution_id)

    def take(self, execution_id: str, targets: tuple[str, ...]) -> None:
        """It has started: it holds its targets, beside whoever does."""
        if execution_id in self._held:
            return
        self._stop_waiting(execution_id)
        self._held[execution_id] = targets
        for target in targets:
            self._holders.setdefault(target, {})[execution_id] = None
        self._look_again(targets)

    def leave(self, execution_id: str) -> None:
        """It has ended, or waits no more."""
        targets = self._held.pop(execution_id, ())
        for target in targets:
            holders = self._holders[target]
            del holders[execution_id]
            if not holders:
                del self._holders[target]
        self._look_again((*targets, *self._stop_waiting(execution_id)))

    def ready(self) -> Iterator[str]:
        """Who may start, in order."""
        return (execution_id for _, execution_id in self._ready)

    def holder_before(self, execution_id: str) -> tuple[str, str] | None:
        """The first target that keeps an execution waiting, and who holds it or is before it; None when none does."""
        waiter = self._waiting.get(execution_id)
        for target in waiter.targets if waiter else ():
            if holders := self._holders.get(target):
                return target, next(iter(holders))
            first = next(iter(self._lines[target]))
            if first != execution_id:
                return target, first
        return None

    def __bool__(self) -> bool:
        """Whether anybody waits or holds."""
        return bool(self._waiting or self._held)

    def _stop_waiting(self, execution_id: str) -> tuple[str, ...]:
        waiter = self._waiting.pop(execution_id, None)
        if waiter is None:
            return ()
        self._unready(waiter)
        for target in waiter.targets:
            line = self._lines[target]
            del line[execution_id]
            if not line:
                del self._lines[target]
        return waiter.targets

    def _look_again(self, targets: tuple[str, ...]) -> None:
        for target in targets:
            first = next(iter(self._lines.get(target, ())), None)
            if first is not None:
                self._look_at(first)

    def _look_at(self, execution_id: str) -> None:
        waiter = self._waiting[execution_id]
        self._unready(waiter)
        if self.holder_before(execution_id) is None:
            bisect.insort(self._ready, (waiter.place, execution_id))

    def _unready(self, waiter: Waiter) -> None:
        key = (waiter.place, waiter.execution_id)
        at = bisect.bisect_left(self._ready, key)
        if at < len(self._ready) and self._ready[at] == key:
            del self._ready[at]
