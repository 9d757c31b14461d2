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
        time_of = await self._times(target, query, command, at)
        answer = await self._ask(target, query, at)
        found = [Found(one.value, one.at if answer.raw else time_of(one)) for one in answer.series]
        return measured(found, command.check, since(command, at, self._max_age_s), answer.doubt)

    async def _times(
        self, target: MetricTarget, query: str, command: MetricCommand, at: datetime
    ) -> Callable[[Series], datetime | None]:
        """When each series was measured, where that can be found out.

        Asked before the values: a sample that comes in between then makes a value seem older than it is, not newer.
        """
        if target.queries.measured_at is not None:
            asked = target.queries.measured_at.query(command.check.metric_name, command.service_id)
            oldest = min(map(_time_told, (await self._ask(target, asked, at)).series), default=NEVER)
            return lambda _: oldest
        if not is_selector(query):
            return lambda _: None
        told = (await self._ask(target, f"timestamp({query})", at)).series
        times = {_identity(one): _time_told(one) for one in told}
        return lambda one: times.get(_identity(one), NEVER)

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


def _time_told(series: Series) -> datetime:
    try:
        return datetime.fromtimestamp(series.value, UTC)
    except (OverflowError, OSError, ValueError):
        return NEVER
