"""The agent ``record_approvals``: decisions in, recorded in the log with whether they may count."""

import logging
from collections.abc import AsyncIterator, Mapping

from faust.types import EventT

from app.core.decisions import read_decision, why_not_signed
from app.core.errors import RecordRefused, RecordTooLarge
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.publisher import Delivery
from app.streams.receipts import Receipts
from app.streams.records import source_of

logger = logging.getLogger(__name__)


class ApprovalRecorder:
    """Checks each decision's signature and appends it to its tenant's log."""

    def __init__(self, log: Log, keys: Mapping[str, bytes], figures: Figures, *, trust_topic: bool) -> None:
        """Keep the parts; trust_topic takes unsigned decisions."""
        self._log = log
        self._keys = keys
        self._figures = figures
        self._trust_topic = trust_topic

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        async for event in records:
            await receipts.settle(event, [await self._handle(event)])

    async def _handle(self, event: EventT[bytes]) -> Delivery:
        try:
            decision = read_decision(event.value)
            trusted = self._trust_topic and decision.signature is None
            refusal = None if trusted else why_not_signed(decision, self._keys)
            return await self._log.send_event(decision.event(refusal))
        except (RecordRefused, RecordTooLarge) as error:
            logger.warning("decision_refused", extra={"offset": event.message.offset, "error": str(error)})
            self._figures.dead_letters.labels(event.message.topic).inc()
            return await self._log.send_dead_letter(source_of(event), error)
