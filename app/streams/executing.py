"""The agents ``run_<kind>_steps``: commands in, side effects, answers into the log.

The ledger is written before a command is begun, and its changelog record is on the broker before the step acts: a
command that comes again, to this worker or to another, is never begun twice.
"""

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import NamedTuple

from faust.types import EventT, StreamT

from app.actions.notices import NoticeSender
from app.actions.runner import Claim, Runner
from app.core.commands import MetricCommand, NoticeCommand, StepCommand, read_command
from app.core.errors import RecordRefused, TemporaryError
from app.core.events import ApprovalNoticed, CommandEvent, MetricChecked
from app.streams.figures import Figures
from app.streams.log import Log
from app.streams.publisher import Delivery, Publisher
from app.streams.receipts import Receipts
from app.streams.records import source_of
from app.streams.tables import DeferredTable

RETRY_S = 0.5
LEDGER_KEPT = timedelta(days=7)
"""As long as the command topics keep their records: an older command cannot come again."""
logger = logging.getLogger(__name__)


class Entry(NamedTuple):
    """One command in the ledger: which worker took it, and when."""

    incarnation: str
    at: datetime


class Ledger:
    """Which commands were ever taken: the Faust table ``step_ledger``."""

    def __init__(self, table: DeferredTable, publisher: Publisher, incarnation: str) -> None:
        """Keep the parts; incarnation names this run of this worker."""
        self.incarnation = incarnation
        self._table = table
        self._publisher = publisher
        self._ages: dict[int, deque[tuple[datetime, str]]] = {}

    def recover(self) -> None:
        """Order what the table holds by age, after every rebalance."""
        self._ages.clear()
        rows = ((datetime.fromisoformat(row["at"]), name, row["partition"]) for name, row in self._table.items())
        for at, name, partition in sorted(rows):
            self._ages.setdefault(partition, deque()).append((at, name))

    def find(self, command_id: str) -> Entry | None:
        """Who took it; None when nobody did."""
        row = self._table.get(command_id)
        return None if row is None else Entry(row["incarnation"], datetime.fromisoformat(row["at"]))

    async def claim(self, command_id: str, partition: int, now: datetime) -> list[Delivery]:
        """Take it for this worker; the claim holds once the deliveries are acknowledged."""
        self._table[command_id] = {"partition": partition, "incarnation": self.incarnation, "at": now.isoformat()}
        ages = self._ages.setdefault(partition, deque())
        ages.append((now, command_id))
        while ages[0][0] < now - LEDGER_KEPT:
            self._table.pop(ages.popleft()[1], None)
        return await self._table.send_changes(self._publisher)


