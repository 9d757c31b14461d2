"""Slack, through slack_sdk."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import aiohttp
from slack_sdk.errors import SlackApiError
from slack_sdk.http_retry import HttpRequest, HttpResponse, RetryState
from slack_sdk.http_retry.builtin_async_handlers import AsyncRateLimitErrorRetryHandler
from slack_sdk.web.async_client import AsyncWebClient
from slack_sdk.web.async_slack_response import AsyncSlackResponse

from app.clients.foreign_text import legible
from app.clients.http import retry_after_s
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

REQUEST_TIMEOUT_S = 10.0
CONNECT_TIMEOUT_S = 5.0
RATE_LIMIT_RETRIES = 2
MAX_WAIT_S = 5  # a longer wait is the runbook's to decide: the step ends as failed for the moment
MARKED = "infrasage_runbooks"
PAGE, MAX_PAGES = 200, 50
SKEW = timedelta(seconds=60)  # Slack's clock names the messages, ours names the moment
Blocks = list[dict[str, Any]]
MAX_TEXT = 40_000  # characters of one message; Slack cuts off what is longer
TEMPORARY_CODES = frozenset({"ratelimited", "rate_limited", "internal_error", "fatal_error", "service_unavailable"})


@dataclass(frozen=True, slots=True)
class SlackMessage:
    """A message that was posted: the channel's id and the timestamp that names the message in it."""

    channel_id: str
    ts: str


def escape(text: str) -> str:
    """Text that can neither mention nor link: Slack's three control characters escaped."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


class SlackClient:
    """One workspace; off when there is no token."""

    def __init__(
        self,
        token: str | None,
        base_url: str = "https://slack.com/api/",
        timeout_s: float = REQUEST_TIMEOUT_S,
    ) -> None:
        """Nothing connects yet; timeout_s bounds every request."""
        self._token = token
        self._base_url = base_url
        self._timeout_s = timeout_s
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

    async def post_message(
        self,
        channel: str,
        text: str,
        thread_ts: str | None = None,
        blocks: Blocks | None = None,
        mark: str | None = None,
    ) -> SlackMessage:
        """Post a message; text is mrkdwn, so escape what is not ours.

        blocks: shown instead of the text where Slack can. mark: kept with the message, for ``find_marked``.
        Raises PermanentError (Slack refused), TemporaryError (not connected, limited, HTTP 5xx) or OutcomeUnknown.
        """
        metadata = None if mark is None else {"event_type": MARKED, "event_payload": {"mark": mark}}
        return _placed(
            await self._ask(
                lambda slack: slack.chat_postMessage(
                    channel=channel, text=text, thread_ts=thread_ts, blocks=blocks, metadata=metadata
                )
            )
        )

    async def change_message(self, at: SlackMessage, text: str, blocks: Blocks) -> SlackMessage:
        """Change a message in its place; the same change twice is one. Raises as post_message."""
        answer = await self._ask(
            lambda slack: slack.chat_update(channel=at.channel_id, ts=at.ts, text=text, blocks=blocks)
        )
        return _placed(answer)

    async def find_marked(
        self, channel_id: str, mark: str, since: datetime, thread_ts: str | None = None
    ) -> SlackMessage | None:
        """The message with this mark that was posted since; None where there is none.

        thread_ts: look among the replies to this message instead of the channel's own messages. Raises as
        post_message, PermanentError too when the token may not read the channel or too much was posted there.
        """
        oldest = f"{(since - SKEW).timestamp():.6f}"
        cursor = ""
        for _ in range(MAX_PAGES):
            answer = await self._ask(
                partial(_page, channel_id=channel_id, thread_ts=thread_ts, oldest=oldest, cursor=cursor)
            )
            messages: list[dict[str, Any]] = answer.get("messages") or []
            for message in messages:
                metadata = message.get("metadata") or {}
                if metadata.get("event_type") == MARKED and metadata.get("event_payload", {}).get("mark") == mark:
                    return SlackMessage(channel_id, str(message["ts"]))
            cursor = (answer.get("response_metadata") or {}).get("next_cursor") or ""
            if not cursor:
                return None
        raise PermanentError(f"more than {MAX_PAGES * PAGE} messages were posted to {channel_id} meanwhile")

    async def _ask(self, call: Callable[[AsyncWebClient], Awaitable[AsyncSlackResponse]]) -> AsyncSlackResponse:
        self.check()
        try:
            answer = await call(self._open())
            answer.get("ok")  # slack_sdk finds out only now that it could not read an answer
        except SlackApiError as error:
            raise _translated(error) from error
        except aiohttp.ClientConnectorCertificateError as error:
            raise PermanentError(f"Slack's certificate does not hold: {error.certificate_error}") from error
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise TemporaryError(f"Slack cannot be reached: {error}") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise OutcomeUnknown(f"Slack did not answer: {type(error).__name__}") from error
        except (AttributeError, KeyError, TypeError, ValueError) as error:  # slack_sdk reads no unusual answer
            raise OutcomeUnknown("Slack's answer cannot be read") from error
        return answer

    def _open(self) -> AsyncWebClient:
        if self._client is None:
            # slack_sdk leaves the time limit of a session that it is given to the session
            limits = aiohttp.ClientTimeout(total=self._timeout_s, sock_connect=min(CONNECT_TIMEOUT_S, self._timeout_s))
            connector = aiohttp.TCPConnector(force_close=True)  # as in JudgingConnector: no needless unknown outcome
            self._session = aiohttp.ClientSession(connector=connector, timeout=limits, trust_env=False)
            self._client = AsyncWebClient(
                token=self._token,
                base_url=self._base_url,
                session=self._session,
                retry_handlers=[_ShortWaits(max_retry_count=RATE_LIMIT_RETRIES)],
            )
        return self._client


def _page(
    slack: AsyncWebClient, channel_id: str, thread_ts: str | None, oldest: str, cursor: str
) -> Awaitable[AsyncSlackResponse]:
    """One page of a channel's messages, or of the replies to one; an empty cursor asks for the first."""
    if thread_ts is None:
        return slack.conversations_history(
            channel=channel_id, oldest=oldest, cursor=cursor or None, limit=PAGE, include_all_metadata=True
        )
    return slack.conversations_replies(
        channel=channel_id, ts=thread_ts, oldest=oldest, cursor=cursor or None, limit=PAGE, include_all_metadata=True
    )


