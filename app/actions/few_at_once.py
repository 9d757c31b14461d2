"""Many requests, a few at a time."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar

AT_ONCE = 5
T = TypeVar("T")
R = TypeVar("R")


async def few_at_once(act: Callable[[T], Awaitable[R]], things: Iterable[T]) -> list[R]:
    """What ``act`` gives for each, in their order; all are let finish, then the first error is raised."""
    free = asyncio.Semaphore(AT_ONCE)

    async def one(thing: T) -> R:
        async with free:
            return await act(thing)

    answers = await asyncio.gather(*map(one, things), return_exceptions=True)
    results: list[R] = []
    for answer in answers:
        if isinstance(answer, BaseException):
            raise answer
        results.append(answer)
    return results
