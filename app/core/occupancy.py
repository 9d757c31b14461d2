"""Who holds what, and who waits: the target locks and slots of one tenant, as far as a log tells."""

from app.core.execution import Execution, Status
from app.core.locks import TargetLocks
from app.core.scheduling import schedule


class Occupancy:
    """Locks and slots beside each other."""

    def __init__(self) -> None:
        """Nobody waits, nobody holds."""
        self._locks = TargetLocks()
        self._waiting: dict[str, int] = {}
        self._holding: set[str] = set()

    def follow(self, execution: Execution, targets: tuple[str, ...]) -> None:
        """An execution is in this state; targets: what it acts on."""
        name = execution.execution_id
        if execution.terminal:
            self.leave(name)
        elif execution.status == Status.queued:
            if not execution.awaits_verdict:
                self.wait(execution, targets)
        else:
            self.take(name, targets, holds_slot=execution.holds_slot)

    def wait(self, execution: Execution, targets: tuple[str, ...]) -> None:
        """It wants to start."""
        self._waiting.setdefault(execution.execution_id, execution.request.limits.max_concurrent_runbooks)
        self._locks.wait(execution.execution_id, execution.place_in_line, targets)

    def take(self, name: str, targets: tuple[str, ...], *, holds_slot: bool) -> None:
        """It has started, or stands at another status."""
        self._waiting.pop(name, None)
        self._locks.take(name, targets)
        (self._holding.add if holds_slot else self._holding.discard)(name)

    def leave(self, name: str) -> None:
        """It has ended."""
        self._waiting.pop(name, None)
        self._holding.discard(name)
        self._locks.leave(name)

    def startable(self) -> tuple[str, ...]:
        """Who may start now, in order."""
        return schedule(((name, self._waiting[name]) for name in self._locks.ready()), len(self._holding))

    def why_waiting(self, name: str) -> str | None:
        """What keeps one that waits from starting; None when nothing does."""
        held = self._locks.holder_before(name)
        if held is not None:
            return f"execution {held[1]} comes before it on {held[0]}"
        if name in self.startable():
            return None
        return f"all {self._waiting[name]} slots are taken"
