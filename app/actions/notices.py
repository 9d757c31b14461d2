"""Messages about requests for approval: posted, changed in place, and what became of it told to the log."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from app.actions.approval_message import blocks_of, text_of
from app.clients.slack import SlackClient, SlackMessage
from app.core.commands import NoticeCommand
from app.core.errors import ActionError, OutcomeUnknown, PermanentError, TemporaryError
from app.core.events import ApprovalNoticed
from app.core.people import SlackUsers

PLACE = re.compile(r"#.+|[CGDU][A-Z0-9]{7,}")
IDENTIFIER = re.compile(r"[CGD][A-Z0-9]{7,}")
MAX_ERROR = 1024
MAX_WAIT_S = 60.0
PAUSES_S = (0.5, 1.0, 2.0, 5.0, 10.0, 20.0)
logger = logging.getLogger(__name__)

Told = Callable[[ApprovalNoticed], Awaitable[object]]


@dataclass(frozen=True, slots=True)
class NoticeSender:
    """What carries out notice commands on one worker.

    now: wall clock, aware UTC. pauses_s: between one try and the next; after the last the message is given up.
    """

    slack: SlackClient
    users: SlackUsers
    now: Callable[[], datetime]
    pauses_s: tuple[float, ...] = PAUSES_S

    async def send(self, command: NoticeCommand, told: Told, *, again: bool) -> None:
        """Post or change the message, and tell the log through ``told``.

        A request that cannot be delivered is told at once, and once more when a later try delivers it; a change that
        cannot be made is told when it is given up. again: another worker had taken the command and may have posted it.
        Raises what ``told`` raises.
        """
        doubtful = again
        for number in range(len(self.pauses_s) + 1):
            try:
                place = await self._deliver(command, doubtful=doubtful)
            except ActionError as error:
                logger.warning("approval_message_undelivered", extra=_named(command) | {"error": str(error)})
                doubtful = doubtful or isinstance(error, OutcomeUnknown)
                last = number == len(self.pauses_s) or isinstance(error, PermanentError)
                if last if command.ts is not None else number == 0:
                    await told(self._event(command, error=str(error)[:MAX_ERROR]))
                if last:
                    return
                asked_s = error.delay_s or 0.0 if isinstance(error, TemporaryError) else 0.0
                await asyncio.sleep(max(self.pauses_s[number], min(asked_s, MAX_WAIT_S)))
            else:
                await told(self._event(command, channel_id=place.channel_id, ts=place.ts))
                return

    async def _deliver(self, command: NoticeCommand, *, doubtful: bool) -> SlackMessage:
        at = self.now()
        text, blocks = text_of(command.card, at), blocks_of(command.card, at)
        if command.channel_id is not None and command.ts is not None:
            return await self.slack.change_message(SlackMessage(command.channel_id, command.ts), text, blocks)
        channel = self._channel(command.to)
        if doubtful and (found := await self._posted_before(channel, command)):
            return found
        return await self.slack.post_message(channel, text, command.thread_ts, blocks, command.command_id)

    def _channel(self, to: str) -> str:
        """Where a notice goes: a channel as it is, a subject's direct messages."""
        if PLACE.fullmatch(to):
            return to
        known = self.users.reach(to)
        if known is None:
            raise PermanentError(f"{to} is neither a channel nor somebody in RUNBOOKS_SLACK__USERS_FILE")
        return known

    async def _posted_before(self, channel: str, command: NoticeCommand) -> SlackMessage | None:
        """The message, where its channel can be looked through for it; what cannot be found is posted once more."""
        if not IDENTIFIER.fullmatch(channel):
            return None
        try:
            return await self.slack.find_marked(channel, command.command_id)
        except PermanentError:
            return None

    def _event(self, command: NoticeCommand, **outcome: str) -> ApprovalNoticed:
        return ApprovalNoticed(
            tenant=command.tenant,
            execution_id=command.execution_id,
            at=self.now(),
            run=command.run,
            step=command.step_index,
            request=command.request,
            notice=command.notice,
            version=command.version,
            **outcome,
        )


def _named(command: NoticeCommand) -> dict[str, str]:
    return {"tenant": command.tenant, "execution_id": command.execution_id, "command_id": command.command_id}
