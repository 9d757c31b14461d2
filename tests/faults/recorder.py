"""The target of all steps: it writes down every side effect, and can be slow, silent, refusing or resetting."""

import asyncio
import time
from collections import Counter
from typing import NamedTuple

from aiohttp import web

SLOW_S = 1.5


class Effect(NamedTuple):
    """One side effect that took place.

    place: ``(execution id, step, phase)``. at: epoch seconds, taken when it took place and before it is answered.
    """

    place: tuple[str, int, str]
    at: float


class Recorder:
    """An HTTP server of loopback.

    mode: how all of it behaves while targets are bad: ``ok``, ``slow``, ``silent`` (it acts and never answers),
    ``refusing`` (it answers 503 and does nothing) or ``resetting`` (it acts and closes the connection).
    """

    def __init__(self) -> None:
        """Nothing listens yet."""
        self.effects: list[Effect] = []
        self.unnamed: list[str] = []
        self.mode = "ok"
        self._refused: Counter[str] = Counter()
        self._silenced: Counter[str] = Counter()
        self._changed = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self.url = ""

    async def start(self) -> None:
        """Listen on a free port."""
        application = web.Application()
        application.router.add_route("*", "/{what}", self._called)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, backlog=1024).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening; who waits for an answer gets none."""
        self._changed.set()
        if self._runner is not None:
            await self._runner.cleanup()

    def behave(self, mode: str) -> None:
        """Change the mode; calls that wait in silence stay unanswered."""
        self.mode = mode

    async def _called(self, request: web.Request) -> web.StreamResponse:
        key = request.headers.get("Idempotency-Key", "")
        await request.read()
        what = request.match_info["what"]
        if what == "refuse":
            return web.json_response({"error": "never"}, status=400)
        if what == "flaky" and self._refused[key] < 2:
            self._refused[key] += 1
            return web.json_response({"error": "later"}, status=503)
        if self.mode == "refusing":
            return web.json_response({"error": "down"}, status=503)
        self._record(key)
        return await self._answered(request, what, key)

    def _record(self, key: str) -> None:
        try:
            execution_id, _run, step, phase, _attempt = key.split("/")
        except ValueError:
            self.unnamed.append(key)
            return
        self.effects.append(Effect((execution_id, int(step), phase), time.time()))

    async def _answered(self, request: web.Request, what: str, key: str) -> web.StreamResponse:
        hangs_once = what == "hang-once" and not self._silenced[key]
        if what == "hang" or hangs_once or self.mode == "silent":
            self._silenced[key] += 1
            await self._changed.wait()
        if self.mode == "resetting":
            assert request.transport is not None
            request.transport.close()
        if what == "long":
            await asyncio.sleep(3.0)
        if self.mode == "slow":
            await asyncio.sleep(SLOW_S)
        return web.json_response({"done": True})
