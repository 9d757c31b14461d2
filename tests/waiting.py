"""Waiting for conditions, never for time."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

POLL_S = 0.02


async def until(condition: Callable[[], Awaitable[Any]], timeout_s: float = 30.0) -> Any:
    """The first true answer of the condition; fails after timeout_s with its last one."""
    deadline = time.monotonic() + timeout_s
    while not (answer := await condition()):
        assert time.monotonic() < deadline, (
            f"{getattr(condition, '__qualname__', condition)} did not hold within {timeout_s} s: {answer!r}"
        )
        await asyncio.sleep(POLL_S)
    return answer
