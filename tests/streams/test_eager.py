import asyncio

import pytest

from app.streams.eager import begin


async def test_what_has_nothing_to_wait_for_is_done_at_once():
    said = []

    async def work():
        said.append("done")

    assert begin(work()) is None
    assert said == ["done"]


async def test_what_waits_goes_on_where_it_was_when_it_is_awaited():
    gate, said = asyncio.get_running_loop().create_future(), []

    async def work():
        said.append("begun")
        said.append(await gate)
        await asyncio.sleep(0)
        said.append("done")

    rest = begin(work())
    assert said == ["begun"]
    going_on = asyncio.ensure_future(rest)
    await asyncio.sleep(0)
    assert said == ["begun"]
    gate.set_result("let go")
    await going_on
    assert said == ["begun", "let go", "done"]


async def test_it_raises_what_it_raises():
    async def at_once():
        raise ValueError("at once")

    async def later():
        await asyncio.sleep(0)
        raise ValueError("later")

    with pytest.raises(ValueError, match="at once"):
        begin(at_once())
    with pytest.raises(ValueError, match="later"):
        await begin(later())


@pytest.mark.parametrize("turns", [0, 1])
async def test_a_cancelled_one_ends_where_it_waits(turns):
    gate, said = asyncio.get_running_loop().create_future(), []

    async def work():
        try:
            await gate
        finally:
            said.append("left")

    going_on = asyncio.ensure_future(begin(work()))
    for _ in range(turns):
        await asyncio.sleep(0)
    going_on.cancel()
    with pytest.raises(asyncio.CancelledError):
        await going_on
    assert said == ["left"]


async def test_one_that_is_not_gone_on_with_can_be_closed():
    said = []

    async def work():
        try:
            await asyncio.sleep(1)
        finally:
            said.append("left")

    begin(work()).close()
    assert said == ["left"]
