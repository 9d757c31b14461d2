"""What a test has Slack do wrong: kinds of answers, for one method or all, a number of times or until lifted."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web

ALL = "*"
CarryOut = Callable[[], web.Response]


@dataclass
class Fault:
    """A fault that stands: whom it hits, and how often it did.

    carried_out: whether the call has its effect before the answer goes wrong (a message is posted, yet nobody is told).
    times: how often it hits; None means until it is lifted.
    """

    method: str
    strike: Callable[[web.Request, CarryOut], Awaitable[web.StreamResponse]]
    times: int | None = None
    carried_out: bool = False
    hits: int = 0
    released: asyncio.Event = field(default_factory=asyncio.Event)

    def release(self) -> None:
        """Lift it; calls that hang go on."""
        self.times = self.hits
        self.released.set()

    lift = release


class Faults:
    """The faults that stand, the oldest first."""

    def __init__(self) -> None:
        self.standing: list[Fault] = []

    def refuse(self, method: str, code: str, times: int | None = None) -> Fault:
        """Answer ok:false with this code."""
        return self._answer(method, times, lambda: web.json_response({"ok": False, "error": code}))

    def limit(self, method: str, retry_after: str | int = 0, times: int | None = 1) -> Fault:
        """Answer HTTP 429 with this Retry-After."""
        headers = {"Retry-After": str(retry_after)}
        body = {"ok": False, "error": "ratelimited"}
        return self._answer(method, times, lambda: web.json_response(body, status=429, headers=headers))

    def fail(self, method: str, status: int = 500, times: int | None = None, *, carried_out: bool = False) -> Fault:
        """Answer with an HTTP status and a page."""
        page = "<html>Something went wrong</html>"
        made = lambda: web.Response(status=status, text=page, content_type="text/html")  # noqa: E731 - one of many
        return self._answer(method, times, made, carried_out=carried_out)

    def garble(self, method: str, times: int | None = None, *, carried_out: bool = False) -> Fault:
        """Answer HTTP 200 with what is no JSON."""
        made = lambda: web.Response(text='{"ok": tr', content_type="application/json")  # noqa: E731
        return self._answer(method, times, made, carried_out=carried_out)

    def hang(
        self, method: str, times: int | None = None, *, carried_out: bool = False, status: int | None = None
    ) -> Fault:
        """Do not answer until release(); then carry out what was not, and answer as if nothing were.

        status: answer with this HTTP status then, and carry nothing out.
        """

        async def strike(_request: web.Request, carry_out: CarryOut) -> web.StreamResponse:
            answer = carry_out() if fault.carried_out else None
            await fault.released.wait()
            return web.Response(status=status) if status is not None else answer or carry_out()

        fault = self._stand(Fault(method, strike, times, carried_out))
        return fault

    def drop(self, method: str, times: int | None = None, *, carried_out: bool = False) -> Fault:
        """Break the connection off in place of an answer."""

        async def strike(request: web.Request, carry_out: CarryOut) -> web.StreamResponse:
            if fault.carried_out:
                carry_out()
            assert request.transport is not None
            request.transport.abort()
            return web.Response()

        fault = self._stand(Fault(method, strike, times, carried_out))
        return fault

    def hit(self, method: str) -> Fault | None:
        """The fault that hits this call, counted; None when the call goes well."""
        for fault in self.standing:
            if fault.method in {ALL, method} and (fault.times is None or fault.hits < fault.times):
                fault.hits += 1
                return fault
        return None

    def lift_all(self) -> None:
        """Have everything go well from now on."""
        for fault in self.standing:
            fault.release()
        self.standing.clear()

    def _answer(
        self, method: str, times: int | None, made: Callable[[], web.Response], *, carried_out: bool = False
    ) -> Fault:
        async def strike(_request: web.Request, carry_out: CarryOut) -> web.StreamResponse:
            if fault.carried_out:
                carry_out()
            return made()

        fault = self._stand(Fault(method, strike, times, carried_out))
        return fault

    def _stand(self, fault: Fault) -> Fault:
        self.standing.append(fault)
        return fault
