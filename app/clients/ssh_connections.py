"""The connections to one host: opened when one is needed, shared, opened again when one broke."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import asyncssh

from app.core.errors import TemporaryError

SESSIONS_PER_CONNECTION = 8  # OpenSSH's MaxSessions is 10; a session that was left counts until its process ends
SESSIONS_PER_HOST = 32
IDLE_S = 300.0


class Connection:
    """One connection, and how many sessions use it."""

    def __init__(self, ssh: asyncssh.SSHClientConnection) -> None:
        """Nobody uses it yet."""
        loop = asyncio.get_running_loop()
        self.ssh = ssh
        self.opened_at = loop.time()
        self.has_served = False  # whether a session was ever opened on it
        self._most = SESSIONS_PER_CONNECTION
        self._sessions = 0
        self._retired = False
        self._idle = loop.call_later(IDLE_S, self.retire)

    @property
    def is_closed(self) -> bool:
        """Whether it is gone."""
        return self.ssh.is_closed()

    @property
    def is_free(self) -> bool:
        """Whether it takes one session more."""
        return not self._retired and not self.is_closed and self._sessions < self._most

    @contextlib.contextmanager
    def used(self) -> Iterator[None]:
        """Count a session as long as it is used."""
        self._idle.cancel()
        self._sessions += 1
        try:
            yield
        finally:
            self._sessions -= 1
            if self._retired:
                self.retire()
            elif not self._sessions:
                self._idle = asyncio.get_running_loop().call_later(IDLE_S, self.retire)

    def opened_none(self) -> bool:
        """Note that one of its sessions could not be opened; whether there were others.

        With others, it has as many as the host allows; without, it is stale or the host allows none.
        """
        others = self._sessions - 1
        if others:
            self._most = others
        else:
            self.retire()
        return others > 0

    def retire(self) -> None:
        """Take no new session, and close with the last one."""
        self._retired = True
        self._idle.cancel()
        if not self._sessions:
            self.ssh.close()

    async def close(self) -> None:
        """Close it, whoever uses it."""
        self._idle.cancel()
        self.ssh.close()
        await self.ssh.wait_closed()


class Connections:
    """The connections to one host; connect opens one and raises ActionError."""

    def __init__(self, name: str, connect: Callable[[], Awaitable[asyncssh.SSHClientConnection]]) -> None:
        """Nothing connects yet; name: the host's, for messages."""
        self._name = name
        self._connect = connect
        self._open: list[Connection] = []
        self._opening: asyncio.Task[Connection] | None = None
        self._places = asyncio.Semaphore(SESSIONS_PER_HOST)

    async def close(self) -> None:
        """Close all."""
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        await asyncio.gather(*(one.close() for one in self._open))
        self._open.clear()

    def retire(self) -> None:
        """Close each when its last session ends."""
        for one in self._open:
            one.retire()

    @contextlib.asynccontextmanager
    async def place(self, deadline: float) -> AsyncIterator[None]:
        """The right to one session, by the loop's clock no later than the deadline; raises TemporaryError."""
        async with self._in_time(deadline):
            await self._places.acquire()
        try:
            yield
        finally:
            self._places.release()

    async def free(self, deadline: float) -> Connection:
        """A connection that takes a session more: one that is there, or a new one.

        Whoever needs a new one waits for the same. Raises what connecting raises, TemporaryError after the deadline.
        """
        while True:
            self._open = [one for one in self._open if not one.is_closed]
            found = next((one for one in self._open if one.is_free), None)
            if found is not None:
                return found
            if self._opening is None:
                self._opening = asyncio.create_task(self._opened())
                self._opening.add_done_callback(self._settled)
            async with self._in_time(deadline):
                opened = await asyncio.shield(self._opening)
            if opened.is_closed:
                raise TemporaryError(f"{self._name} closed the connection at once")

    async def _opened(self) -> Connection:
        opened = Connection(await self._connect())
        self._open.append(opened)
        return opened

    def _settled(self, opening: "asyncio.Task[Connection]") -> None:
        self._opening = None
        if not opening.cancelled():
            opening.exception()  # told to whoever waits, if anybody still does

    @contextlib.asynccontextmanager
    async def _in_time(self, deadline: float) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout_at(deadline):
                yield
        except TimeoutError:
            raise TemporaryError(f"{self._name} had no session free in time: nothing was run") from None