class StepExecutor:
    """Carries out the commands of one kind."""

    def __init__(
        self,
        kind: str,
        runner: Runner,
        ledger: Ledger,
        log: Log,
        figures: Figures,
        *,
        concurrency: int,
        notices: NoticeSender | None = None,
    ) -> None:
        """Keep the parts; concurrency bounds what is carried out at once, notices carries out messages of approvals."""
        self.kind = kind
        self._notices = notices
        self._runner = runner
        self._ledger = ledger
        self._log = log
        self._figures = figures
        self._room = asyncio.Semaphore(concurrency)
        self._running: dict[str, asyncio.Task[None]] = {}
        self._revoked: set[str] = set()
        self._owned: set[int] = set()
        self._stopping = False

    async def run(self, stream: StreamT[bytes], receipts: Receipts) -> None:
        """Handle records until the stream ends."""
        async for event in stream.noack().events():
            try:
                command = read_command(event.value)
            except RecordRefused as error:
                logger.warning("command_refused", extra={"offset": event.message.offset, "error": str(error)})
                self._figures.dead_letters.labels(event.message.topic).inc()
                await receipts.settle(event, [await self._log.send_dead_letter(source_of(event), error)])
                continue
            if isinstance(command, StepCommand | NoticeCommand):
                await self._take(command, event)
            else:  # it was put on the wrong topic
                event.ack()

    async def _take(self, command: StepCommand | NoticeCommand, event: EventT[bytes]) -> None:
        entry = self._ledger.find(command.command_id)
        if entry is not None and entry.incarnation == self._ledger.incarnation:
            self._again(command)
            event.ack()
            return
        await self._room.acquire()
        if isinstance(command, NoticeCommand):
            deliveries = await self._ledger.claim(command.command_id, event.message.partition, self._runner.now())
            self._spawn(command, self._tell(command, event, entry, deliveries))
            return
        if entry is None:
            claimed_at = self._runner.monotonic()
            deliveries = await self._ledger.claim(command.command_id, event.message.partition, self._runner.now())
            work = self._begin(command, event, claimed_at, deliveries)
        else:
            work = self._answer_for(command, event, entry)
        self._spawn(command, work)

    def _again(self, command: StepCommand | NoticeCommand) -> None:
        """It is ours already; a cancellation that came after it stops it if it has not begun to act."""
        self._figures.commands.labels(self.kind, "repeated").inc()
        if isinstance(command, StepCommand) and command.revoked:
            self._revoked.add(command.command_id)

    def _spawn(self, command: StepCommand | NoticeCommand, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running[command.command_id] = task
        self._figures.in_flight.labels(self.kind).set(len(self._running))
        task.add_done_callback(lambda done: self._ended(command, done))

    def _ended(self, command: StepCommand | NoticeCommand, task: "asyncio.Future[None]") -> None:
        self._running.pop(command.command_id, None)
        self._revoked.discard(command.command_id)
        self._figures.in_flight.labels(self.kind).set(len(self._running))
        self._room.release()
        if not task.cancelled() and (error := task.exception()) is not None:
            named = {"command_id": command.command_id, "execution_id": command.execution_id}
            logger.error("command_broke", extra={**named, "error": repr(error)}, exc_info=error)

    async def _begin(
        self, command: StepCommand, event: EventT[bytes], claimed_at: float, deliveries: list[Delivery]
    ) -> None:
        """The command is new: carry it out once the claim is on the broker."""
        await asyncio.gather(*deliveries)
        partition, name = event.message.partition, command.command_id
        claim = Claim(
            until=claimed_at + self._runner.lease_s,
            held=lambda: not (self._stopping or partition not in self._owned or name in self._revoked),
            owned=lambda: partition in self._owned,
        )
        with self._figures.step_seconds.labels(self.kind).time():
            if command.revoked:
                await self._runner.interrupted(command, self._record)
            else:
                await self._runner.run(command, claim, self._record)
        self._figures.commands.labels(self.kind, "revoked" if command.revoked else "done").inc()
        event.ack()

    async def _answer_for(self, command: StepCommand, event: EventT[bytes], entry: Entry) -> None:
        """Another worker took it: once that one may no longer begin it, say that it was interrupted."""
        await self._until_given_up(entry)
        await self._runner.interrupted(command, self._record)
        self._figures.commands.labels(self.kind, "interrupted").inc()
        event.ack()

    async def _until_given_up(self, entry: Entry) -> None:
        """Wait until the worker that took a command may no longer begin it."""
        may_begin_until = entry.at + timedelta(seconds=self._runner.lease_s)
        wait_s = (may_begin_until - self._runner.now()).total_seconds()
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, self._runner.lease_s))

    async def _tell(
        self, command: NoticeCommand, event: EventT[bytes], entry: Entry | None, deliveries: list[Delivery]
    ) -> None:
        """A message about an approval; it is told once more where the worker that had taken it may have told it."""
        assert self._notices is not None
        await asyncio.gather(*deliveries)
        if entry is not None:
            await self._until_given_up(entry)

        async def told(noticed: ApprovalNoticed) -> None:
            result = "posted" if noticed.error is None else "failed"
            self._figures.approval_messages.labels(command.card.kind, result).inc()
            await self._record(noticed)

        await self._notices.send(command, told, again=entry is not None)
        event.ack()

    async def _record(self, event: CommandEvent | ApprovalNoticed) -> None:
        """Tell the log, however long it takes: what was done must be known."""
        while True:
            try:
                await self._log.publish_event(event)  # type: ignore[arg-type]
            except TemporaryError as error:
                named = {"execution_id": event.execution_id, "tenant": event.tenant}
                logger.warning("log_unreachable", extra={**named, "error": str(error)})
                await asyncio.sleep(RETRY_S)
            else:
                return

    def on_partitions(self, owned: set[int]) -> None:
        """What was claimed on a partition that another worker owns now, and has not begun to act, must not."""
        self._owned = owned

    async def stop(self, grace_s: float) -> None:
        """Begin nothing more, let what acts finish for grace_s seconds, then stop it: its outcome is unknown."""
        self._stopping = True
        running = list(self._running.values())
        if not running:
            return
        await asyncio.wait(running, timeout=grace_s)
        for task in running:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*running, return_exceptions=True)

    def in_flight(self) -> int:
        """How many commands are being carried out."""
        return len(self._running)


class MetricChecker:
    """Carries out metric commands; without a source of metrics the answer is honest: no data."""

    def __init__(self, log: Log, clock: Callable[[], datetime]) -> None:
        """Keep the parts."""
        self._log = log
        self._clock = clock

    async def run(self, stream: StreamT[bytes], receipts: Receipts) -> None:
        """Handle records until the stream ends."""
        async for event in stream.noack().events():
            try:
                command = read_command(event.value)
            except RecordRefused as error:
                await receipts.settle(event, [await self._log.send_dead_letter(source_of(event), error)])
                continue
            if isinstance(command, MetricCommand):
                await receipts.settle(event, [await self._log.send_event(self._answer(command))])

    def _answer(self, command: MetricCommand) -> MetricChecked:
        return MetricChecked(
            tenant=command.tenant,
            execution_id=command.execution_id,
            at=self._clock(),
            run=command.run,
            attempt=command.attempt,
            value=None,
            detail="no source of metrics is configured",
        )
