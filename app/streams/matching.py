"""The agent ``match_anomalies``: anomaly events in, requested executions out."""

import logging
from collections.abc import Callable
from datetime import UTC, datetime

from faust.types import EventT, StreamT

from app.core.anomaly import Anomaly, Position, read_anomaly
from app.core.catalog import Catalog, Definition
from app.core.errors import AnomalyRefused, RecordTooLarge
from app.core.events import ExecutionRequested, Limits
from app.core.ids import execution_id_for_anomaly
from app.core.matching import Match, match
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
            logger.warning("anomaly_refused", extra={"offset": message.offset, "error": str(error)})
            return [await self._log.send_dead_letter(source_of(event), error)]
        answers = match(anomaly, self._catalog)
        matched = [answer.definition for answer in answers if isinstance(answer, Match)]
        self._figures.anomalies.labels("matched" if matched else "unmatched").inc()
        return [await self._send(self._request(anomaly, definition), event) for definition in matched]

    async def _send(self, request: ExecutionRequested, event: EventT[bytes]) -> Delivery:
        """Append the request; an event whose request is too large for the log is put aside."""
        try:
            return await self._log.send_event(request)
        except RecordTooLarge as error:
            self._figures.dead_letters.labels(event.message.topic).inc()
            logger.warning("request_too_large", extra={"offset": event.message.offset, "error": str(error)})
            return await self._log.send_dead_letter(source_of(event), error)

    def _request(self, anomaly: Anomaly, definition: Definition) -> ExecutionRequested:
        at = self._clock()
        pause = self._catalog.pauses.why_paused(anomaly.tenant_id, definition.name, anomaly.service_id, at)
        return ExecutionRequested(
            tenant=anomaly.tenant_id,
            execution_id=execution_id_for_anomaly(anomaly.tenant_id, anomaly.anomaly_id, definition.name),
            at=at,
            runbook=definition.runbook,
            runbook_version=definition.version,
            runbook_digest=definition.digest,
            anomaly=anomaly,
            dry_run=definition.runbook.dry_run,
            limits=self._limits,
            paused=None if pause is None or definition.runbook.dry_run else pause.told(),
        )
