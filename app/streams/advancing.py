"""The agent ``advance_executions``: folds the log and sends what is due."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from datetime import datetime, timedelta

from faust.types import EventT

from app.core.approving import notices_due
from app.core.commands import Command, StepCommand
from app.core.errors import RecordRefused, RecordTooLarge
from app.core.events import Event, ExecutionRequested, StartJudged, StepFinished, TimerFired, read_event
from app.core.execution import Execution, Marker
from app.core.lifecycle import Evolved, evolve
from app.core.rollback import rollback_status
from app.core.unsendable import answer_for, stop_of
from app.streams.figures import Figures
from app.streams.index import ExecutionIndex, outline_of, row_of, state_of
from app.streams.lines import State
from app.streams.log import Log
from app.streams.pausing import Pauses
from app.streams.publisher import Delivery, Publisher
from app.streams.receipts import Receipts
from app.streams.records import source_of
from app.streams.tables import DeferredTable
from app.streams.timers import Armed, Timers
from app.streams.topics import EXECUTION_EVENTS
from app.streams.tracing import FoldTracing

SentKey = tuple[str, bool]
MARKER_GRACE = timedelta(hours=1)
"""Markers live this much longer than their window: clocks differ, and deletion must never change an answer."""
logger = logging.getLogger(__name__)


class Advancer:
    """Keeps the state of the owned partitions' executions and drives them.

    on_requested: called with tenant and id of each request that is folded. tracing: None where no traces are exported.
    """

    def __init__(
        self,
        table: DeferredTable,
        log: Log,
        publisher: Publisher,
        clock: Callable[[], datetime],
        figures: Figures,
        pauses: Pauses,
    ) -> None:
        """Keep the parts."""
        self._pauses = pauses
        self.index = ExecutionIndex(self._is_paused, self._marker_of)
        self.timers = Timers(self._fire, clock)
        self._table = table
        self._log = log
        self._publisher = publisher
        self._clock = clock
        self._figures = figures
        self._sent: dict[str, frozenset[SentKey]] = {}
        self._judged: set[str] = set()
        self.on_requested: Callable[[str, str], None] = lambda _tenant, _execution_id: None
        self.tracing: FoldTracing | None = None

    def recover(self, partitions: set[int]) -> None:
        """Rebuild the index from the table for these partitions, and let every live execution be looked at."""
        rows = [row for row in self._table.rows.indexed() if row.partition in partitions]
        self.index.rebuild(state_of(row.value) for row in rows)
        self._sent.clear()
        self._judged.clear()
        self.timers.clear()
        for execution in self.index.live():
            self.timers.arm_now(execution)
        logger.info(
            "executions_recovered",
            extra={"partitions": sorted(partitions), "rows": len(rows), "markers": self.markers()},
        )

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        async for event in records:
            await receipts.settle(event, await self._handle(event))

    async def _handle(self, event: EventT[bytes]) -> list[Delivery]:
        message = event.message
        try:
            happened = read_event(event.value)
        except RecordRefused as error:
            logger.warning("event_refused", extra={"offset": message.offset, "error": str(error)})
            self._figures.dead_letters.labels(message.topic).inc()
            return [await self._log.send_dead_letter(source_of(event), error)]
        if isinstance(happened, ExecutionRequested):
            self.on_requested(happened.tenant, happened.execution_id)
        before = self.index.get(happened.execution_id)
        if before is not None and before.tenant != happened.tenant:
            evolved = Evolved(before, "it belongs to another tenant")
        else:
            evolved = evolve(before, happened, message.offset)
        self._count(before, happened, evolved)
        if evolved.refusal is None and isinstance(evolved.execution, Execution):
            self._keep(message.partition, evolved.execution)
            if self.tracing is not None:
                self.tracing.folded(before, happened, evolved.execution, message.headers)
        deliveries: list[Delivery] = []
        if isinstance(evolved.execution, Execution):
            # Also after an event that changed nothing: a timer that came too early must be set again.
            self.timers.arm(evolved.execution)
            deliveries = await self._send_verdict(evolved.execution)
            deliveries += await self._send_due(evolved.execution)
            if evolved.execution.terminal:
                deliveries += await self._send_last(evolved.execution)
        self._drop_expired(message.partition)
        deliveries += await self._table.send_changes(self._publisher)
        if happened.execution_id in self._table.unwritten and isinstance(evolved.execution, Execution):
            deliveries += await self._stop(evolved.execution)
        return deliveries

    async def _stop(self, execution: Execution) -> list[Delivery]:
        """End an execution whose state no record can hold: its end can be kept."""
        why = f"the state of the execution has grown past the {self._log.room(EXECUTION_EVENTS)} bytes of a record"
        stop = stop_of(execution, why, self._clock())
        return [] if stop is None else [await self._log.send_event(stop)]

    def _keep(self, partition: int, execution: Execution) -> None:
        state = execution.marker() if execution.terminal else execution
        self.index.put(state)
        self._table.put(execution.execution_id, row_of(partition, state), outline_of(partition, state))
        if execution.terminal:
            self._figures.executions.labels(execution.status).inc()
            if execution.rollback is not None:
                ended = rollback_status(execution.rollback)
                self._figures.rollbacks.labels(execution.rollback.cause, ended).inc()

    async def _send_verdict(self, execution: Execution) -> list[Delivery]:
        """What the guards say of a request goes into the log before anything is sent for it; once, by this worker."""
        verdict = self.index.verdict(execution)
        if verdict is None:
            self._judged.discard(execution.execution_id)
            return []
        if execution.execution_id in self._judged:
            return []
        self._judged.add(execution.execution_id)
        self._figures.verdicts.labels(verdict.effect, verdict.guard or "none").inc()
        judged = StartJudged(
            tenant=execution.tenant,
            execution_id=execution.execution_id,
            at=self._clock(),
            run=execution.run,
            effect=verdict.effect,
            guard=verdict.guard,
            reason=verdict.reason,
        )
        return [await self._log.send_event(judged)]

    async def _send_due(self, execution: Execution) -> list[Delivery]:
        due: dict[str, list[Command]] = {execution.execution_id: []}
        for command in self.index.due(execution):
            if self._is_withheld(command):
                self.index.untold(command.execution_id)
                continue
            due.setdefault(command.execution_id, []).append(command)
        sent = [await self._send(command) for command in self._news(due)]
        if execution.terminal:
            self._sent.pop(execution.execution_id, None)
        return sent

    async def _send(self, command: Command) -> Delivery:
        """Send a command, or answer it: one that is too large is known to be taken by nobody."""
        sending = None if self.tracing is None else self.tracing.sending(command)
        try:
            delivery = await self._log.send_command(command, None if sending is None else sending.context)
        except RecordTooLarge as error:
            named = {"tenant": command.tenant, "execution_id": command.execution_id}
            logger.warning("command_too_large", extra={**named, "error": str(error)})
            return await self._log.send_event(answer_for(command, str(error), self._clock()))
        if sending is not None:
            delivery.add_done_callback(sending.taken)
        return delivery

    def _news(self, due: Mapping[str, list[Command]]) -> Iterator[Command]:
        """What was not due when its execution was last looked at."""
        for execution_id, commands in due.items():
            before = self._sent.get(execution_id, frozenset())
            yield from (command for command in commands if _key(command) not in before)
            self._sent[execution_id] = frozenset(map(_key, commands))

    async def _send_last(self, execution: Execution) -> list[Delivery]:
        """Have the messages of an execution that has ended say so.

        On the broker before the table forgets the execution: from a marker nobody could derive them again.
        """
        deliveries = [await self._send(command) for command in notices_due(execution)]
        await asyncio.gather(*deliveries)
        return deliveries

    def _is_paused(self, execution: Execution) -> bool:
        """Whether somebody keeps it from starting, or from its next step."""
        return self._pauses.pause_of(execution, self._clock()) is not None

    def _is_withheld(self, command: Command) -> bool:
        """Whether a pause keeps a step from being begun; what takes back, tells or reads is not kept."""
        if not isinstance(command, StepCommand) or command.phase == "rollback" or command.revoked:
            return False
        execution = self.index.get(command.execution_id)
        return isinstance(execution, Execution) and self._is_paused(execution)

    async def watch_pauses(self) -> None:
        """Whenever a pause comes, goes, or its window opens or closes: let what is not paused now go on."""
        while True:
            await self._pauses.changed(self._clock)
            for execution in list(self.index.live()):
                if not self._is_paused(execution):
                    self.timers.arm_now(execution)

    def _drop_expired(self, partition: int) -> None:
        for row in self._table.rows.expired(partition, self._clock() - MARKER_GRACE):
            marker = state_of(row.value)
            assert isinstance(marker, Marker)
            self.index.forget(marker)
            self._table.drop(row)

    def _marker_of(self, execution_id: str) -> Marker | None:
        """What the table keeps of an execution that has ended."""
        row = self._table.rows.find(execution_id)
        state = None if row is None else state_of(row.value)
        return state if isinstance(state, Marker) else None

    def markers(self) -> int:
        """How many executions that have ended are known."""
        return len(self._table.rows) - len(self.index)

    def _count(self, before: State | None, event: Event, evolved: Evolved) -> None:
        effect = "folded" if evolved.refusal is None else "refused"
        self._figures.events.labels(event.type, effect).inc()
        if evolved.refusal is None and (doubt := _doubt(before, event)) is not None:
            self._figures.unknown_outcomes.labels(*doubt).inc()
        if evolved.refusal is not None:
            named = {"execution_id": event.execution_id, "tenant": event.tenant, "type": event.type}
            logger.debug("event_changed_nothing", extra={**named, "why": evolved.refusal})

    async def _fire(self, armed: Armed) -> None:
        fired = TimerFired(tenant=armed.tenant, execution_id=armed.execution_id, at=self._clock())
        await self._log.publish_event(fired)


def _doubt(before: State | None, event: Event) -> tuple[str, str] | None:
    """The kind of a step whose outcome an event leaves unknown, and why; None of any other event."""
    place = before.standing if isinstance(before, Execution) else None
    if not isinstance(before, Execution) or place is None:
        return None
    kind = before.runbook.steps[place.forward(before)].type
    if isinstance(event, StepFinished) and event.outcome.outcome == "unknown":
        return kind, "said"
    lease_ended = isinstance(event, TimerFired) and place.step(before).status == "started"
    return (kind, "lease_ended") if lease_ended else None


def _key(command: Command) -> SentKey:
    return command.command_id, isinstance(command, StepCommand) and command.revoked
