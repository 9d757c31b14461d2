"""A small Slack for tests: one workspace on a loopback port that the real slack_sdk and slack_bolt talk to.

    async with SlackServer() as server:
        client = AsyncWebClient(token=server.bot_token, base_url=server.base_url)
        server.request_url = "http://127.0.0.1:8080/slack/interactions"  # None: over Socket Mode
        ...
        [message] = server.posted("#ops")
        delivery = await server.person("U1", name="ann").click(message, "approve")
        assert delivery.error is None

It keeps its state in plain attributes, refuses what Slack documents to refuse (and remembers why, in `violations`), and
does wrong what a test asks of `faults`. It is no part of the product, and knows nothing of it.
"""

import contextlib
import json
import time
from collections import defaultdict
from collections.abc import Callable
from decimal import Decimal
from typing import Any, Self

import aiohttp
from aiohttp import web
from slack_faults import Faults
from slack_limits import MESSAGE_TEXT_MAX, UPDATE_TEXT_MAX, about_blocks, about_message_metadata, about_view
from slack_people import Person
from slack_sockets import Sockets
from slack_state import Call, Delivery, Json, Message, ModalView, Names, Refusal, ResponseUrl, Trigger, as_stored
from waiting import until

RESPONSE_URL_USES = 5
RESPONSE_URL_S = 30 * 60
BOOLEANS = {"1": True, "true": True, "0": False, "false": False, "": False}


