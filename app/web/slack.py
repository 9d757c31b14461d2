"""Slack's side of approvals, through Bolt: buttons and the dialog for a reason, over signed HTTP or Socket Mode.

Slack is answered within its three seconds, and only after the log has acknowledged the decision; where it has not, the
person is told that nothing was recorded.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
from aiohttp import web
from pydantic import ValidationError
from slack_bolt.adapter.aiohttp import to_aiohttp_response
from slack_bolt.adapter.socket_mode.aiohttp import AsyncSocketModeHandler
from slack_bolt.async_app import AsyncAck, AsyncApp, AsyncRespond
from slack_bolt.authorization import AuthorizeResult
from slack_sdk.errors import SlackClientError
from slack_sdk.web.async_client import AsyncWebClient

from app.actions.approval_message import (
    APPROVE,
    REASON_BLOCK,
    REASON_INPUT,
    REASON_VIEW,
    REJECT,
    blocks_of,
    reason_view,
    text_of,
)
from app.core.approval_card import RequestReference, card_of
from app.ending import cancelled
from app.web.parts import SlackRules, WebParts
from app.web.problems import ApiProblem
from app.web.slack_decisions import MAX_REFUSAL, Answer, Click, SlackDecisions, request_of
from app.web.slack_payloads import bolt_request

RECONNECT_S = 5.0
CALL_S = 5
FAILURES = (SlackClientError, aiohttp.ClientError, OSError, asyncio.TimeoutError)
"""What telling somebody something may end with; nothing depends on it."""
logger = logging.getLogger(__name__)


class SlackDesk:
    """Takes what people do in Slack."""

    def __init__(self, rules: SlackRules, parts: WebParts) -> None:
        """Nothing connects yet."""
        self.decisions = SlackDecisions(parts.log, parts.projection, rules.users, parts.clock, parts.signing)
        self._rules = rules
        self._clock = parts.clock
        self._client = AsyncWebClient(token=rules.bot_token, base_url=rules.base_url, timeout=CALL_S)

        async def authorize(enterprise_id: str | None, team_id: str | None) -> AuthorizeResult:
            """One workspace, one token: nothing is asked of Slack before a decision is recorded."""
            return AuthorizeResult(
                enterprise_id=enterprise_id, team_id=team_id, bot_token=rules.bot_token, bot_user_id="unknown"
            )

        self._bolt = AsyncApp(
            client=AsyncWebClient(base_url=rules.base_url, timeout=CALL_S),
            signing_secret=rules.signing_secret or "unused: Socket Mode is not signed",
            authorize=authorize,
            logger=logging.getLogger("slack_bolt"),
        )
        self._bolt.action(APPROVE)(self._approve)
        self._bolt.action(REJECT)(self._ask_why)
        self._bolt.view(REASON_VIEW)(self._reject)

    async def interactions(self, request: web.Request) -> web.Response:
        """One signed request of Slack's."""
        if self._rules.signing_secret is None:
            raise ApiProblem(404, "Slack comes through Socket Mode here: RUNBOOKS_SLACK__SIGNING_SECRET is not set")
        answer = await self._bolt.async_dispatch(await bolt_request(request, self._rules.signing_secret))
        if answer.status in {401, 404}:
            raise ApiProblem(answer.status, "no interaction that this API knows")
        return await to_aiohttp_response(answer)

    @contextlib.asynccontextmanager
    async def connected(self) -> AsyncIterator[None]:
        """Socket Mode while it lasts, where it is configured; a Slack that is away is tried again."""
        if self._rules.app_token is None:
            yield
            return
        handler = AsyncSocketModeHandler(self._bolt, self._rules.app_token, web_client=self._client)
        connecting = asyncio.create_task(_connect(handler))
        try:
            yield
        finally:
            await cancelled(connecting)
            await handler.close_async()  # type: ignore[no-untyped-call]

    async def _approve(self, ack: AsyncAck, body: dict[str, Any], respond: AsyncRespond) -> None:
        reference = _reference(body["actions"][0].get("value"))
        if reference is None:
            await ack()
            return
        answer = await self.decisions.decide(_click(body), reference, "approve")
        await ack()
        await self._tell(answer, reference, respond)

    async def _ask_why(self, ack: AsyncAck, body: dict[str, Any], respond: AsyncRespond) -> None:
        """Open the dialog; somebody who may not decide is told so at once, and it is recorded."""
        value = body["actions"][0].get("value")
        click, reference = _click(body), _reference(value)
        if reference is None:
            await ack()
            return
        if self.decisions.refusal_of(click, reference) is not None:
            answer = await self.decisions.decide(click, reference, "reject")
            await ack()
            await self._tell(answer, reference, respond)
            return
        await ack()
        private = json.dumps({"value": value, "channel": click.channel_id, "ts": click.ts})
        try:
            await self._client.views_open(trigger_id=body["trigger_id"], view=reason_view(private))
        except FAILURES as error:
            logger.warning("reject_dialog_failed", extra={"error": repr(error)})
            await self._say(respond, "The dialog could not be opened, and nothing is recorded. Please try again.")

    async def _reject(self, ack: AsyncAck, body: dict[str, Any]) -> None:
        private = json.loads(body["view"]["private_metadata"])
        reason = body["view"]["state"]["values"][REASON_BLOCK][REASON_INPUT].get("value") or ""
        click, reference = (
            _click(body)._replace(channel_id=private["channel"], ts=private["ts"]),
            _reference(private["value"]),
        )
        assert reference is not None  # we wrote it into the dialog
        answer = await self.decisions.decide(click, reference, "reject", reason)
        if answer.told is None:
            await ack()
        else:
            await ack(response_action="errors", errors={REASON_BLOCK: answer.told})

    async def _tell(self, answer: Answer, reference: RequestReference, respond: AsyncRespond) -> None:
        """Tell the person why it does not count, and let a message that is out of date say how it ended."""
        if answer.told is None:
            return
        await self._say(respond, answer.told)
        request = request_of(answer.execution, reference) if answer.execution else None
        if answer.execution is None or request is None or request.state == "pending" or not answer.recorded:
            return
        shows = next((one for one in request.notices if one.ts is not None), None)
        if shows is None or answer.decision is None or answer.decision.refusal != request.ended[:MAX_REFUSAL]:
            return
        card, at = card_of(answer.execution, reference.step, request, shows), self._clock()
        try:
            await respond(text=text_of(card, at), blocks=blocks_of(card, at), replace_original=True)
        except FAILURES as error:
            logger.warning("slack_answer_failed", extra={"error": repr(error)})

    async def _say(self, respond: AsyncRespond, text: str) -> None:
        try:
            await respond(text=text, response_type="ephemeral", replace_original=False)
        except FAILURES as error:
            logger.warning("slack_answer_failed", extra={"error": repr(error)})


