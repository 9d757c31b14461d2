"""What is to be done with each version of one message: in order, the newest wins, what has ended is not asked.

All commands about a message stand in one line, and are carried out one after the other.
"""

from datetime import datetime
from typing import Literal, Self

from app.core.commands import NoticeCommand
from app.core.model import Frozen

Deed = Literal["pass", "drop", "post", "change", "look"]


class NoticeLine(Frozen):
    """What a worker knows of one message.

    newest: the newest version that was asked for. shown: the newest one that Slack took, -1 when none. channel_id, ts:
    where the message stands, None while that is not known. doubtful: Slack's answer was lost, so that it may stand
    somewhere all the same. lost: a worker was lost that may have posted it.
    """

    newest: int = 0
    shown: int = -1
    channel_id: str | None = None
    ts: str | None = None
    doubtful: bool = False
    lost: bool = False

    def expecting(self, command: NoticeCommand) -> Self:
        """With one command more in the line."""
        return self.now(newest=max(self.newest, command.version))

    def asked(self, command: NoticeCommand) -> Self:
        """With the command whose turn it is: where the log says that the message stands, it does."""
        newest = max(self.newest, command.version)
        doubtful = self.doubtful or command.doubtful
        place = {} if command.ts is None else {"channel_id": command.channel_id, "ts": command.ts}
        return self.now(newest=newest, doubtful=doubtful, **place)

    def placed(self, channel_id: str | None, ts: str | None, version: int = -1) -> Self:
        """With the message in its place, where it shows at least this version."""
        shown = max(self.shown, version)
        return self.now(channel_id=channel_id, ts=ts, shown=shown, doubtful=False, lost=False)

    def now(self, **changes: object) -> Self:
        """The line with these fields changed."""
        return self.model_copy(update=changes)

    def deed(self, command: NoticeCommand, at: datetime) -> Deed:
        """What to do with a command whose turn it is.

        pass: a newer version follows, or it is shown. change: where it stands. look: whether it was posted. post: it
        was not. drop: it was not, and it is too late to ask.
        """
        if command.version < self.newest or command.version <= self.shown:
            return "pass"
        if self.ts is not None:
            return "change"
        if self.doubtful or self.lost:
            return "look"
        return "post" if command.card.may_be_posted(at) else "drop"
