"""Drawing from a Faust stream's queue: how often the loop turns meanwhile, what is passed over, and how it ends."""

import asyncio
from contextlib import aclosing

import pytest
from faust.types import Message

from app.streams.app import StreamSettings, build_app
from app.streams.connection import KafkaConnection
from app.streams.drawing import TURN_S, drawn

GENERATION = 3


class Bench:
    """A channel of an application that is not connected, drawn from by one reader; time stands still."""

    def __init__(self, folder):
        self.now, self.turns = 0.0, 0
        self.app = build_app(KafkaConnection("127.0.0.1:9"), StreamSettings("g", folder))
        self.app.consumer_generation_id = GENERATION
        self.app.flow_control.resume()
        self.channel = self.app.channel(value_type=bytes)
        self.stream = self.app.stream(self.channel)
        self.queue = self.stream.channel.queue
        self.records = drawn(self.stream, lambda: self.now)
        self.counting = asyncio.create_task(self.count())

    async def count(self):
        while True:
            await asyncio.sleep(0)
            self.turns += 1

    def put(self, *values, generation=GENERATION):
        for offset, value in enumerate(values):
            message = Message("t", 0, offset, 0.0, 0, None, None, value, None, generation_id=generation)
            self.queue.put_nowait(self.app.create_event(None, value, None, message))

    async def draw(self):
        return (await anext(self.records)).value


@pytest.fixture
async def bench(tmp_path):
    one = Bench(tmp_path)
    async with aclosing(one.records):
        yield one
    one.counting.cancel()


async def test_what_the_queue_holds_is_drawn_in_one_turn_of_the_loop(bench):
    bench.put(b"a", b"b", b"c")
    first = await bench.draw()
    begun = bench.turns
    assert [first, await bench.draw(), await bench.draw()] == [b"a", b"b", b"c"]
    assert bench.turns == begun


async def test_the_loop_turns_once_it_has_been_long_enough(bench):
    bench.put(b"a", b"b", b"c")
    await bench.draw()
    begun = bench.turns
    bench.now += TURN_S
    assert await bench.draw() == b"b"
    assert bench.turns == begun + 1
    await bench.draw()
    assert bench.turns == begun + 1


async def test_an_empty_queue_is_waited_for(bench):
    waiting = asyncio.create_task(bench.draw())
    await asyncio.sleep(0)
    bench.put(b"a")
    assert await waiting == b"a"


async def test_what_came_before_a_rebalance_is_passed_over(bench):
    bench.put(b"old", generation=GENERATION - 1)
    bench.put(b"new")
    assert await bench.draw() == b"new"
    bench.put(b"late")
    bench.app.flow_control.suspend()
    waiting = asyncio.create_task(bench.draw())
    await asyncio.sleep(0)
    bench.app.flow_control.resume()
    bench.put(b"again")
    assert await waiting == b"again"


async def test_it_raises_what_was_thrown(bench):
    await bench.stream.channel.throw(KeyError("key"))
    with pytest.raises(KeyError):
        await bench.draw()


@pytest.mark.parametrize("is_waiting", [True, False])
async def test_it_ends_when_its_agent_is_stopped(bench, is_waiting):
    if not is_waiting:
        bench.put(b"a")
        await bench.draw()
    ended = asyncio.create_task(anext(bench.records, "ended"))
    if is_waiting:
        await asyncio.sleep(0)
    await bench.stream.channel.throw(StopAsyncIteration())
    assert await ended == "ended"
    assert not bench.stream.get_active_stream().started


async def test_it_ends_with_its_stream(bench):
    bench.put(b"a", b"b")
    await bench.draw()
    await bench.stream.stop()
    assert await anext(bench.records, "ended") == "ended"
