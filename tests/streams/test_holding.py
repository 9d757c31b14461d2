"""Lines of anomalies that wait: what happens when all are let go."""

import asyncio

from app.streams import holding
from app.streams.holding import Held


async def test_one_that_waits_for_room_is_let_go_with_all_others(monkeypatch):
    monkeypatch.setattr(holding, "MAX_HELD", 1)
    held = Held()
    await held.add("busy", "first")
    waiting = asyncio.create_task(held.add("other", "second"))
    await asyncio.sleep(0)
    assert not waiting.done()
    held.clear()
    await waiting
    assert held.tenants() == []
    async with asyncio.timeout(5):
        await held.add("busy", "again")
    assert held.tenants() == ["busy"]
