"""Slack, through slack_sdk."""

from dataclasses import dataclass

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient

from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

REQUEST_TIMEOUT_S = 10
RATE_LIMIT_RETRIES = 2
TEMPORARY_CODES = frozenset({"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable"})


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """A message that was posted: the channel's id and the timestamp that names the message in it."""

    channel: str
    ts: str


def escape(text: str) -> str:
    """Text that can neither mention nor link: Slack's three control characters escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class SlackClient:
    """One workspace; off when there is no token."""

    def __init__(self, token: str | None, base_url: str = "https://slack.com/api/") -> None:
        """Nothing connects yet."""
        self._token = token
        self._base_url = base_url
        self._session: aiohttp.ClientSession | None = None
        self._client: AsyncWebClient | None = None

    async def close(self) -> None:
        """Close the session."""
        if self._session is not None:
            await self._session.close()
            self._session, self._client = None, None

    def check(self) -> None:
        """Whether messages can be sent at all.

        Raises PermanentError naming the setting.
        """
        if self._token is None:
            raise PermanentError("Slack is not configured: set RUNBOOKS_SLACK__BOT_TOKEN")

    async def post_message(self, channel: str, text: str, thread_ts: str | None = None) -> SlackMessage:
        """Post a message; text is mrkdwn, so escape what is not ours.

        Raises PermanentError (Slack refused), TemporaryError (not connected, limited) or OutcomeUnknown.
        """
        self.check()
        try:
            answer = await self._open().chat_postMessage(channel=channel, text=text, thread_ts=thread_ts)
        except SlackApiError as error:
            raise _translated(error) from error
        except aiohttp.ClientConnectorError as error:
            raise TemporaryError(f"Slack cannot be reached: {error}") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise OutcomeUnknown(f"Slack did not answer: {type(error).__name__}") from error
        return SlackMessage(channel=str(answer["channel"]), ts=str(answer["ts"]))

    def _open(self) -> AsyncWebClient:
        if self._client is None:
            self._session = aiohttp.ClientSession(trust_env=False)
            self._client = AsyncWebClient(
                token=self._token,
                base_url=self._base_url,
                timeout=REQUEST_TIMEOUT_S,
                session=self._session,
                retry_handlers=[AsyncRateLimitErrorRetryHandler(max_retry_count=RATE_LIMIT_RETRIES)],
            )
        return self._client


def _translated(error: SlackApiError) -> PermanentError | TemporaryError:
    response = error.response
    data = response.data if isinstance(response.data, dict) else {}
    code = str(data.get("error") or f"HTTP {response.status_code}")
    if code in TEMPORARY_CODES or response.status_code == 429 or response.status_code >= 500:
        after = response.headers.get("Retry-After") or response.headers.get("retry-after")
        return TemporaryError(f"Slack said {code}", float(after) if after and str(after).isdigit() else None)
    return PermanentError(f"Slack said {code}")
