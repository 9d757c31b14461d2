import asyncio
import gc
import weakref
from datetime import timedelta

import pytest
from building import T0, Story, requested, scale, slack, story

from app.core.errors import TemporaryError
from app.streams.timers import Timers


class Clock:
    """A clock that stands where it is put."""

    def __init__(self):
        self.now = T0

    def __call__(self):
        return self.now


class Fired:
    """Remembers what fired; refuses as often as it is told to."""

    def __init__(self, refusals=0):
        self.executions = []
        self.refusals = refusals
        self.changed = asyncio.Event()

    async def __call__(self, armed):
        if self.refusals:
            self.refusals -= 1
            raise TemporaryError("the broker is away")
        self.executions.append(armed.execution_id)
        self.changed.set()


async def running(timers):
    task = asyncio.create_task(timers.run())
    await asyncio.sleep(0)
    return task


async def test_a_deadline_fires_when_its_time_has_come():
    clock, fired = Clock(), Fired()
    timers = Timers(fired, clock)
    waiting = story(scale(require_approval=True)).prepared().state
    timers.arm(waiting)
    task = await running(timers)
    assert fired.executions == []
    clock.now += timedelta(minutes=10)
    timers.arm_now(waiting)  # wakes the loop, as any later deadline does
    async with asyncio.timeout(5):
        await fired.changed.wait()
    assert fired.executions == [waiting.execution_id]
    task.cancel()


@pytest.mark.parametrize("turns", range(4))
async def test_one_that_is_stopped_just_as_something_changes_ends(turns):
    timers = Timers(Fired(), Clock())
    state = story(scale(require_approval=True)).prepared().state
    timers.arm(state)
    task = await running(timers)
    await asyncio.sleep(0)
    timers.arm_now(state)
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=5)
    assert task.cancelled()


async def test_a_deadline_is_replaced_and_disarmed():
    clock, fired = Clock(), Fired()
    timers = Timers(fired, clock)
    s = story(slack())
    command = s.command
    timers.arm(s.started().state)
    timers.arm(s.heartbeat(command, until=60).state)
    clock.now += timedelta(seconds=30)
    task = await running(timers)
    assert fired.executions == []
    timers.arm(s.finished(command).state)
    clock.now += timedelta(seconds=600)
    other = Story(requested(slack()).model_copy(update={"execution_id": "other"})).started().state
    timers.arm_now(other)
    async with asyncio.timeout(5):
        await fired.changed.wait()
    assert fired.executions == ["other"]
    task.cancel()


async def test_a_broker_that_is_away_is_asked_again():
    clock, fired = Clock(), Fired(refusals=1)
    timers = Timers(fired, clock)
    timers.arm_now(story(slack()).started().state)
    task = await running(timers)
    clock.now += timedelta(seconds=2)
    timers._changed.set()
    async with asyncio.timeout(5):
        await fired.changed.wait()
    assert len(fired.executions) == 1
    task.cancel()


async def test_cleared_nothing_fires():
    fired = Fired()
    timers = Timers(fired, Clock())
    timers.arm_now(story(slack()).started().state)
    timers.clear()
    task = await running(timers)
    assert fired.executions == []
    task.cancel()


async def test_what_has_ended_is_not_kept_until_its_deadline():
    timers = Timers(Fired(), Clock())
    s = story(scale(require_approval=True)).prepared()
    timers.arm(s.state)
    kept = weakref.ref(s.state)
    s.cancel()
    timers.arm(s.state)
    gc.collect()
    assert kept() is None
