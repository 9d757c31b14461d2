"""The messages about approvals on one worker: those about one message after the other, the newest version wins.

Changes that ran beside each other could land in any order, and a post that is still on its way when its request ends
would keep its buttons: nobody can ask an execution that has ended for its messages. Here the closing card waits for
the post before it, and knows where that one went.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import NamedTuple

from app.actions.notices import ENDED, NoticeSender
from app.core.commands import NoticeCommand
from app.core.events import ApprovalNoticed
from app.core.notice_line import NoticeLine
from app.streams.figures import Figures
from app.streams.ledger import Ledger, Posted


class Carried(NamedTuple):
    """What became of a command: over is false where it is another worker's now; posted is where its message stands."""

    over: bool
    posted: Posted | None = None


class _Queue:
    """The commands about one message that are not through, and what is known of it."""

    def __init__(self, line: NoticeLine) -> None:
        self.line = line
        self.waiting = 0
        self.turn = asyncio.Lock()  # it is fair: who came first is first


class NoticeLines:
    """All lines that somebody stands in."""

    def __init__(
        self,
        sender: NoticeSender,
        ledger: Ledger,
        record: Callable[[ApprovalNoticed], Awaitable[object]],
        figures: Figures,
    ) -> None:
        """Keep the parts; record tells the log."""
        self._sender = sender
        self._ledger = ledger
        self._record = record
        self._figures = figures
        self._queues: dict[str, _Queue] = {}

    def enter(self, command: NoticeCommand) -> None:
        """Stand in line: from now on older versions are not sent any more."""
        queue = self._queues.get(command.message)
        if queue is None:
            queue = self._queues[command.message] = _Queue(self._remembered(command))
        queue.line = queue.line.expecting(command)
        queue.waiting += 1

    @contextlib.asynccontextmanager
    async def turn(self, command: NoticeCommand) -> AsyncIterator[None]:
        """Wait for those that came before."""
        queue = self._queues[command.message]
        try:
            async with queue.turn:
                yield
        finally:
            queue.waiting -= 1
            if not queue.waiting:
                del self._queues[command.message]

    async def carry_out(self, command: NoticeCommand, held: Callable[[], bool], *, again: bool) -> Carried:
        """Send a command whose turn it is, unless a newer one waits.

        held: whether it is this worker's. again: somebody took it before and may have posted it.
        """
        queue = self._queues[command.message]
        line = queue.line.now(lost=queue.line.lost or again)

        def newest() -> bool:
            return queue.line.newest == command.version

        async def told(noticed: ApprovalNoticed) -> None:
            self._count(command, _result(noticed))
            await self._record(noticed)

        sent = await self._sender.send(command, told, line, lambda: held() and newest())
        queue.line = sent.line.now(newest=queue.line.newest)
        if not sent.over:
            if newest():
                return Carried(over=False)
            self._count(command, "superseded")
            return Carried(over=True)
        if sent.line.channel_id is None or sent.line.ts is None:
            return Carried(over=True)
        return Carried(over=True, posted=Posted(sent.line.channel_id, sent.line.ts, command.to))

    def _remembered(self, command: NoticeCommand) -> NoticeLine:
        """What the ledger knows of a message from the commands before."""
        line = NoticeLine()
        for version, name in command.before:
            entry = self._ledger.find(name)
            if entry is not None and entry.posted is not None:
                line = line.placed(entry.posted.channel_id, entry.posted.ts, version)
            elif entry is not None and not entry.done:
                line = line.now(lost=True)
        return line

    def _count(self, command: NoticeCommand, result: str) -> None:
        self._figures.approval_messages.labels(command.card.kind, result).inc()


def _result(noticed: ApprovalNoticed) -> str:
    if noticed.error is None:
        return "posted"
    if noticed.unknown:
        return "unknown"
    return "dropped" if noticed.error == ENDED else "failed"