class SlackServer:
    """One workspace with one app.

    request_url: where interactions are sent, signed; None: over Socket Mode.
    ack_limit_s: how long an app may take to acknowledge; trigger_limit_s: how long a trigger_id holds.
    messages: by channel id and ts; channels: id by name; dms: channel id by user id; calls: by method, and
    response_url's; answers: what to answer to methods that it does not know; sockets: the app's connections.
    """

    def __init__(self, *, request_url: str | None = None, ack_limit_s: float = 3.0) -> None:
        """Nothing listens before `async with`."""
        self.bot_token, self.app_token, self.signing_secret = "xoxb-1-test", "xapp-1-test", "a signing secret"
        self.team_id, self.app_id, self.bot_id, self.bot_user_id = "T1", "A1", "B1", "U0BOT"
        self.request_url = request_url
        self.ack_limit_s, self.trigger_limit_s = ack_limit_s, 3.0
        self.port = 0
        self.faults = Faults()
        self.names = Names()
        self.messages: dict[tuple[str, str], Message] = {}
        self.ephemerals: list[Message] = []
        self.views: list[ModalView] = []
        self.channels: dict[str, str] = {}
        self.dms: dict[str, str] = {}
        self.calls: defaultdict[str, list[Call]] = defaultdict(list)
        self.violations: list[str] = []
        self.deliveries: list[Delivery] = []
        self.answers: dict[str, Json] = {}
        self.triggers: dict[str, Trigger] = {}
        self.response_urls: dict[str, ResponseUrl] = {}
        self.sockets = Sockets(self.app_id, self.violations)
        self._people: dict[str, Person] = {}
        self._methods: dict[str, Callable[[Json], Json]] = {
            "apps.connections.open": self._open_connection,
            "auth.test": self._auth_test,
            "chat.postMessage": self._post_message,
            "chat.update": self._update,
            "chat.postEphemeral": self._post_ephemeral,
            "views.open": self._open_view,
            "conversations.history": self._history,
            "conversations.replies": self._replies,
        }

    async def __aenter__(self) -> Self:
        application = web.Application()
        application.router.add_route("*", "/api/{method}", self._serve_method)
        application.router.add_post("/actions/{ticket}", self._serve_response_url)
        application.router.add_get("/link", self.sockets.serve)
        self._runner = web.AppRunner(application, access_log=None, shutdown_timeout=2.0)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        connector = aiohttp.TCPConnector(force_close=True)  # nothing is left to be closed with the loop
        self.session = aiohttp.ClientSession(connector=connector, trust_env=False)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.faults.lift_all()
        await self.sockets.close()
        await self.session.close()
        await self._runner.cleanup()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def base_url(self) -> str:
        """As slack_sdk's clients want it."""
        return f"{self.url}/api/"

    def person(self, user_id: str, team: str | None = None, name: str | None = None) -> Person:
        """Somebody who reads and clicks; the same id is the same person."""
        person = Person(self, user_id, team or self.team_id, name or user_id.lower())
        return self._people.setdefault(f"{person.team_id}/{user_id}", person)

    def posted(self, channel: str) -> list[Message]:
        """The messages of a channel (its name, its id, or a user's id for the DM), oldest first."""
        channel_id = self._place(channel)
        return [one for (where, _), one in self.messages.items() if where == channel_id and not one.deleted]

    async def connected(self, count: int = 1) -> None:
        """Wait until the app has this many connections open."""

        async def enough() -> bool:
            return len(self.sockets.open) >= count

        await until(enough)

    async def rotate_socket(self, reason: str = "refresh_requested", *, at_once: bool = False) -> None:
        """Tell every connection to disconnect, and close it: at once, or after the app could have gone to another.

        Closed at once, slack_sdk connects twice and abandons the first new connection, with what is sent over it.
        """
        await self.sockets.rotate(reason, at_once=at_once)

    def name_of(self, channel_id: str) -> str:
        """The name that interactions carry."""
        names = {known: name for name, known in self.channels.items()}
        return "directmessage" if channel_id in self.dms.values() else names.get(channel_id, channel_id.lower())

    def violated(self, method: str, reasons: list[str], code: str) -> None:
        """Remember what was wrong, and refuse it; nothing when there is no reason.

        Raises Refusal.
        """
        if reasons:
            self.violations += [f"{method}: {reason}" for reason in reasons]
            raise Refusal(code, reasons)

    async def _serve_method(self, request: web.Request) -> web.StreamResponse:
        method = request.match_info["method"]
        arguments = await _arguments(request)
        bearer = request.headers.get("Authorization", "").removeprefix("Bearer ")
        call = Call(method, arguments, bearer or arguments.pop("token", None), time.monotonic())
        return await self._answer(request, call, lambda: web.json_response(self._carried_out(call)))

    async def _serve_response_url(self, request: web.Request) -> web.StreamResponse:
        call = Call("response_url", await request.json(), None, time.monotonic())
        return await self._answer(request, call, lambda: self._respond(request.match_info["ticket"], call.arguments))

    async def _answer(
        self, request: web.Request, call: Call, carry_out: Callable[[], web.Response]
    ) -> web.StreamResponse:
        self.calls[call.method].append(call)
        fault = self.faults.hit(call.method)
        return carry_out() if fault is None else await fault.strike(request, carry_out)

    def _carried_out(self, call: Call) -> Json:
        try:
            self._check_token(call)
            method = self._methods.get(call.method, lambda _arguments: self._canned(call.method))
            return {"ok": True, **method(call.arguments)}
        except Refusal as refusal:
            return refusal.body

    def _check_token(self, call: Call) -> None:
        wanted = self.app_token if call.method == "apps.connections.open" else self.bot_token
        if not call.token:
            raise Refusal("not_authed")
        if call.token not in {self.bot_token, self.app_token}:
            raise Refusal("invalid_auth")
        if call.token != wanted:
            raise Refusal("not_allowed_token_type")

    def _canned(self, method: str) -> Json:
        if method not in self.answers:
            raise Refusal("unknown_method")
        return self.answers[method]

    def _open_connection(self, _arguments: Json) -> Json:
        return {"url": f"ws://127.0.0.1:{self.port}/link?ticket={self.sockets.ticket()}&app_id={self.app_id}"}

    def _auth_test(self, _arguments: Json) -> Json:
        team = {"url": f"{self.url}/", "team": "test", "team_id": self.team_id, "is_enterprise_install": False}
        return {**team, "user": "runbooks", "user_id": self.bot_user_id, "bot_id": self.bot_id}

    def _post_message(self, arguments: Json) -> Json:
        channel_id = self._place(_needed(arguments, "channel", "channel_not_found"))
        message = Message(channel_id, self.names.ts(), [])
        message.versions.append(self._content("chat.postMessage", message, arguments))
        self.messages[channel_id, message.ts] = message
        return {"channel": channel_id, "ts": message.ts, "message": message.shown}

    def _update(self, arguments: Json) -> Json:
        message = self.messages.get((self._known_channel(arguments), str(arguments.get("ts"))))
        if message is None or message.deleted:
            raise Refusal("message_not_found")
        self._new_version("chat.update", message, arguments)
        return {"channel": message.channel_id, "ts": message.ts, "text": message.text, "message": message.shown}

    def _new_version(self, method: str, message: Message, arguments: Json) -> None:
        """Blocks that are not given stay, unless a text is; metadata that is not given stays."""
        kept = {key: message.shown[key] for key in ("metadata", "thread_ts") if key in message.shown}
        if not arguments.get("text") and "blocks" not in arguments:
            kept |= {key: message.shown[key] for key in ("text", "blocks") if key in message.shown}
        edited = {"edited": {"user": self.bot_user_id, "ts": self.names.ts()}}
        message.versions.append(self._content(method, message, {**kept, **arguments}) | edited)

    def _post_ephemeral(self, arguments: Json) -> Json:
        channel_id = self._place(_needed(arguments, "channel", "channel_not_found"))
        message = Message(channel_id, self.names.ts(), [], user_id=_needed(arguments, "user", "user_not_in_channel"))
        message.versions.append(self._content("chat.postEphemeral", message, arguments))
        self.ephemerals.append(message)
        return {"message_ts": message.ts}

    def _open_view(self, arguments: Json) -> Json:
        trigger = self.triggers.get(str(arguments.get("trigger_id")))
        if trigger is None or trigger.used or time.monotonic() - trigger.at >= self.trigger_limit_s:
            raise Refusal("expired_trigger_id")
        view = self.modal("views.open", trigger.user_id, arguments.get("view"))
        trigger.used = True  # only now: Slack lets an app try again after a view that it refused
        self.views.append(view)
        return {"view": view.shown}

    def modal(self, method: str, user_id: str, view: Any) -> ModalView:
        """A modal as Slack keeps it.

        Raises Refusal.
        """
        self.violated(method, about_view(view), "invalid_blocks")
        view_id = self.names.id("V")
        mine = {"id": view_id, "root_view_id": view_id, "previous_view_id": None, "team_id": self.team_id}
        mine |= {"app_id": self.app_id, "app_installed_team_id": self.team_id, "bot_id": self.bot_id}
        mine |= {"blocks": as_stored(view["blocks"], self.names), "state": {"values": {}}, "hash": self.names.ts()}
        empty = {"private_metadata": "", "callback_id": "", "external_id": "", "submit": None, "close": None}
        return ModalView(user_id, [{**empty, "clear_on_close": False, "notify_on_close": False, **view, **mine}])

    def _history(self, arguments: Json) -> Json:
        channel_id = self._known_channel(arguments)
        found = [one for one in self.posted(channel_id) if one.thread_ts in {None, one.ts}]
        return _page(list(reversed(found)), arguments)

    def _replies(self, arguments: Json) -> Json:
        ts = str(arguments.get("ts"))
        found = [one for one in self.posted(self._known_channel(arguments)) if ts in {one.ts, one.thread_ts}]
        if not found:
            raise Refusal("thread_not_found")
        return _page(found, arguments)

    def _respond(self, ticket: str, given: Json) -> web.Response:
        known = self.response_urls.get(ticket)
        if known is None or known.uses == RESPONSE_URL_USES or time.monotonic() - known.at > RESPONSE_URL_S:
            return web.json_response({"ok": False, "error": "used_url" if known else "no_service"}, status=404)
        known.uses += 1
        try:
            if given.get("delete_original"):
                known.message.deleted = True
            elif given.get("replace_original"):
                self._new_version("response_url", known.message, given)
            elif given.get("response_type") == "in_channel":
                self._post_message({**given, "channel": known.message.channel_id})
            else:
                self._post_ephemeral({**given, "channel": known.message.channel_id, "user": known.user_id})
        except Refusal as refusal:
            return web.json_response(refusal.body, status=400)
        return web.json_response({"ok": True})

    def _content(self, method: str, message: Message, arguments: Json) -> Json:
        """Slack's object of a message with this content.

        Raises Refusal.
        """
        text, blocks, metadata = arguments.get("text") or "", arguments.get("blocks"), arguments.get("metadata")
        if not text and not blocks:
            raise Refusal("no_text")
        too_long = [f"text must be at most {MESSAGE_TEXT_MAX} characters"] if len(text) > MESSAGE_TEXT_MAX else []
        if method == "chat.update" and len(text.encode()) > UPDATE_TEXT_MAX:
            too_long.append(f"text must be at most {UPDATE_TEXT_MAX} bytes")
        self.violated(method, too_long, "msg_too_long")
        self.violated(method, [] if blocks is None else about_blocks(blocks), "invalid_blocks")
        self.violated(method, about_message_metadata(metadata or {}), "invalid_metadata_format")
        author = {"user": self.bot_user_id, "bot_id": self.bot_id, "app_id": self.app_id, "team": self.team_id}
        content = {"type": "message", **author, "ts": message.ts, "text": text}
        optional = {"blocks": as_stored(blocks or [], self.names), "metadata": metadata}
        optional["thread_ts"] = arguments.get("thread_ts")
        return content | {key: value for key, value in optional.items() if value}

    def _place(self, channel: str) -> str:
        """The id of a channel by its name or id, or of the DM with a user; a new name is a new channel."""
        if channel in self.channels.values() or channel in self.dms.values():
            return channel
        if channel[:1] in {"U", "W"} and channel.isupper():
            return self.dms.setdefault(channel, self.names.id("D"))
        if channel[:1] in {"C", "G"} and channel.isupper():
            return self.channels.setdefault(channel.lower(), channel)
        return self.channels.setdefault(channel.removeprefix("#"), self.names.id("C"))

    def _known_channel(self, arguments: Json) -> str:
        """The channel's id, which a name does not replace here.

        Raises Refusal.
        """
        given = str(arguments.get("channel"))
        if given not in self.channels.values() and given not in self.dms.values():
            raise Refusal("channel_not_found")
        return given