DESK: web.AppKey[SlackDesk | None] = web.AppKey("slack desk", object)  # type: ignore[arg-type]


async def interactions(request: web.Request) -> web.Response:
    """What people do in Slack: buttons and dialogs, signed by Slack."""
    desk = request.app[DESK]
    if desk is None:
        raise ApiProblem(404, "approvals in Slack are off: RUNBOOKS_SLACK__SIGNING_SECRET is not set")
    return await desk.interactions(request)


def open_desk(parts: WebParts) -> SlackDesk | None:
    """The desk that the parts describe; None where Slack may not answer."""
    return None if parts.slack is None else SlackDesk(parts.slack, parts)


async def _connect(handler: AsyncSocketModeHandler) -> None:
    """Connect, and try again until it works; after that slack_sdk keeps the connection itself."""
    while True:
        try:
            await handler.connect_async()  # type: ignore[no-untyped-call]
        except FAILURES as error:
            logger.warning("socket_mode_unreachable", extra={"error": repr(error)})
            await asyncio.sleep(RECONNECT_S)
        else:
            return


def _reference(value: object) -> RequestReference | None:
    """What a button stands for; None for a button that is none of ours."""
    try:
        return RequestReference.model_validate_json(str(value))
    except ValidationError:
        logger.warning("slack_button_unknown")
        return None


def _click(body: dict[str, Any]) -> Click:
    """Who clicked where; a dialog has no message, and its own notes say which it was."""
    container = body.get("container", {})
    team = body["user"].get("team_id") or (body.get("team") or {}).get("id") or ""
    return Click(
        team=str(team),
        user=str(body["user"]["id"]),
        channel_id=str(container.get("channel_id") or (body.get("channel") or {}).get("id") or ""),
        ts=str(container.get("message_ts") or (body.get("message") or {}).get("ts") or ""),
    )
