"""One command over one SSH session: what it says, and how it ends."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

import asyncssh

from app.clients.foreign_text import legible
from app.core.planning import OUTPUT_LIMIT

LINGER_S = 2.0  # how long a session may say nothing after its command ended: what it left behind holds the output open
STOPPED_STATUSES = frozenset({124, 137})  # what timeout(1) ends with when it had to act


@dataclass(frozen=True, slots=True)
class Output:
    """What came on one stream: at most 64 KiB of it, with bytes that are no UTF-8 replaced.

    truncated: more came, or may have come.
    """

    text: str
    truncated: bool


@dataclass(frozen=True, slots=True)
class Ran:
    """What became of a command that was sent.

    exit_status, signal: how it ended: one of them, or neither when nobody said. doubt: why its effect is unknown;
    None when it ended by itself.
    """

    exit_status: int | None
    signal: str | None
    stdout: Output
    stderr: Output
    doubt: str | None


class Session(asyncssh.SSHClientSession[bytes]):
    """Keeps the beginning of both streams and drops the rest, so that the command is never held up.

    when_sent: called just before the host is told to run the command.
    """

    def __init__(self, when_sent: Callable[[], None]) -> None:
        """Nothing is opened yet."""
        self._when_sent = when_sent
        self._channel: asyncssh.SSHClientChannel[bytes] | None = None
        self._kept: dict[int | None, bytearray] = {None: bytearray(), asyncssh.EXTENDED_DATA_STDERR: bytearray()}
        self._received = 0
        self._whole = False
        self._lost: Exception | None = None
        self._ended = asyncio.Event()
        self._closed = asyncio.Event()
        self._exit_status: int | None = None
        self._signal: str | None = None
        self._sent_at = self._ended_at = 0.0

    @property
    def sent(self) -> bool:
        """Whether the host may have been told to run the command."""
        return self._channel is not None

    @property
    def closed(self) -> bool:
        """Whether the session is over."""
        return self._closed.is_set()

    def connection_made(self, chan: "asyncssh.SSHClientChannel[bytes]") -> None:
        """The channel is open; asyncssh sends the command next."""
        self._channel = chan
        self._sent_at = asyncio.get_running_loop().time()
        self._when_sent()

    def data_received(self, data: bytes, datatype: int | None) -> None:
        """Keep what still fits; one byte more than the limit tells that there was more."""
        kept = self._kept[datatype]
        kept += data[: OUTPUT_LIMIT + 1 - len(kept)]
        self._received += len(data)

    def eof_received(self) -> bool:
        """All output is here."""
        self._whole = True
        return False

    def exit_status_received(self, status: int) -> None:
        """The command exited."""
        self._exit_status = status
        self._end()

    def exit_signal_received(self, signal: str, core_dumped: bool, msg: str, lang: str) -> None:  # noqa: ARG002, FBT001 - asyncssh's
        """The command was killed."""
        self._signal = signal
        self._end()

    def connection_lost(self, exc: Exception | None) -> None:
        """The session is over, with or without an end of the command."""
        self._lost = exc
        self._end()
        self._closed.set()

    def _end(self) -> None:
        if not self._ended.is_set():
            self._ended_at = asyncio.get_running_loop().time()
            self._ended.set()

    def feed(self, data: bytes) -> None:
        """Give it its stdin, and nothing after that."""
        assert self._channel is not None
        with contextlib.suppress(BrokenPipeError):  # it is over already
            if data:
                self._channel.write(data)
            self._channel.write_eof()

    async def over(self) -> None:
        """Wait until the command ended and its output is here, or until what it left behind keeps silent."""
        await self._ended.wait()
        while not self.closed:
            before = self._received
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(LINGER_S):
                    await self._closed.wait()
            if self._received == before:
                return

    def drop(self) -> None:
        """Close the session however far it came."""
        if self._channel is not None:
            self._channel.abort()

    def ran(self, allowed_s: float) -> Ran:
        """What became of the command; allowed_s: after how many seconds the host was to stop it."""
        doubt = self._doubt(allowed_s)
        out, err = (self._output(kept) for kept in self._kept.values())
        return Ran(self._exit_status, self._signal, out, err, doubt)

    def _doubt(self, allowed_s: float) -> str | None:
        if self._exit_status is None and self._signal is None:
            if self._lost is not None:
                return f"the connection broke while the command ran: {legible(str(self._lost))}"
            said = "the session ended" if self.closed else "the time limit passed"
            return f"{said}, and the host did not say how the command ended"
        took_s = self._ended_at - self._sent_at
        stopped = self._exit_status in STOPPED_STATUSES or self._signal == "KILL"
        if stopped and took_s >= allowed_s * 0.99:  # the host's clock may run a little faster
            return "the command was stopped at its time limit"
        return None

    def _output(self, kept: bytearray) -> Output:
        text = kept[:OUTPUT_LIMIT].decode("utf-8", errors="replace")
        cut = len(kept) > OUTPUT_LIMIT
        return Output(text.rstrip("\ufffd") if cut else text, cut or not self._is_whole)

    @property
    def _is_whole(self) -> bool:
        """Whether all output came: the host said so, or closed the session after the command's end."""
        ended = self._exit_status is not None or self._signal is not None
        return self._whole or (ended and self.closed and self._lost is None)
