"""Socket Mode: the connections that an app opens, what is sent over them, and what they do wrong.

Frames: docs.slack.dev/apis/events-api/using-socket-mode.
"""

import asyncio
import contextlib
import json
import secrets
import uuid
from dataclasses import dataclass, field
from typing import Any

from aiohttp import WSMessage, WSMsgType, web
from slack_state import Delivery, Json
from waiting import until

CLOSE_S = 1.0  # how long the app may take to say goodbye


@dataclass(eq=False)
class Socket:
    """One connection; waiting: envelopes that are not acknowledged yet. retiring: it was told to disconnect."""

    ws: web.WebSocketResponse
    transport: asyncio.Transport | None
    waiting: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    retiring: bool = False
    pongs: int = 0


class Sockets:
    """The connections of one app.

    open: the oldest first. answers_pings: False plays a connection that is dead but not closed.
    late_acks: acknowledgements for which nobody waits any more.
    """

    def __init__(self, app_id: str, violations: list[str]) -> None:
        """What is wrong with a frame is added to violations."""
        self.app_id, self.violations = app_id, violations
        self.open: list[Socket] = []
        self.answers_pings = True
        self.late_acks: list[Json] = []
        self._tickets: set[str] = set()
        self._sent: dict[str, Delivery] = {}

    def ticket(self) -> str:
        """What opens one connection, once."""
        self._tickets.add(ticket := secrets.token_urlsafe(16))
        return ticket

    async def serve(self, request: web.Request) -> web.StreamResponse:
        """One connection, until it is closed."""
        ticket = request.query.get("ticket", "")
        if ticket not in self._tickets:
            return web.Response(status=401)
        self._tickets.remove(ticket)
        ws = web.WebSocketResponse(autoping=False, timeout=CLOSE_S)
        with contextlib.suppress(ConnectionError):  # the app is gone again
            await ws.prepare(request)
            await self._talk(Socket(ws, request.transport))
        return ws

    async def _talk(self, socket: Socket) -> None:
        try:
            await socket.ws.send_json(self._hello())
            self.open.append(socket)
            async for message in socket.ws:
                await self._take(socket, message)
        finally:
            self._forget(socket)

    async def deliver(self, delivery: Delivery, limit_s: float) -> None:
        """Send an interaction over any connection, and wait for its acknowledgement at most limit_s seconds."""
        usable = [socket for socket in self.open if not socket.retiring] or self.open
        if not usable:
            delivery.error = "the app has no connection open"
            return
        socket = usable[len(self._sent) % len(usable)]  # Slack promises no order among connections
        envelope_id = str(uuid.uuid4())
        self._sent[envelope_id] = delivery
        acknowledged = socket.waiting[envelope_id] = asyncio.get_running_loop().create_future()
        is_view = delivery.payload["type"] == "view_submission"
        envelope = {"envelope_id": envelope_id, "type": "interactive", "accepts_response_payload": is_view}
        try:
            async with asyncio.timeout(limit_s):
                await socket.ws.send_json({**envelope, "payload": delivery.payload})
                delivery.answer = await acknowledged
        except TimeoutError:
            delivery.late, delivery.error = True, "the app did not acknowledge in time"
        except ConnectionError:
            delivery.error = "the connection was closed before the app acknowledged"
        else:
            delivery.status = 200
        finally:
            socket.waiting.pop(envelope_id, None)

    async def rotate(self, reason: str, *, at_once: bool) -> None:
        """Tell every connection to disconnect, and close those that the app has not left by itself."""
        told = list(self.open)
        for socket in told:
            socket.retiring = True
            await socket.ws.send_json({"type": "disconnect", "reason": reason, "debug_info": {"host": "applink-test"}})

        async def left() -> bool:
            return not any(socket in self.open for socket in told)

        if not at_once:
            with contextlib.suppress(AssertionError):
                await until(left, CLOSE_S)
        await self._close([socket for socket in told if socket in self.open])

    async def ping(self) -> None:
        """Ping every connection; their pongs are counted."""
        for socket in list(self.open):
            await socket.ws.ping(b"ping from slack")

    def drop(self) -> None:
        """Break every connection off, with no word."""
        for socket in list(self.open):
            self._forget(socket)
            if socket.transport is not None:
                socket.transport.abort()

    async def close(self) -> None:
        """Close every connection in order."""
        await self._close(list(self.open))

    async def _close(self, closing: list[Socket]) -> None:
        for socket in closing:
            self._forget(socket)
        await asyncio.gather(*(socket.ws.close() for socket in closing))

    def _forget(self, socket: Socket) -> None:
        if socket in self.open:
            self.open.remove(socket)
        for acknowledged in socket.waiting.values():
            if not acknowledged.done():
                acknowledged.set_exception(ConnectionResetError("closed"))

    def _hello(self) -> Json:
        debug_info = {"host": "applink-test", "build_number": 1, "approximate_connection_time": 18060}
        connections = {"num_connections": len(self.open) + 1, "connection_info": {"app_id": self.app_id}}
        return {"type": "hello", **connections, "debug_info": debug_info}

    async def _take(self, socket: Socket, message: WSMessage) -> None:
        match message.type:
            case WSMsgType.PING if self.answers_pings:
                await socket.ws.pong(message.data)
            case WSMsgType.PONG:
                socket.pongs += 1
            case WSMsgType.TEXT:
                self._acknowledge(socket, json.loads(message.data))

    def _acknowledge(self, socket: Socket, given: Json) -> None:
        envelope_id = given.get("envelope_id", "")
        if envelope_id not in self._sent:
            self.violations.append(f"socket: no envelope was sent that {given} acknowledges")
        elif (waiting := socket.waiting.get(envelope_id)) is None or waiting.done():
            self.late_acks.append(given)
        else:
            waiting.set_result(given.get("payload"))
