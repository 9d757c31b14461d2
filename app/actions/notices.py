"""Messages about requests for approval: posted, changed in place, and what became of it told to the log."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, assert_never

from app.actions.approval_message import blocks_of, text_of
from app.actions.rollback_message import rollback_blocks, rollback_text
from app.clients.slack import Blocks, SlackClient, SlackMessage
from app.core.approval_card import ApprovalCard
from app.core.commands import NoticeCommand
from app.core.errors import ActionError, OutcomeUnknown, PermanentError, TemporaryError
from app.core.events import ApprovalNoticed
from app.core.notice_line import NoticeLine
from app.core.people import SlackUsers
from app.core.rollback_notice import RollbackCard

PLACE = re.compile(r"#.+|[CGDU][A-Z0-9]{7,}")
IDENTIFIER = re.compile(r"[CGD][A-Z0-9]{7,}")
ENDED = "the request ended before this was posted"
MAX_ERROR = 1024
MAX_WAIT_S = 60.0
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
logger = logging.getLogger(__name__)

Told = Callable[[ApprovalNoticed], Awaitable[object]]


class Sent(NamedTuple):
    """What is known of a message after a command; over is false where nobody wanted the command any more."""

    line: NoticeLine
    over: bool


def _always() -> bool:
    return True


@dataclass(frozen=True, slots=True)
class NoticeSender:
    """What carries out notice commands on one worker.

    now: wall clock, aware UTC. clickable: whether a click can reach us at all. pauses_s: between one try and the next;
    after the last the message is given up. channels: the ids of places, by the names they were posted to.
    """

    slack: SlackClient
    users: SlackUsers
    now: Callable[[], datetime]
    clickable: bool = True
    pauses_s: tuple[float, ...] = PAUSES_S
    channels: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        command: NoticeCommand,
        told: Told,
        line: NoticeLine | None = None,
        wanted: Callable[[], bool] = _always,
    ) -> Sent:
        """Post or change the message, and tell the log through ``told``.

        A request that cannot be delivered is told at once, and once more when a later try delivers it; a change that
        cannot be made is told when it is given up. line: what is known of the message. wanted: asked before each try;
        one that is under way is not broken off. Raises what ``told`` raises.
        """
        line = (line or NoticeLine()).asked(command)
        for number in range(len(self.pauses_s) + 1):
            if not wanted():
                return Sent(line, over=False)
            try:
                line = await self._looked(command, line)
                event = await self._carried_out(command, line)
            except ActionError as error:
                logger.warning("approval_message_undelivered", extra=_named(command) | {"error": str(error)})
                line = line.now(doubtful=line.doubtful or (line.ts is None and isinstance(error, OutcomeUnknown)))
                last = number == len(self.pauses_s) or isinstance(error, PermanentError)
                last = last or (line.doubtful and self._where(command) is None)
                if (last and (line.doubtful or line.ts is not None)) or (line.ts is None and number == 0):
                    await told(self._failed(command, error, unknown=last and line.doubtful))
                if last:
                    break
                asked_s = error.delay_s or 0.0 if isinstance(error, TemporaryError) else 0.0
                await asyncio.sleep(max(self.pauses_s[number], min(asked_s, MAX_WAIT_S)))
            else:
                if event is not None:
                    await told(event)
                    line = line if event.error else line.placed(event.channel_id, event.ts, command.version)
                break
        return Sent(line, over=True)

    async def _looked(self, command: NoticeCommand, line: NoticeLine) -> NoticeLine:
        """Without doubt whether the message was posted.

        Where nobody can look, an answer that was lost is not posted over: PermanentError. What a lost worker may have
        posted is posted once more.
        """
        if line.deed(command, self.now()) != "look":
            return line
        try:
            where = self._where(command)
            if where is None:
                raise PermanentError(f"the id of {command.to} is not known, so that nobody can look")  # noqa: TRY301
            since = command.card.requested_at
            found = await self.slack.find_marked(where, command.message, since, command.thread_ts)
        except PermanentError as error:
            if line.doubtful:
                raise PermanentError(f"Slack's answer was lost, and it cannot be looked for: {error}") from error
            found = None
        if found is None:
            return line.now(doubtful=False, lost=False)
        return line.placed(found.channel_id, found.ts)

    async def _carried_out(self, command: NoticeCommand, line: NoticeLine) -> ApprovalNoticed | None:
        """What became of it; None where nothing was to be done."""
        at = self.now()
        text, blocks = self._look_of(command.card, at)
        match line.deed(command, at):
            case "change":
                place = SlackMessage(line.channel_id or "", line.ts or "")
                place = await self.slack.change_message(place, text, blocks)
            case "post":
                channel = self._channel(command.to)
                place = await self.slack.post_message(channel, text, command.thread_ts, blocks, command.message)
                self.channels[command.to] = place.channel_id
            case "drop":
                return self._event(command, error=ENDED)
            case "pass":
                return None
            case "look":
                raise AssertionError("it was looked for before")
            case never:
                assert_never(never)
        return self._event(command, channel_id=place.channel_id, ts=place.ts)

    def _look_of(self, card: ApprovalCard | RollbackCard, at: datetime) -> tuple[str, Blocks]:
        if isinstance(card, RollbackCard):
            return rollback_text(card), rollback_blocks(card)
        return text_of(card, at, clickable=self.clickable), blocks_of(card, at, clickable=self.clickable)

    def _channel(self, to: str) -> str:
        """Where a notice goes: a subject's direct messages, a channel as it is."""
        known = self.users.reach(to)
        if known is not None:
            return known
        if not PLACE.fullmatch(to):
            raise PermanentError(f"{to} is neither a channel nor somebody in RUNBOOKS_SLACK__USERS_FILE")
        return to

    def _where(self, command: NoticeCommand) -> str | None:
        """The id of the channel that a message is looked for in; a name does not replace it there."""
        known = self.channels.get(command.to)
        if known is None and self.users.reach(command.to) is None and IDENTIFIER.fullmatch(command.to):
            return command.to
        return known

    def _failed(self, command: NoticeCommand, error: ActionError, *, unknown: bool) -> ApprovalNoticed:
        said = str(error)
        if unknown:
            said += f"; it may stand in {command.to} or not, and is not posted twice"
        return self._event(command, error=said[:MAX_ERROR], unknown=unknown)

    def _event(
        self,
        command: NoticeCommand,
        *,
        channel_id: str | None = None,
        ts: str | None = None,
        error: str | None = None,
        unknown: bool = False,
    ) -> ApprovalNoticed:
        return ApprovalNoticed(
            tenant=command.tenant,
            execution_id=command.execution_id,
            at=self.now(),
            run=command.run,
            step=command.step_index,
            request=command.request,
            notice=command.notice,
            version=command.version,
            channel_id=channel_id,
            ts=ts,
            error=error,
            unknown=unknown,
        )


def _named(command: NoticeCommand) -> dict[str, str]:
    return {"tenant": command.tenant, "execution_id": command.execution_id, "command_id": command.command_id}