def _placed(answer: AsyncSlackResponse) -> SlackMessage:
    return SlackMessage(channel_id=str(answer.get("channel", "")), ts=str(answer.get("ts", "")))


class _ShortWaits(AsyncRateLimitErrorRetryHandler):
    """Tries again when Slack asks for a short wait; slack_sdk's own handler sleeps for however long it is told."""

    async def _can_retry_async(
        self,
        *,
        state: RetryState,  # noqa: ARG002 - slack_sdk's interface
        request: HttpRequest,  # noqa: ARG002
        response: HttpResponse | None = None,
        error: Exception | None = None,
    ) -> bool:
        if error is not None or response is None or response.status_code != 429:
            return False
        waits = next((values for name, values in response.headers.items() if name.lower() == "retry-after"), ["1"])
        return waits[0].isascii() and waits[0].isdigit() and len(waits[0]) < 4 and int(waits[0]) <= MAX_WAIT_S


def _translated(error: SlackApiError) -> PermanentError | TemporaryError | OutcomeUnknown:
    response: Any = error.response  # slack_sdk's response, or aiohttp's when the body could not be read
    status = int(getattr(response, "status_code", 0) or getattr(response, "status", 0))
    data = getattr(response, "data", None)
    code = legible(str(data["error"])) if isinstance(data, dict) and data.get("error") else None
    if code in TEMPORARY_CODES or status == 429 or status >= 500:
        delay_s = retry_after_s(response.headers.get("Retry-After"), datetime.now(UTC))
        return TemporaryError(f"Slack said {code or f'HTTP {status}'}", delay_s)
    if code is None and 200 <= status < 300:
        return OutcomeUnknown("Slack's answer cannot be read")
    return PermanentError(f"Slack said {code or f'HTTP {status}'}")
