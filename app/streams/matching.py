"""The agent ``match_anomalies``: anomaly events in, requested executions out."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime

from faust.types import EventT

from app.core.anomaly import Anomaly, Position, read_anomaly
from app.core.answers import AnomalyAnswered, RunbookAnswer, shortened
from app.core.catalog import Catalog, Definition
from app.core.errors import AnomalyRefused, RecordTooLarge
from app.core.events import ExecutionRequested, Limits
from app.core.execution import begin, keys_of
from app.core.matching import Match, Miss, match, request_of
from app.core.spans import SpanContext
from app.ending import cancelled
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.pacing import Pace
from app.streams.publisher import Delivery
from app.streams.receipts import Receipts
from app.streams.records import source_of
from app.streams.tracing import MatchTracing

MAX_HELD = 20_000
"""Anomalies of all tenants that may wait for their turn, unacknowledged; a kilobyte or two each."""
RESULTS = ("refused", "no_candidate", "unmatched", "matched")
"""What becomes of an anomaly event, as it is counted."""
Held = tuple[EventT[bytes], Anomaly]
logger = logging.getLogger(__name__)


class AnomalyMatcher:
    """Matches each event against the catalog and requests what its runbooks ask for.

    A tenant's requests keep the order of its anomalies; those of a tenant that is too far ahead wait, others pass them.
    tracing: None where no traces are exported.
    """

    def __init__(
        self, catalog: Catalog, log: Log, limits: Limits, clock: Callable[[], datetime], figures: Figures
    ) -> None:
        """Keep the parts; limits are pinned into every request."""
        self._catalog = catalog
        self._log = log
        self._limits = limits
        self._clock = clock
        self._figures = figures
        self._counted = {result: figures.anomalies.labels(result) for result in RESULTS}
        self.pace = Pace()
        self.tracing: MatchTracing | None = None
        self._held: dict[str, deque[Held]] = {}
        self._some_held = asyncio.Event()
        self._room = asyncio.Semaphore(MAX_HELD)
        figures.held.set_function(lambda: sum(map(len, self._held.values())))

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        releasing = asyncio.create_task(self._release(receipts))
        releasing.add_done_callback(receipts.fail_with)
        try:
            async for event in records:
                deliveries = await self._handle(event)
                if deliveries is not None:
                    await receipts.settle(event, deliveries)
        finally:
            await cancelled(releasing)

    def forget(self) -> None:
        """Let go of what waits: the partitions are shared out anew, and what was not acknowledged is read again."""
        for held in self._held.values():
            for _ in held:
                self._room.release()
        self._held.clear()
        self._some_held.clear()

    async def _release(self, receipts: Receipts) -> None:
        """Request what waits, one of each tenant that may in turn."""
        while True:
            await self._some_held.wait()
            ready = [tenant for tenant in self._held if self.pace.has_room(tenant)]
            if not ready:
                await self.pace.moves()
            for tenant in ready:
                held = self._held.get(tenant)
                if held is not None:
                    event, anomaly = held.popleft()
                    self._room.release()
                    if not held:
                        del self._held[tenant]
                    await receipts.settle(event, await self._act_on(event, anomaly, match(anomaly, self._catalog)))
            if not self._held:
                self._some_held.clear()

    async def _hold(self, event: EventT[bytes], anomaly: Anomaly) -> None:
        await self._room.acquire()
        self._held.setdefault(anomaly.tenant_id, deque()).append((event, anomaly))
        self._some_held.set()

    async def _handle(self, event: EventT[bytes]) -> list[Delivery] | None:
        """What came of an event; None when it waits for its tenant's turn."""
        message = event.message
        seen = datetime.fromtimestamp(message.timestamp, UTC)
        position = Position(topic=message.topic, partition=message.partition, offset=message.offset, timestamp=seen)
        try:
            anomaly = read_anomaly(event.value, position)
        except AnomalyRefused as error:
            self._counted["refused"].inc()
            self._figures.dead_letters.labels(message.topic).inc()
            logger.warning("anomaly_refused", extra={"offset": message.offset, "error": str(error)})
            return [await self._log.send_dead_letter(source_of(event), error)]
        found = match(anomaly, self._catalog)
        is_matched = bool(_active(found))
        result = "matched" if is_matched else "unmatched" if found else "no_candidate"
        self._counted[result].inc()
        if not found:
            return []
        tenant = anomaly.tenant_id
        if is_matched and (tenant in self._held or not self.pace.has_room(tenant)):
            await self._hold(event, anomaly)
            return None
        return await self._act_on(event, anomaly, found)

    async def _act_on(self, event: EventT[bytes], anomaly: Anomaly, found: tuple[Match | Miss, ...]) -> list[Delivery]:
        """Request what was found, and tell what every candidate said."""
        at = self._clock()
        requests = [self._request(anomaly, definition, at) for definition in _active(found)]
        matching = self.tracing.begun(event.message) if self.tracing is not None and requests else None
        context = None if matching is None else matching.context
        deliveries = [await self._send(request, event, context) for request in requests]
        if matching is not None:
            matching.end(len(requests))
        return [*deliveries, await self._log.send_answers(self._answers(anomaly, found, requests, at))]

    async def _send(self, request: ExecutionRequested, event: EventT[bytes], came_from: SpanContext | None) -> Delivery:
        """Append the request; an event whose request is too large for the log is put aside."""
        try:
            self.pace.written(request.tenant, request.execution_id)
            return await self._log.send_event(request, came_from)
        except RecordTooLarge as error:
            self._figures.dead_letters.labels(event.message.topic).inc()
            logger.warning("request_too_large", extra={"offset": event.message.offset, "error": str(error)})
            return await self._log.send_dead_letter(source_of(event), error)

    def _answers(
        self, anomaly: Anomaly, found: tuple[Match | Miss, ...], requests: list[ExecutionRequested], at: datetime
    ) -> AnomalyAnswered:
        """What every candidate said."""
        requested = {request.runbook.name: request for request in requests}
        return AnomalyAnswered(
            tenant=anomaly.tenant_id,
            anomaly_id=anomaly.anomaly_id,
            service_id=anomaly.service_id,
            metric_name=anomaly.metric_name,
            at=at,
            answers=tuple(self._answer(anomaly, one, requested.get(one.definition.name), at) for one in found),
        )

    def _answer(
        self, anomaly: Anomaly, one: Match | Miss, request: ExecutionRequested | None, at: datetime
    ) -> RunbookAnswer:
        definition = one.definition
        name, version = definition.name, definition.version
        if isinstance(one, Miss):
            reason = shortened(one.reason)
            return RunbookAnswer(runbook=name, version=version, result="no_match", reason=reason)
        if request is None:
            return self._shadow(anomaly, definition, at)
        return RunbookAnswer(
            runbook=name,
            version=version,
            result="requested" if request.paused is None else "paused",
            reason=shortened(request.paused or ""),
            execution_id=request.execution_id,
        )

    def _shadow(self, anomaly: Anomaly, definition: Definition, at: datetime) -> RunbookAnswer:
        """What a shadow would have done; its cooldown and limits are judged by whoever reads the ledger."""
        would = begin(
            self._request(anomaly, definition, at).model_copy(
                update={"runbook": definition.runbook.model_copy(update={"mode": "active"})}
            ),
            0,
        )
        paused = would.request.paused
        return RunbookAnswer(
            runbook=definition.name,
            version=definition.version,
            result="would_request" if paused is None else "would_be_paused",
            reason=shortened(paused or ""),
            keys=keys_of(would),
        )

    def _request(self, anomaly: Anomaly, definition: Definition, at: datetime) -> ExecutionRequested:
        return request_of(anomaly, definition, at, self._limits, self._catalog.pauses)


def _active(found: tuple[Match | Miss, ...]) -> list[Definition]:
    """The definitions that matched and are carried out."""
    return [one.definition for one in found if isinstance(one, Match) and one.definition.runbook.mode == "active"]
