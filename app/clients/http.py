"""HTTP calls: one session, no redirects, bounded answers, every foreign error translated."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver
from pydantic import JsonValue

from app.clients.network import AddressRefused, JudgingConnector, NetworkPolicy
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.planning import OUTPUT_LIMIT

CONNECT_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class HttpAnswer:
    """What a server answered: body is JSON where it was JSON, else text; truncated says that more was dropped."""

    status: int
    headers: Mapping[str, str]
    body: JsonValue
    truncated: bool

    def retry_after_s(self, now: datetime) -> float | None:
        """The seconds of a Retry-After header, in either of its forms; None when there is none."""
        return retry_after_s(self.headers.get("Retry-After"), now)


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """RFC 9110 section 10.2.3: whole seconds or an HTTP date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return max(0.0, (aware - now).total_seconds())


class HttpClient:
    """One session under a network policy."""

    def __init__(self, policy: NetworkPolicy, resolver: AbstractResolver | None = None) -> None:
        """Nothing connects yet; resolver stands in for the system's in tests."""
        self.policy = policy
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
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise PermanentError("the url must be http:// or https:// with a host")
        self.policy.check_literal(parts.hostname)

    async def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: JsonValue, timeout_s: float
    ) -> HttpAnswer:
        """Send one request and read at most 64 KiB of the answer.

        Raises PermanentError (refused by the policy, a bad certificate or URL), TemporaryError (not connected) or
        OutcomeUnknown (sent, and no whole answer came).
        """
        self.check_url(url)
        timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, timeout_s))
        sent = {"data": body} if isinstance(body, str) else {} if body is None else {"json": body}
        try:
            async with self._open().request(
                method, url, headers=headers, allow_redirects=False, timeout=timeout, **sent
            ) as answer:
                return await _read(answer)
        except aiohttp.ClientConnectorCertificateError as error:
            raise PermanentError(f"the server's certificate does not hold: {error.certificate_error}") from error
        except aiohttp.InvalidURL as error:
            raise PermanentError("the url is not valid") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            refused = getattr(error, "os_error", None)
            if isinstance(refused, AddressRefused):
                raise PermanentError(str(refused)) from error
            raise TemporaryError(f"not connected: {error}") from error
        except AddressRefused as error:
            raise PermanentError(str(error)) from error
        except TimeoutError as error:
            raise OutcomeUnknown(f"no answer within {timeout_s:g} s") from error
        except aiohttp.ClientError as error:
            raise OutcomeUnknown(f"the connection broke before the whole answer came: {error!r}") from error
        except ValueError as error:
            raise PermanentError(f"the request cannot be sent: {error}") from error

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = JudgingConnector(self.policy, self._resolver)
            self._session = aiohttp.ClientSession(
                connector=connector, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            )
        return self._session


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
    return HttpAnswer(answer.status, dict(answer.headers), _body(text, truncated=truncated), truncated)


def _body(text: str, *, truncated: bool) -> JsonValue:
    if truncated or not text:
        return text or None
    try:
        parsed: JsonValue = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError):
        return text
    return parsed
