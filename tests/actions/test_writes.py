"""A write that is under way as a step's time ends, without a cluster."""

import asyncio

import pytest

from app.actions import writes
from app.actions.writes import WoundUp, Writes
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError


class Request:
    """It goes on until it is let go, and tells how it ended."""

    def __init__(self, error=None):
        self._error = error
        self.let_go = asyncio.Event()
        self.sent = asyncio.Event()
        self.ended = None

    async def made(self):
        self.sent.set()
        try:
            await self.let_go.wait()
        except asyncio.CancelledError:
            self.ended = "given up"
            raise
        self.ended = "answered"
        if self._error is not None:
            raise self._error
        return "its answer"


async def under_way(some, request):
    """Ask for it, and run out of time while it is under way."""
    asking = asyncio.create_task(some.answered(request.made()))
    await request.sent.wait()
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


async def test_what_is_answered_in_time_is_given():
    request = Request()
    request.let_go.set()
    async with Writes() as some:
        assert await some.answered(request.made()) == "its answer"
        assert await some.wind_up() == WoundUp()


@pytest.mark.parametrize(
    ("error", "ended"),
    [
        (None, WoundUp()),
        (TemporaryError("busy"), WoundUp("busy")),
        (OutcomeUnknown("lost"), WoundUp("lost")),
        (PermanentError("no"), WoundUp("no", refused=True)),
    ],
)
async def test_an_answer_that_comes_late_is_heard_before_anything_else_is_done(error, ended):
    request, seen = Request(error), []

    async def look():
        seen.append(request.ended)

    async with Writes() as some:
        await under_way(some, request)
        winding_up = asyncio.create_task(some.wind_up(look))
        await asyncio.sleep(0)
        assert (request.ended, seen) == (None, [])
        request.let_go.set()
        assert await winding_up == ended
    assert seen == ["answered"]


async def test_one_that_is_not_answered_has_ended_before_anything_else_is_done(monkeypatch):
    monkeypatch.setattr(writes, "ANSWER_S", 0.01)
    request, seen = Request(), []

    async def look():
        seen.append(request.ended)

    async with Writes() as some:
        await under_way(some, request)
        assert await some.wind_up(look) == WoundUp()
    assert seen == ["given up"]


async def test_what_goes_wrong_last_is_told_and_the_rest_is_done():
    seen = []

    async def fails(error):
        seen.append(error)
        raise error

    async with Writes() as some:
        acts = [lambda: fails(PermanentError("no")), lambda: fails(TemporaryError("busy"))]
        assert await some.wind_up(*acts) == WoundUp("busy", refused=True)
    assert len(seen) == 2


async def test_an_api_that_does_not_answer_ends_it(monkeypatch):
    monkeypatch.setattr(writes, "WIND_UP_S", 0.01)
    async with Writes() as some:
        assert await some.wind_up(asyncio.Event().wait) == WoundUp("the Kubernetes API does not answer")


async def test_a_step_that_the_worker_ends_leaves_no_write_behind():
    request = Request()

    async def step():
        async with Writes() as some:
            await some.answered(request.made())

    running = asyncio.create_task(step())
    await request.sent.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert request.ended == "given up"
