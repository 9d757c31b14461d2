"""The agents ``run_<kind>_steps``: commands in, side effects, answers into the log.

The ledger is written before a command is begun, and its changelog record is on the broker before the step acts: a
command that comes again, to this worker or to another, is never begun twice. It is written once more when nothing is
left to do, before the record is acknowledged: Kafka commits a second later, and who takes over in between must not
have to guess.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Sequence
from datetime import timedelta

from faust.types import EventT

from app.actions.notices import NoticeSender
from app.actions.runner import Claim, Runner
from app.core.commands import NoticeCommand, StepCommand
from app.core.events import ApprovalNoticed, CommandEvent
from app.streams.commanding import give_up, read_commands, until_taken
from app.streams.figures import Figures
from app.streams.ledger import Claimed, Entry, Ledger, Posted
from app.streams.log import Log
from app.streams.receipts import Receipts
from app.streams.telling import NoticeLines
from app.streams.tracing import CommandTracing, result_of

Repeated = tuple[StepCommand | NoticeCommand, EventT[bytes]]
"""A command that came again, with its record."""
logger = logging.getLogger(__name__)


class StepExecutor:
    """Carries out the commands of one kind; tracing: None where no traces are exported."""

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
        self.tracing: CommandTracing | None = None
        self._lines = NoticeLines(notices, ledger, self._record, figures) if notices is not None else None
        self._runner = runner
        self._ledger = ledger
        self._log = log
        self._figures = figures
        self._room = asyncio.Semaphore(concurrency)
        self._running: dict[str, asyncio.Task[bool]] = {}
        self._repeated: dict[str, list[Repeated]] = {}
        self._taking: set[asyncio.Task[None]] = set()
        self._revoked: set[str] = set()
        self._owned: set[int] = set()
        self._stopping = False

    async def run(self, records: AsyncIterator[EventT[bytes]], receipts: Receipts) -> None:
        """Handle records until there are no more."""
        async for command, event in read_commands(records, receipts, self._log, self._figures):
            if isinstance(command, StepCommand | NoticeCommand):
                await self._take(command, event)
            else:  # it was put on the wrong topic
                event.ack()

    async def _take(self, command: StepCommand | NoticeCommand, event: EventT[bytes]) -> None:
        """Begin a command, or say what became of it.

        One that another worker took, or this one and gave it up, is answered for once nobody can begin it any more.
        One of a partition that is another worker's by now is that one's, and once this one stops what comes is the next
        owner's. Waiting for room may take long, and meanwhile the partition may go, and come back with what others did:
        then all of it is asked once more.
        """
        entry = self._ledger.find(command.command_id)
        if self._is_over(command, event, entry):
            return
        waits = self._room.locked()
        await self._room.acquire()
        if waits:
            entry = self._ledger.find(command.command_id)
            if self._is_over(command, event, entry):
                self._room.release()
                return
        if self.tracing is not None:
            lost = isinstance(command, StepCommand) and entry is not None
            self.tracing.begin(command, event.message.headers, interrupted=lost)
        claimed_at = self._runner.monotonic()
        if isinstance(command, NoticeCommand):
            self._lines_of().enter(command)
            self._spawn(command, self._tell(command, event, entry, await self._claim(command, event)))
        elif entry is None:
            self._spawn(command, self._begin(command, event, claimed_at, await self._claim(command, event)))
        else:
            self._spawn(command, self._answer_for(command, event, entry))

    def _is_over(self, command: StepCommand | NoticeCommand, event: EventT[bytes], entry: Entry | None) -> bool:
        """Whether nothing is to be done here: it is another worker's, or done, or being done."""
        if event.message.partition not in self._owned:
            return True
        if command.command_id in self._running:
            self._again(command)
            self._repeated.setdefault(command.command_id, []).append((command, event))
            return True
        if entry is not None and entry.done:
            self._again(command)
            event.ack()
            return True
        return self._stopping

    async def _claim(self, command: StepCommand | NoticeCommand, event: EventT[bytes]) -> Claimed:
        return await self._ledger.claim(command.command_id, event.message.partition, self._runner.now())

    def _lines_of(self) -> NoticeLines:
        assert self._lines is not None
        return self._lines

    def _again(self, command: StepCommand | NoticeCommand) -> None:
        """It is done, or being done; a cancellation that came after it stops it if it has not begun to act.

        The record of one that is being done is acknowledged with the first: until then nobody else would know of it.
        """
        self._figures.commands.labels(self.kind, "repeated").inc()
        if isinstance(command, StepCommand) and command.revoked and command.command_id in self._running:
            self._revoked.add(command.command_id)

    def _spawn(self, command: StepCommand | NoticeCommand, work: Awaitable[bool]) -> None:
        """Carry it out; the work gives whether it is settled, or left to whoever has its partition."""
        task = asyncio.ensure_future(work)
        self._running[command.command_id] = task
        self._figures.in_flight.labels(self.kind).set(len(self._running))
        task.add_done_callback(lambda done: self._ended(command, done))

    def _ended(self, command: StepCommand | NoticeCommand, task: "asyncio.Future[bool]") -> None:
        self._running.pop(command.command_id, None)
        repeated = self._repeated.pop(command.command_id, ())
        broken = None if task.cancelled() else task.exception()
        if not task.cancelled() and broken is None and task.result():
            for _, event in repeated:
                event.ack()
        elif repeated:
            self._take_again(repeated)
        self._revoked.discard(command.command_id)
        self._figures.in_flight.labels(self.kind).set(len(self._running))
        self._room.release()
        if self.tracing is not None:
            self.tracing.end(command.command_id)
        if broken is not None:
            named = {"command_id": command.command_id, "execution_id": command.execution_id}
            logger.error("command_broke", extra={**named, "error": repr(broken)}, exc_info=broken)

    def _take_again(self, repeated: Sequence[Repeated]) -> None:
        """Look anew at a command that was given up, and whose records had come again by then."""

        async def take() -> None:
            for command, event in repeated:
                await self._take(command, event)

        task = asyncio.create_task(take())
        self._taking.add(task)
        task.add_done_callback(self._taken)

    def _taken(self, task: "asyncio.Task[None]") -> None:
        self._taking.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            logger.error("command_broke", extra={"error": repr(error)}, exc_info=error)

    async def _begin(self, command: StepCommand, event: EventT[bytes], claimed_at: float, claimed: Claimed) -> bool:
        """The command is new: carry it out once it is claimed."""
        partition, name = event.message.partition, command.command_id
        claim = Claim(
            until=claimed_at + self._runner.lease_s if await claimed() else claimed_at,
            held=lambda: self._holds(partition) and name not in self._revoked,
            owned=lambda: partition in self._owned,
        )
        with self._figures.step_seconds.labels(self.kind).time():
            if command.revoked:
                await self._runner.interrupted(command, self._record)
            else:
                attempt = None if self.tracing is None else self.tracing.find(name)
                await self._runner.run(command, claim, self._record, attempt)
        self._figures.commands.labels(self.kind, "revoked" if command.revoked else "done").inc()
        await self._settle(command, event)
        return True

    async def _answer_for(self, command: StepCommand, event: EventT[bytes], entry: Entry) -> bool:
        """Another worker took it: once that one may no longer begin it, say that it was interrupted.

        Where the partition is another worker's by then, that one does.
        """
        await self._until_given_up(entry)
        if event.message.partition not in self._owned:
            return False
        await self._runner.interrupted(command, self._record)
        self._figures.commands.labels(self.kind, "interrupted").inc()
        await self._settle(command, event)
        return True

    async def _until_given_up(self, entry: Entry) -> None:
        """Wait until the worker that took a command may no longer begin it."""
        may_begin_until = entry.at + timedelta(seconds=self._runner.lease_s)
        wait_s = (may_begin_until - self._runner.now()).total_seconds()
        if wait_s > 0:
            await asyncio.sleep(min(wait_s, self._runner.lease_s))

    async def _tell(self, command: NoticeCommand, event: EventT[bytes], entry: Entry | None, claimed: Claimed) -> bool:
        """A message about an approval, when those before it about the same message are through.

        One that is given up because the partition is another worker's stays unacknowledged: that one says it.
        """
        partition = event.message.partition
        lines = self._lines_of()
        async with lines.turn(command):
            is_claimed = await claimed()

            def held() -> bool:
                return is_claimed and self._holds(partition)

            if entry is not None:
                await self._until_given_up(entry)
            carried = await lines.carry_out(command, held, again=entry is not None)
            if carried.over:
                if self.tracing is not None:
                    self.tracing.came_to(command.command_id, "posted" if carried.posted else "not posted")
                await self._settle(command, event, carried.posted)
            return carried.over

    def _holds(self, partition: int) -> bool:
        """Whether a partition is this worker's and nobody asked to stop."""
        return not self._stopping and partition in self._owned

    async def _settle(
        self, command: StepCommand | NoticeCommand, event: EventT[bytes], posted: Posted | None = None
    ) -> None:
        """Write into the ledger that nothing is left to do, then acknowledge."""
        if event.message.partition in self._owned:
            await until_taken(command, lambda: self._ledger.finish(command.command_id, posted))
        event.ack()

    async def _record(self, event: CommandEvent | ApprovalNoticed) -> None:
        """Tell the log, however long it takes: what was done must be known."""
        await until_taken(event, lambda: self._log.publish_event(event))  # type: ignore[arg-type]
        if self.tracing is not None and isinstance(event, CommandEvent):
            self.tracing.came_to(event.command_id, result_of(event))

    def on_partitions(self, owned: set[int]) -> None:
        """What was claimed on a partition that another worker owns now, and has not begun to act, must not.

        None are owned from the moment on at which they are given up, to be shared out anew.
        """
        self._owned = owned

    async def stop(self, grace_s: float) -> None:
        """Begin nothing more, let what acts finish for grace_s seconds, then stop it: its outcome is unknown."""
        self._stopping = True
        running = list(self._running.values())
        if not running:
            return
        await asyncio.wait(running, timeout=grace_s)
        await give_up(running)

    def in_flight(self) -> int:
        """How many commands are being carried out."""
        return len(self._running)
