"""People in a test's Slack: what they click and submit is sent to the app as Slack documents it, or forged.

Payloads: docs.slack.dev/reference/interaction-payloads.
Signatures: docs.slack.dev/authentication/verifying-requests-from-slack.
"""

import asyncio
import copy
import hashlib
import hmac
import json
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import aiohttp
from slack_state import Delivery, Json, Message, ModalView, Refusal, ResponseUrl, Trigger, elements_of

if TYPE_CHECKING:
    from slack_server import SlackServer

Edit = Callable[[Json], object]


@dataclass(frozen=True)
class Forgery:
    """What is wrong with a request that only pretends to be Slack's; what is left out is right.

    secret: what it is signed with. timestamp: verbatim, be it no number. skew_s: how far the clock is off.
    signature: verbatim; without: names of headers that are left out. tamper: changes the payload after signing.
    """

    secret: str | None = None
    timestamp: str | None = None
    skew_s: int = 0
    signature: str | None = None
    without: tuple[str, ...] = ()
    tamper: Edit | None = None


GENUINE = Forgery()


class Person:
    """Somebody in a workspace."""

    def __init__(self, server: "SlackServer", user_id: str, team_id: str, name: str) -> None:
        """Use SlackServer.person."""
        self.server, self.user_id, self.team_id, self.name = server, user_id, team_id, name

    @property
    def views(self) -> list[ModalView]:
        """The modals that are open for this person, the topmost last."""
        return [view for view in self.server.views if view.user_id == self.user_id and view.is_open]

    @property
    def ephemerals(self) -> list[Message]:
        """What only this person sees."""
        return [one for one in self.server.ephemerals if one.user_id == self.user_id and not one.deleted]

    async def click(
        self,
        message: Message,
        button: str,
        *,
        value: str | None = None,
        version: int = -1,
        edit: Edit | None = None,
        forgery: Forgery = GENUINE,
    ) -> Delivery:
        """Click a button, by its action id or its text.

        value: the button's value in place of its own (pasted from another message; then nothing needs to be shown).
        version: click what an earlier version of the message showed. edit: changes the payload before it is signed.
        Fails when no such button is shown.
        """
        action = _action(message.versions[version], button, value) | {"action_ts": self.server.names.ts()}
        payload = self._payload("block_actions") | self._about(message)
        payload |= {"state": {"values": {}}, "actions": [action]}
        return await self._send(payload, edit, forgery)

    async def submit(
        self,
        view: ModalView,
        inputs: dict[str, Any] | None = None,
        *,
        edit: Edit | None = None,
        forgery: Forgery = GENUINE,
    ) -> Delivery:
        """Submit a modal with inputs by "block_id/action_id"; then it is closed, changed, or shows errors.

        Text for a plain_text_input, else Slack's object. Fails when Slack would not let it be submitted.
        """
        assert view.is_open, "the modal is closed"
        submitted = copy.deepcopy(view.shown) | {"state": {"values": _values(view.shown["blocks"], inputs or {})}}
        payload = self._payload("view_submission") | {"view": submitted, "response_urls": []}
        delivery = await self._send(payload, edit, forgery)
        try:
            if delivery.error is None:
                self._follow(view, delivery.answer or {})
        except Refusal as refusal:
            delivery.error = f"Slack refused the app's view: {refusal.body}"
        return delivery

    async def replay(self, delivery: Delivery, headers: dict[str, str] | None = None) -> Delivery:
        """Send once more, byte for byte, what was sent before, with headers on top; over a socket in a new envelope."""
        again = Delivery(delivery.payload, delivery.headers | (headers or {}), delivery.body)
        return await self._deliver(again)

    def _payload(self, kind: str) -> Json:
        trigger_id = self.server.names.trigger_id()
        self.server.triggers[trigger_id] = Trigger(self.user_id, time.monotonic())
        user = {"id": self.user_id, "username": self.name, "name": self.name, "team_id": self.team_id}
        return {
            "type": kind,
            "user": user,
            "api_app_id": self.server.app_id,
            "token": "a verification token",
            "trigger_id": trigger_id,
            "team": {"id": self.team_id, "domain": "test"},
            "enterprise": None,
            "is_enterprise_install": False,
        }

    def _about(self, message: Message) -> Json:
        """Where the message is, the message itself (not of an ephemeral one), and a response_url."""
        ticket = secrets.token_urlsafe(16)
        self.server.response_urls[ticket] = ResponseUrl(self.user_id, message, time.monotonic())
        is_ephemeral = message.user_id is not None
        where = {"type": "message", "message_ts": message.ts, "channel_id": message.channel_id}
        channel = {"id": message.channel_id, "name": self.server.name_of(message.channel_id)}
        shown = {key: value for key, value in message.shown.items() if key != "metadata"}
        return {
            "container": {**where, "is_ephemeral": is_ephemeral},
            "channel": channel,
            "response_url": f"{self.server.url}/actions/{ticket}",
            **({} if is_ephemeral else {"message": copy.deepcopy(shown)}),
        }

    async def _send(self, payload: Json, edit: Edit | None, forgery: Forgery) -> Delivery:
        if edit is not None:
            edit(payload)
        if self.server.request_url is not None:
            return await self._deliver(_signed(payload, forgery, self.server.signing_secret))
        assert forgery == GENUINE, "over Socket Mode nothing is signed"
        return await self._deliver(Delivery(payload))

    async def _deliver(self, delivery: Delivery) -> Delivery:
        """Send it, and wait as long as Slack waits; Slack sends no interaction twice."""
        self.server.deliveries.append(delivery)
        if self.server.request_url is None:
            await self.server.sockets.deliver(delivery, self.server.ack_limit_s)
        else:
            await self._post(delivery, self.server.request_url)
        return delivery

    async def _post(self, delivery: Delivery, url: str) -> None:
        content = {"data": delivery.body.encode(), "headers": delivery.headers}
        posting = self.server.session.post(url, **content, allow_redirects=False)
        try:
            async with asyncio.timeout(self.server.ack_limit_s), posting as answer:
                delivery.status, text = answer.status, await answer.text()
        except TimeoutError:
            delivery.late, delivery.error = True, "the app did not acknowledge in time"
        except aiohttp.ClientError as error:
            delivery.error = f"the app cannot be reached: {type(error).__name__}"
        else:
            delivery.answer = json.loads(text) if answer.content_type == "application/json" and text else text
            delivery.error = None if delivery.status == 200 else f"the app answered {delivery.status}"

    def _follow(self, view: ModalView, wanted: Json) -> None:
        """Do with the modal what the acknowledgement says; an empty one closes it.

        Raises Refusal.
        """
        view.errors = {}
        match wanted.get("response_action"):
            case "errors":
                view.errors = wanted["errors"]
                inputs = {block["block_id"] for block in view.shown["blocks"] if block["type"] == "input"}
                unknown = [f"errors: no input block {key}" for key in view.errors.keys() - inputs]
                self.server.violations += [f"view_submission: {one}" for one in unknown]
            case "update":
                changed = self.server.modal("view_submission", self.user_id, wanted["view"]).shown
                view.versions.append(changed | {key: view.shown[key] for key in ("id", "root_view_id")})
            case "push":
                self.server.views.append(self.server.modal("view_submission", self.user_id, wanted["view"]))
            case "clear":
                for one in self.views:
                    one.is_open = False
            case _:
                view.is_open = False


