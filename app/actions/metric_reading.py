"""One reading of a metric from a metric server: asked again a few times, judged, and answered whatever happens."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Protocol

from app.clients.metric_targets import MetricTarget, MetricTargets
from app.clients.prometheus import Answer, PrometheusClient, Series
from app.core.commands import MetricCommand
from app.core.errors import ActionError, TemplateError, TemporaryError
from app.core.measuring import Found, Measured, failed, measured
from app.core.metric_queries import is_selector

ATTEMPTS = 3
PAUSE_S = 0.5
MAX_PAUSE_S = 5.0
READING_LIMIT_S = 45.0
"""For all of a reading: the engine asks another worker when nobody has answered for 60 s."""


class MetricReader(Protocol):
    """What reads metrics."""

    name: str

    async def read(self, command: MetricCommand, at: datetime) -> Measured:
        """The metric as it is at that time; never raises what came from elsewhere."""

    async def close(self) -> None:
        """Let go of what it holds."""


def since(command: MetricCommand, at: datetime, max_age_s: float) -> datetime:
    """From when on a measurement counts."""
    oldest = at - timedelta(seconds=max_age_s)
    return oldest if command.not_before is None else max(oldest, command.not_before)


class PrometheusReader:
    """Reads from metric servers."""

    name = "prometheus"

    def __init__(
        self,
        client: PrometheusClient,
        targets: MetricTargets,
        max_age_s: float,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """max_age_s: what was measured longer ago is no data; pause waits between two attempts."""
        self._client = client
        self._targets = targets
        self._max_age_s = max_age_s
        self._pause = pause

    async def close(self) -> None:
        """Close the client."""
        await self._client.close()

    async def read(self, command: MetricCommand, at: datetime) -> Measured:
        """The worst of the series that the query gives at that time."""
        try:
            async with asyncio.timeout(READING_LIMIT_S):
                return await self._measured(command, at)
        except TimeoutError:
            return failed(f"no answer within {READING_LIMIT_S:g} s")
        except (ActionError, TemplateError) as error:
            return failed(str(error))

    async def _measured(self, command: MetricCommand, at: datetime) -> Measured:
        target = self._targets.find(command.tenant, command.check.metric_name)
        query = target.queries.query.query(command.check.metric_name, command.service_id)
        answer = await self._ask(target, query, at)
        found = await self._dated(target, query, answer, command, at) if answer.series else []
        return measured(found, command.check, since(command, at, self._max_age_s), answer.doubt)

    async def _dated(
        self, target: MetricTarget, query: str, answer: Answer, command: MetricCommand, at: datetime
    ) -> list[Found]:
        """The series with the times they were measured at, where that can be found out."""
        if answer.raw:
            return [Found(one.value, one.at) for one in answer.series]
        if target.queries.measured_at is not None:
            asked = target.queries.measured_at.query(command.check.metric_name, command.service_id)
            times = [_time_of(one) for one in (await self._ask(target, asked, at)).series]
            return [Found(one.value, min(times, default=NEVER)) for one in answer.series]
        if not is_selector(query):
            return [Found(one.value) for one in answer.series]
        times_of = {
            _identity(one): _time_of(one) for one in (await self._ask(target, f"timestamp({query})", at)).series
        }
        return [Found(one.value, times_of.get(_identity(one), NEVER)) for one in answer.series]

    async def _ask(self, target: MetricTarget, query: str, at: datetime) -> Answer:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await self._client.query(target.server, query, at)
            except TemporaryError as error:
                if attempt == ATTEMPTS:
                    raise
                await self._pause(min(error.delay_s or PAUSE_S * attempt, MAX_PAUSE_S))
        raise AssertionError


NEVER = datetime.min.replace(tzinfo=UTC)
"""Of a series whose time was asked for and not told: it counts for nothing."""


def _identity(series: Series) -> frozenset[tuple[str, str]]:
    """The labels without the metric's name, which ``timestamp()`` takes away."""
    return frozenset(item for item in series.labels.items() if item[0] != "__name__")


def _time_of(series: Series) -> datetime:
    try:
        return datetime.fromtimestamp(series.value, UTC)
    except (OverflowError, OSError, ValueError):
        return NEVER
