"""The agent ``match_anomalies``: anomaly events in, requested executions out."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from typing import NamedTuple

from faust.types import EventT

from app.core.anomaly import Anomaly, Position, read_anomaly, tenant_in
from app.core.answers import Answered, RunbookAnswer, shortened
from app.core.catalog import Catalog, Definition
from app.core.errors import AnomalyRefused, RecordTooLarge
from app.core.events import ExecutionRequested, Limits
from app.core.execution import begin, keys_of
from app.core.matching import Match, Miss, match, request_of
from app.core.spans import SpanContext
from app.ending import cancelled
from app.streams.answering import Answers
from app.streams.drawing import Turn
from app.streams.figures import Figures
from app.streams.holding import Held
from app.streams.log import Log
from app.streams.pacing import Pace
from app.streams.publisher import Delivery
from app.streams.receipts import Receipts
from app.streams.records import source_of, time_of_event
from app.streams.tracing import MatchTracing

RESULTS = ("refused", "no_candidate", "unmatched", "matched")
"""What becomes of an anomaly event, as it is counted."""
logger = logging.getLogger(__name__)


class Looked(NamedTuple):
    """An event that was looked at: what it is and what its candidates say, or why it is refused.

    due: the definitions that matched and are carried out.
    """

    event: EventT[bytes]
    anomaly: Anomaly | None = None
    found: tuple[Match | Miss, ...] = ()
    due: tuple[Definition, ...] = ()
    refusal: AnomalyRefused | None = None


class AnomalyMatcher:
    """Matches each event against the catalog and requests what its runbooks ask for.

    A tenant's requests keep the order of its anomalies; those of a tenant that is too far ahead wait, unread
    but for the first, and others pass them.
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
        self._answers = Answers(log)
        self._held = Held()
        figures.held.set_function(lambda: len(self._held))

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        beside = [asyncio.create_task(work) for work in (self._release(receipts), self._answers.run())]
        for task in beside:
            task.add_done_callback(receipts.fail_with)
        try:
            async for event in records:
                await self._take(event, receipts)
        finally:
            for task in beside:
                task.cancel()
            for task in beside:
                await cancelled(task)

    def forget(self) -> None:
        """Let go of what waits: the partitions are shared out anew, and what was not acknowledged is read again."""
        self._held.clear()

    async def _take(self, event: EventT[bytes], receipts: Receipts) -> None:
        """Handle an event, unless it must wait: behind others of its tenant, or because that one is too far ahead."""
        tenant = tenant_in(event.value) if self._held else None
        if tenant is not None and tenant in self._held:
            await self._held.add(tenant, event)
            return
        looked = self._look_at(event)
        if looked.anomaly is not None and looked.due and not self._has_room(looked.anomaly.tenant_id):
            await self._held.add(looked.anomaly.tenant_id, event, looked.anomaly)
        else:
            await receipts.settle(event, await self._act_on(looked))

    async def _release(self, receipts: Receipts) -> None:
        """Handle what waits, one of each tenant in turn."""
        turn = Turn()
        while True:
            await self._held.some()
            for tenant in self._held.tenants():
                await self._release_first(tenant, receipts)
                if turn.is_over():
                    await turn.passes()
            if self._held and not any(map(self._may_go_on, self._held.tenants())):
                await self.pace.moves()

    def _may_go_on(self, tenant: str) -> bool:
        """Whether the first one that waits may match nothing, or be requested."""
        line = self._held.line_of(tenant)
        return line is None or line.read is None or self._has_room(tenant)

    def _has_room(self, tenant: str) -> bool:
        """Whether a tenant may request something: while nothing more can be held, all others wait for its turn."""
        return self.pace.has_room(tenant, hurried=self._held.full)

    async def _release_first(self, tenant: str, receipts: Receipts) -> None:
        """Handle the first one that waits of a tenant; one that matches stays until there is room for its requests."""
        line = self._held.line_of(tenant)
        if line is None or not self._may_go_on(tenant):
            return
        event = line.events[0]
        looked = self._look_at(event, line.read)
        if looked.due and not self._has_room(tenant):
            line.read = looked.anomaly
            return
        deliveries = await self._act_on(looked)
        self._held.take(tenant, event)
        await receipts.settle(event, deliveries)

    def _look_at(self, event: EventT[bytes], anomaly: Anomaly | None = None) -> Looked:
        """What an event is, unless that is known, and what it matches."""
        message = event.message
        position = Position(message.topic, message.partition, message.offset, time_of_event(event))
        try:
            anomaly = anomaly or read_anomaly(event.value, position)
        except AnomalyRefused as error:
            return Looked(event, refusal=error)
        found = match(anomaly, self._catalog)
        return Looked(event, anomaly, found, _active(found))

    async def _act_on(self, looked: Looked) -> list[Delivery]:
        """Request what is due, and tell what every candidate said."""
        event, anomaly, found, due, refusal = looked
        if refusal is not None:
            return [await self._refuse(event, refusal)]
        assert anomaly is not None
        self._counted["matched" if due else "unmatched" if found else "no_candidate"].inc()
        if not found:
            return []
        at = self._clock()
        requests = [self._request(anomaly, definition, at) for definition in due]
        matching = self.tracing.begun(event.message) if self.tracing is not None and requests else None
        context = None if matching is None else matching.context
        deliveries = [await self._send(request, event, context) for request in requests]
        if matching is not None:
            matching.end(len(requests))
        return [*deliveries, self._answers.add(anomaly.tenant_id, self._answered(anomaly, found, requests, at))]

    async def _refuse(self, event: EventT[bytes], error: AnomalyRefused) -> Delivery:
        """Put an event aside that is none."""
        message = event.message
        self._counted["refused"].inc()
        self._figures.dead_letters.labels(message.topic).inc()
        logger.warning("anomaly_refused", extra={"offset": message.offset, "error": str(error)})
        return await self._log.send_dead_letter(source_of(event), error)

    async def _send(self, request: ExecutionRequested, event: EventT[bytes], came_from: SpanContext | None) -> Delivery:
        """Append the request; an event whose request is too large for the log is put aside."""
        try:
            self.pace.written(request.tenant, request.execution_id)
            return await self._log.send_event(request, came_from)
        except RecordTooLarge as error:
            self._figures.dead_letters.labels(event.message.topic).inc()
            logger.warning("request_too_large", extra={"offset": event.message.offset, "error": str(error)})
            return await self._log.send_dead_letter(source_of(event), error)

    def _answered(
        self, anomaly: Anomaly, found: tuple[Match | Miss, ...], requests: list[ExecutionRequested], at: datetime
    ) -> Answered:
        """What every candidate said."""
        requested = {request.runbook.name: request for request in requests}
        return Answered(
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


def _active(found: tuple[Match | Miss, ...]) -> tuple[Definition, ...]:
    """The definitions that matched and are carried out."""
    return tuple(one.definition for one in found if isinstance(one, Match) and one.definition.runbook.mode == "active")