async def _arguments(request: web.Request) -> Json:
    """A call's arguments, whichever way they were sent; what is JSON within a form is read."""
    given: Json = dict(request.query)
    if request.content_type == "application/json":
        given |= await request.json()
    else:
        given |= dict(await request.post())
    for name in ("blocks", "metadata", "view"):
        if isinstance(given.get(name), str):
            with contextlib.suppress(ValueError):  # it stays a string, which is then refused for what it is
                given[name] = json.loads(given[name])
    return given


def _needed(arguments: Json, name: str, code: str) -> str:
    if not arguments.get(name):
        raise Refusal(code)
    return str(arguments[name])


def _page(found: list[Message], arguments: Json) -> Json:
    """The messages between oldest and latest that follow the cursor; metadata only when it is asked for."""
    inclusive, with_metadata = _is_true(arguments.get("inclusive")), _is_true(arguments.get("include_all_metadata"))
    oldest, latest = Decimal(arguments.get("oldest") or 0), Decimal(arguments.get("latest") or "Infinity")
    within = [one for one in found if oldest < Decimal(one.ts) < latest]
    if inclusive:
        within = [one for one in found if oldest <= Decimal(one.ts) <= latest]
    start, limit = int(arguments.get("cursor") or 0), int(arguments.get("limit") or 100)
    hidden = set() if with_metadata else {"metadata"}
    shown = [{k: v for k, v in one.shown.items() if k not in hidden} for one in within[start : start + limit]]
    has_more = len(within) > start + limit
    following = {"next_cursor": str(start + limit) if has_more else ""}
    return {"messages": shown, "has_more": has_more, "response_metadata": following}


def _is_true(given: Any) -> bool:
    return BOOLEANS.get(str(given).lower(), False)
