"""What Slack sends, looked at before Bolt does: signed, and of the shapes that the handlers take apart."""

import re
from typing import Annotated, Any, Literal
from urllib.parse import parse_qs

import orjson
from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, Json, TypeAdapter, ValidationError
from slack_bolt.request.async_request import AsyncBoltRequest
from slack_sdk.signature import SignatureVerifier

from app.actions.approval_message import REASON_BLOCK, REASON_INPUT
from app.core.approval_card import RequestReference
from app.core.model import JsonObject, depth_of
from app.web.problems import ApiProblem
from app.web.reading import read_whole

SIGNATURE = re.compile(r"v0=[0-9a-f]{64}")
TIMESTAMP = re.compile(r"[0-9]{1,15}")
FORM = "application/x-www-form-urlencoded"
MAX_DEPTH = 40
MAX_FIELDS = 20
Id = Annotated[str, Field(max_length=200)]


class _Part(BaseModel):
    """A part of an interaction; Slack sends more than we look at, and adds to it."""

    model_config = ConfigDict(extra="allow", strict=True)


class _Team(_Part):
    id: Id | None = None


class _User(_Part):
    id: Id
    team_id: Id | None = None


class _Where(_Part):
    channel_id: Id | None = None
    message_ts: Id | None = None


class _Channel(_Part):
    id: Id | None = None


class _Message(_Part):
    ts: Id | None = None


class _Action(_Part):
    action_id: Id
    block_id: Id | None = None
    type: Id = "button"
    value: str | None = None


class _Said(_Part):
    value: str | None = None


class _Reason(_Part):
    said: Annotated[_Said, Field(alias=REASON_INPUT)]


class _Blocks(_Part):
    reason: Annotated[_Reason, Field(alias=REASON_BLOCK)]


class _State(_Part):
    values: _Blocks


class _Noted(_Part):
    value: Json[RequestReference]
    channel: Id
    ts: Id


class _View(_Part):
    type: Id
    callback_id: Id
    private_metadata: Json[_Noted]
    state: _State


class _Interaction(_Part):
    user: _User
    team: _Team | None = None
    enterprise: JsonObject | None = None
    container: _Where = _Where()
    channel: _Channel | None = None
    message: _Message | None = None
    response_url: str | None = None
    trigger_id: str | None = None
    is_enterprise_install: bool | None = None
    authorizations: list[JsonObject] | None = None


class _Click(_Interaction):
    type: Literal["block_actions"]
    actions: Annotated[list[_Action], Field(min_length=1, max_length=MAX_FIELDS)]
    trigger_id: str


class _Submission(_Interaction):
    type: Literal["view_submission"]
    view: _View


_INTERACTIONS: TypeAdapter[Any] = TypeAdapter(Annotated[_Click | _Submission, Field(discriminator="type")])


async def bolt_request(request: web.Request, signing_secret: str) -> AsyncBoltRequest:
    """The request for Bolt, once it is known to be Slack's and of a shape of ours.

    Raises ApiProblem: 401 for one that is not signed, before anything in it is read; 400 for what is no interaction.
    """
    raw = await read_whole(request)
    signature, timestamp = _only(request, "X-Slack-Signature"), _only(request, "X-Slack-Request-Timestamp")
    known = SIGNATURE.fullmatch(signature) and TIMESTAMP.fullmatch(timestamp)
    if not known or not _holds(raw, timestamp, signature, signing_secret):
        raise ApiProblem(401, "the request is not signed by Slack")
    if (request.charset or "utf-8").lower() != "utf-8":
        raise ApiProblem(400, "the body must be a form in UTF-8")
    named = {name: value for name, value in request.headers.items() if name.lower().startswith("x-slack-")}
    return AsyncBoltRequest(body=_checked(raw), headers={**named, "Content-Type": FORM})


def _only(request: web.Request, name: str) -> str:
    """A header that stands once; empty where it is missing, or stands twice."""
    values = request.headers.getall(name, [])
    return values[0] if len(values) == 1 else ""


def _holds(raw: bytes, timestamp: str, signature: str, signing_secret: str) -> bool:
    try:
        return SignatureVerifier(signing_secret).is_valid(raw, timestamp, signature)
    except UnicodeDecodeError:
        return False


def _checked(raw: bytes) -> str:
    """The body as text, a form whose one payload is an interaction; raises ApiProblem."""
    try:
        text = raw.decode()
        fields = parse_qs(text, strict_parsing=True, errors="strict", max_num_fields=MAX_FIELDS)
        payload = orjson.loads(fields["payload"][0])
        if depth_of(payload, MAX_DEPTH) > MAX_DEPTH:
            raise ApiProblem(400, f"the payload is nested deeper than {MAX_DEPTH}")
        _INTERACTIONS.validate_python(payload)
    except ValidationError as error:
        raise ApiProblem(400, f"no interaction that this API knows: {error.error_count()} fields are wrong") from error
    except (ValueError, KeyError) as error:
        raise ApiProblem(400, "no form with a JSON payload") from error
    return text