def _action(shown: Json, button: str, value: str | None) -> Json:
    """What block_actions says of a button."""
    for block, element in elements_of(shown.get("blocks", [])):
        text = element.get("text", {}).get("text", "")
        if element["type"] == "button" and (element["action_id"] == button or text.casefold() == button.casefold()):
            own = {key: element[key] for key in ("action_id", "text", "value", "style") if key in element}
            pasted = {} if value is None else {"value": value}
            return own | pasted | {"block_id": block["block_id"], "type": "button"}
    assert value is not None, f"no button {button!r} in {shown}"
    text = {"type": "plain_text", "text": button, "emoji": True}
    return {"action_id": button, "block_id": "pasted", "text": text, "value": value, "type": "button"}


def _values(blocks: list[Json], inputs: dict[str, Any]) -> Json:
    """view.state.values: every input's, given or not."""
    values: Json = {}
    left = dict(inputs)
    for block, element in elements_of(blocks):
        if block["type"] == "input":
            given = left.pop(f"{block['block_id']}/{element['action_id']}", None)
            values[block["block_id"]] = {element["action_id"]: _value(block, element, given)}
    assert not left, f"the modal has no inputs {sorted(left)}"
    return values


def _value(block: Json, element: Json, given: Any) -> Json:
    assert given or block.get("optional"), f"{block['block_id']} must be filled in"
    if element["type"] != "plain_text_input":
        return {"type": element["type"], **(given or {})}
    least, most = element.get("min_length", 0), element.get("max_length", 3000)
    assert not given or least <= len(given) <= most, f"{block['block_id']} takes {least} to {most} characters"
    return {"type": "plain_text_input", "value": given or None}


def _signed(payload: Json, forgery: Forgery, secret: str) -> Delivery:
    """The form as Slack posts it, with a signature of its body; or as the forgery has it."""
    body = urlencode({"payload": json.dumps(payload)})
    timestamp = str(int(time.time()) + forgery.skew_s) if forgery.timestamp is None else forgery.timestamp
    key = (secret if forgery.secret is None else forgery.secret).encode()
    digest = hmac.new(key, f"v0:{timestamp}:{body}".encode(), hashlib.sha256).hexdigest()
    headers = {
        "Content-Type": "application/x-www-form-urlencoded",
        "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
        "X-Slack-Request-Timestamp": timestamp,
        "X-Slack-Signature": f"v0={digest}" if forgery.signature is None else forgery.signature,
    }
    if forgery.tamper is not None:
        forgery.tamper(payload)
        body = urlencode({"payload": json.dumps(payload)})
    return Delivery(payload, {name: headers[name] for name in headers.keys() - set(forgery.without)}, body)
