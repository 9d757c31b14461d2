"""HTTP calls: one session, no redirects, bounded answers, every foreign error translated."""

import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from multidict import CIMultiDict
from pydantic import JsonValue

from app.clients.foreign_text import legible
from app.clients.network import AddressRefused, JudgingConnector, NetworkPolicy, send_once
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.model import canonical, depth_of
from app.core.planning import OUTPUT_LIMIT

CONNECT_TIMEOUT_S = 10.0
MAX_DELAY_S = 24 * 3600.0  # nobody waits longer because a header says so
MAX_ANSWER_DEPTH = 64  # what pydantic and every reader of the log can take, with room for what is around it


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered.

    headers: names in any case. body: JSON where it was JSON the log can hold, else text, None when empty.
    truncated: more than 64 KiB came and the rest was dropped.
    """

    status: int
    headers: Mapping[str, str]
    body: JsonValue
    truncated: bool

    def retry_after_s(self, now: datetime) -> float | None:
        """The seconds of a Retry-After header, in either of its forms; None when there is none."""
        return retry_after_s(self.headers.get("Retry-After"), now)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """RFC 9110 section 10.2.3: whole seconds or an HTTP date; at most a day, None for anything else."""
    if value is None:
        return None
    text = value.strip()
    if text.isascii() and text.isdigit():
        return min(float(text), MAX_DELAY_S)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return min(max(0.0, (aware - now).total_seconds()), MAX_DELAY_S)


@dataclass(slots=True)
class _Progress:
    """Whether a request may have left: set just before the first byte is written."""

    sent: bool = False


async def _mark_sent(
    _session: aiohttp.ClientSession, context: SimpleNamespace, _params: aiohttp.TraceRequestHeadersSentParams
) -> None:
    context.trace_request_ctx.sent = True


class HttpClient:
    """One session under a network policy."""

    def __init__(
        self,
        policy: NetworkPolicy,
        resolver: AbstractResolver | None = None,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """Nothing connects yet; resolver stands in for the system's in tests, trust None is the system's."""
        self.policy = policy
        self._trust = trust
        self._resolver = resolver
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def check_url(self, url: str) -> None:
        """Judge what can be judged without connecting: the form of the URL, and a host given as an address.

        Raises PermanentError.
        """
        try:
            parts = urlsplit(url)
            host, scheme = parts.hostname, parts.scheme
        except ValueError:
            host, scheme = None, ""
        if scheme not in {"http", "https"} or not host:
            raise PermanentError("the url must be http:// or https:// with a host")
        self.policy.check_literal(host)

    async def request(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: JsonValue = None,
        form: Mapping[str, str] | None = None,
        timeout_s: float,
    ) -> HttpAnswer:
        """Send one request and read at most 64 KiB of the answer.

        body: a string is sent as text, None as nothing, all else as JSON. form: sent in its place, URL-encoded.
        timeout_s: from connecting to the last byte.
        Raises PermanentError (refused by the policy, a bad certificate, not a request), TemporaryError (never sent)
        or OutcomeUnknown (sent, and no whole answer came).
        """
        self.check_url(url)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s))
        progress = _Progress()
        try:
            async with self._open().request(
                method,
                url,
                headers=headers,
                allow_redirects=False,
                timeout=timeout,
                trace_request_ctx=progress,
                **_content(body, form),
            ) as answer:
                return await _read(answer)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise _translated(error, timeout_s, sent=progress.sent) from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            tracing = aiohttp.TraceConfig()
            tracing.on_request_headers_sent.append(_mark_sent)
            self._session = aiohttp.ClientSession(
                connector=JudgingConnector(self.policy, self._resolver, self._trust),
                trust_env=False,
                cookie_jar=aiohttp.DummyCookieJar(),
                trace_configs=[tracing],
            )
            send_once(self._session)
        return self._session


def _content(body: JsonValue, form: Mapping[str, str] | None) -> dict[str, Any]:
    """How aiohttp is told what to send."""
    if form is not None:
        return {"data": dict(form)}
    return {"data": body} if isinstance(body, str) else {} if body is None else {"json": body}


def _translated(
    error: aiohttp.ClientError | OSError | ValueError, timeout_s: float, *, sent: bool
) -> PermanentError | TemporaryError | OutcomeUnknown:
    """What a foreign error means; a TimeoutError is an OSError."""
    refused = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(refused, AddressRefused):
        return PermanentError(str(refused))
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return PermanentError(f"the server's certificate does not hold: {error.certificate_error}")
    if isinstance(error, aiohttp.InvalidURL):
        return PermanentError("the url is not valid")
    if isinstance(error, TimeoutError):
        return OutcomeUnknown(f"no answer within {timeout_s:g} s") if sent else TemporaryError("not connected in time")
    if isinstance(error, aiohttp.ClientError | OSError):
        # a response error's own text has the whole url, and that may hold secrets
        text = error.message if isinstance(error, aiohttp.ClientResponseError) else error
        said = legible(f"{type(error).__name__}: {text}")
        if sent:
            return OutcomeUnknown(f"the connection broke before the whole answer came: {said}")
        return TemporaryError(f"not connected: {said}")
    return PermanentError(f"the request cannot be sent: {error}")


async def _read(answer: aiohttp.ClientResponse) -> HttpAnswer:
    raw = bytearray()
    truncated = False
    async for chunk in answer.content.iter_chunked(16384):
        raw += chunk
        if len(raw) > OUTPUT_LIMIT:
            truncated = True
            del raw[OUTPUT_LIMIT:]
            answer.close()
            break
    text = raw.decode("utf-8", errors="replace")
    body = text.rstrip("\ufffd") if truncated else _body(text)
    headers = CIMultiDict((name, legible(value)) for name, value in answer.headers.items())
    return HttpAnswer(answer.status, headers, body, truncated)


def _body(text: str) -> JsonValue:
    """JSON where the text is JSON that the log can hold, else the text itself, None for nothing.

    A lone surrogate, an infinite or a huge number or deep nesting would make a record that nobody can read.
    """
    try:
        parsed: JsonValue = json.loads(text, parse_constant=str, parse_int=_bounded)
        canonical(parsed).encode()
    except (ValueError, RecursionError):
        return text or None
    return text if depth_of(parsed, MAX_ANSWER_DEPTH) > MAX_ANSWER_DEPTH else parsed


def _bounded(digits: str) -> int:
    number = int(digits)
    if not -(2**63) <= number < 2**64:
        raise ValueError("a number over 64 bits")
    return number
