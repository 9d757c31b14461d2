"""The pauses in force on this worker, and waiting until they are others."""

import asyncio
import contextlib
from collections.abc import Callable
from datetime import datetime

from app.core.execution import Execution
from app.core.pauses import Pause
from app.core.pauses import Pauses as Fold


class Pauses:
    """What the definitions' log says of pauses; ``told`` whenever it may have changed."""

    def __init__(self, fold: Fold) -> None:
        """Look at this fold."""
        self._fold = fold
        self._told = asyncio.Event()

    def tell(self) -> None:
        """The fold has changed."""
        self._told.set()

    def pause_of(self, execution: Execution, at: datetime) -> Pause | None:
        """As the fold says."""
        return self._fold.pause_of(execution, at)

    async def changed(self, clock: Callable[[], datetime]) -> None:
        """Return when a pause came or went, or when a window opened or closed."""
        now = clock()
        edge = self._fold.next_change(now)
        self._told.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if edge is None else (edge - now).total_seconds()):
                await self._told.wait()
