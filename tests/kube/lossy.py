"""A line to the API that can lose its answers: requests arrive and take effect, and nobody hears of it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class LossyLine:
    """Passes bytes on in both directions; while it loses answers, it breaks off where the first would come."""

    def __init__(self) -> None:
        self.loses_answers = False
        self.url = ""

    @contextlib.asynccontextmanager
    async def towards(self, port: int) -> AsyncIterator["LossyLine"]:
        served: set[asyncio.Task] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.add(asyncio.current_task())
            api_reader, api_writer = await asyncio.open_connection("127.0.0.1", port)
            asking = asyncio.create_task(_pass_on(reader, api_writer))
            try:
                while data := await api_reader.read(65536):
                    if self.loses_answers:
                        break
                    writer.write(data)
            finally:
                asking.cancel()
                for one in (writer, api_writer):
                    one.transport.abort()
                await asyncio.gather(asking, return_exceptions=True)

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        self.url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for one in served:
                one.cancel()
            await asyncio.gather(*served, return_exceptions=True)
            await server.wait_closed()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await reader.read(65536):
            writer.write(data)
        writer.close()
