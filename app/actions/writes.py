"""Requests to Kubernetes that change something, and the end of a step's time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import Self, TypeVar

from app.core.errors import ActionError

WIND_UP_S = 10.0  # to look once more when the time is up; the runner leaves 15 s
ANSWER_S = 4.0  # of these, for what is under way
T = TypeVar("T")


class Writes:
    """One that is under way when the step's time is up is not given up: its answer tells what it did.

    Within ``async with``; what is still under way at its end, or when the worker ends the step, is given up.
    """

    def __init__(self) -> None:
        """None is under way."""
        self._under_way: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        left = [*self._under_way]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)

    async def answered(self, request: Coroutine[object, object, T]) -> T:
        """What it gives; where the time is up before that, the request goes on and ``settled`` waits for it."""
        task = asyncio.create_task(request)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def wind_up(self, *acts: Callable[[], Awaitable[object]]) -> str | None:
        """Hear what is under way, then do each, within WIND_UP_S in all; what went wrong last, if anything did."""
        trouble = None
        try:
            async with asyncio.timeout(WIND_UP_S):
                for act in (self._settled, *acts):
                    try:
                        await act()
                    except ActionError as error:
                        trouble = str(error)
        except TimeoutError:
            trouble = "the Kubernetes API does not answer"
        return trouble

    async def _settled(self) -> None:
        """Until none is under way, for ANSWER_S at most; raises the first error of one that ends now."""
        if self._under_way:
            done, _ = await asyncio.wait(self._under_way, timeout=ANSWER_S)
            for error in [one.exception() for one in done]:
                if error is not None:
                    raise error
