"""Requests to Kubernetes that change something, and the end of a step's time."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from types import TracebackType
from typing import NamedTuple, Self, TypeVar

from app.core.errors import ActionError, PermanentError

WIND_UP_S = 10.0  # to look once more when the time is up; the runner leaves 15 s
ANSWER_S = 4.0  # of these, for what is under way
T = TypeVar("T")


class WoundUp(NamedTuple):
    """How winding up went. trouble: what went wrong last, None where nothing did; refused: something was for good."""

    trouble: str | None = None
    refused: bool = False


class Writes:
    """A request that is under way when the step's time is up is not given up: its answer tells what it did.

    Within ``async with``: what is under way at its end, as when the worker ends the step, is given up.
    """

    def __init__(self) -> None:
        """None is under way."""
        self._under_way: set[asyncio.Task[object]] = set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._give_up()

    async def answered(self, request: Coroutine[object, object, T]) -> T:
        """What it gives; where the time is up before that, the request goes on and ``wind_up`` hears of it."""
        task = asyncio.create_task(request)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return await asyncio.shield(task)

    async def wind_up(self, *acts: Callable[[], Awaitable[object]]) -> WoundUp:
        """Hear what is under way, for ANSWER_S at most, then do each; within WIND_UP_S in all."""
        ended = WoundUp()
        try:
            async with asyncio.timeout(WIND_UP_S):
                for act in (self._settled, *acts):
                    try:
                        await act()
                    except ActionError as error:
                        ended = WoundUp(str(error), ended.refused or isinstance(error, PermanentError))
        except TimeoutError:
            ended = ended._replace(trouble="the Kubernetes API does not answer")
        return ended

    async def _settled(self) -> None:
        """Until none is under way: the acts after it change what a late answer would change, too.

        Raises the first error of a request that ends now.
        """
        if not self._under_way:
            return
        done, _ = await asyncio.wait(self._under_way, timeout=ANSWER_S)
        await self._give_up()
        await asyncio.gather(*(one for one in done if not one.cancelled()))

    async def _give_up(self) -> None:
        left = [*self._under_way]
        for one in left:
            one.cancel()
        await asyncio.gather(*left, return_exceptions=True)
