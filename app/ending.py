"""How tasks end, those that run beside the work of others."""

import asyncio
import contextlib
from collections.abc import Callable

Ended = Callable[["asyncio.Task[None]"], None]
"""What is called with a task that has ended."""


async def cancelled(task: "asyncio.Task[None]") -> None:
    """Cancel a task and wait until it has ended; raises what ended it where that was an error."""
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def stopped(task: "asyncio.Task[None]") -> None:
    """The same for a task whose end others are told of, as by ``tell_failure``: raises nothing of what ended it."""
    task.cancel()
    await asyncio.wait({task})


def tell_failure(task: "asyncio.Task[None]", tell: Callable[[BaseException], None]) -> None:
    """Tell of the error that ended a task; nothing of one that was cancelled or came to its end."""
    if not task.cancelled() and (error := task.exception()) is not None:
        tell(error)
