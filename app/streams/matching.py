"""The agent ``match_anomalies``: anomaly events in, requested executions out."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from faust.types import EventT, StreamT

from app.core.anomaly import Anomaly, Position, read_anomaly
from app.core.answers import AnomalyAnswered, RunbookAnswer, shortened
from app.core.catalog import Catalog, Definition
from app.core.errors import AnomalyRefused, RecordTooLarge
from app.core.events import ExecutionRequested, Limits
from app.core.execution import begin, keys_of
from app.core.matching import Match, Miss, match, request_of
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.publisher import Delivery
from app.streams.receipts import Receipts
from app.streams.records import source_of

logger = logging.getLogger(__name__)


class AnomalyMatcher:
    """Matches each event against the catalog and requests what its runbooks ask for."""

    def __init__(
        self, catalog: Catalog, log: Log, limits: Limits, clock: Callable[[], datetime], figures: Figures
    ) -> None:
        """Keep the parts; limits are pinned into every request."""
        self._catalog = catalog
        self._log = log
        self._limits = limits
        self._clock = clock
        self._figures = figures

    async def run(self, stream: StreamT[bytes], receipts: Receipts) -> None:
        """Handle records until the stream ends."""
        async for event in stream.noack().events():
            await receipts.settle(event, await self._handle(event))

    async def _handle(self, event: EventT[bytes]) -> list[Delivery]:
        message = event.message
        seen = datetime.fromtimestamp(message.timestamp, UTC)
        position = Position(topic=message.topic, partition=message.partition, offset=message.offset, timestamp=seen)
        try:
            anomaly = read_anomaly(event.value, position)
        except AnomalyRefused as error:
            self._figures.anomalies.labels("refused").inc()
            self._figures.dead_letters.labels(message.topic).inc()
            logger.warning("anomaly_refused", extra={"offset": message.offset, "error": str(error)})
            return [await self._log.send_dead_letter(source_of(event), error)]
        found = match(anomaly, self._catalog)
        matched = [
            one.definition for one in found if isinstance(one, Match) and one.definition.runbook.mode == "active"
        ]
        result = "matched" if matched else "unmatched" if found else "no_candidate"
        self._figures.anomalies.labels(result).inc()
        if not found:
            return []
        at = self._clock()
        requests = [self._request(anomaly, definition, at) for definition in matched]
        deliveries = [await self._send(request, event) for request in requests]
        return [*deliveries, await self._log.send_answers(self._answers(anomaly, found, requests, at))]

    async def _send(self, request: ExecutionRequested, event: EventT[bytes]) -> Delivery:
        """Append the request; an event whose request is too large for the log is put aside."""
        try:
            return await self._log.send_event(request)
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
