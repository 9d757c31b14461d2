"""Servers for the clients: the demo's stand-ins, and one that says whatever bytes a test gives it."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

import pytest
from fakes import clients_towards, running_stand_ins

Script = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def stand_ins():
    async with running_stand_ins() as running:
        yield running


@pytest.fixture
async def clients(stand_ins, tmp_path):
    async with clients_towards(stand_ins, tmp_path) as ready:
        yield ready


class RawServer:
    """A TCP server that carries out a script per connection; seen holds the head of every request."""

    def __init__(self) -> None:
        self.port = 0
        self.seen: list[bytes] = []
        self.released = asyncio.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def serving(self, script: Script) -> AsyncIterator["RawServer"]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.add(asyncio.current_task())
            try:
                self.seen.append(await reader.readuntil(b"\r\n\r\n"))
                await script(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError):
                pass  # the client is gone: that is what some tests are about
            finally:
                writer.close()
                with suppress(ConnectionError):
                    await writer.wait_closed()

        served: set[asyncio.Task] = set()
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.released.set()
            server.close()
            await server.wait_closed()
            await asyncio.gather(*served)


@pytest.fixture
async def raw():
    """Start a server of raw bytes: `async with raw(answer(b"...")) as server`."""
    return lambda script: RawServer().serving(script)


@pytest.fixture
async def hanging():
    """A server that takes every request and never answers."""
    server = RawServer()

    async def hang(_reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await server.released.wait()

    async with server.serving(hang):
        yield server


def answer(raw_bytes: bytes) -> Script:
    """A script that says these bytes and closes."""

    async def say(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(raw_bytes)
        await writer.drain()

    return say


async def reset(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A script that breaks the connection off."""
    writer.transport.abort()


@pytest.fixture
def scripts():
    """The scripts: a folder of tests is no package to import them from."""
    return {"answer": answer, "reset": reset}
