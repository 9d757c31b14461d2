"""What a worker that watches itself does when it can do so no more."""

import asyncio
import contextlib

from prometheus_client import CollectorRegistry

from app.streams.app import Agents, StreamSettings, build_app
from app.streams.connection import KafkaConnection
from app.watching import watch_backlog


async def test_watching_that_ends_by_an_error_is_the_end_of_the_worker(tmp_path):
    """Its figures would stand still, and no alert be raised."""
    unreadable = KafkaConnection("127.0.0.1:port")
    agents = Agents(build_app(KafkaConnection("127.0.0.1:1"), StreamSettings("g", tmp_path)))
    async with contextlib.AsyncExitStack() as stack:
        await watch_backlog(stack, unreadable, agents, CollectorRegistry())
        async with asyncio.timeout(10):
            assert "'port'" in str(await agents.failure)


async def test_what_runs_beside_the_agents_is_stopped_without_a_failure(tmp_path):
    agents = Agents(build_app(KafkaConnection("127.0.0.1:1"), StreamSettings("g", tmp_path)))
    async with contextlib.AsyncExitStack() as stack:
        agents.run_beside(stack, asyncio.sleep(600))
    assert not agents.failure.done()
