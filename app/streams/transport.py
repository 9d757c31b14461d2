"""Faust's transport, with its own count of what may be committed, and with a consumer that needs no thread.

Commits: see ``deliveries``. A seek also makes what was fetched before it worthless, so that is fetched again instead
of being taken for records after a gap. And where nothing was committed yet, going back to the committed offset means
the beginning: aiokafka would stay where it is, after records that were fetched and dropped.

A seek takes one request for each partition, and Faust fetches meanwhile: from where the partitions stood before, which
is after records that were dropped during a recovery. Handed out and acknowledged before the seek comes to their
partition, such records would be committed, and the dropped ones be lost. So nothing is fetched during a seek. Nor is
it before the flow goes on: then Faust empties the queues of all agents, and what a recovery's own seek had brought
would be handed out and lost until the next restart.

Records: Faust hands them out one by one, each through a dozen calls: a scheduler and two generators, a wait for
whatever may end the consumer, a lock, sensors, a decoder. What one agent reads is put into its queue here, a hundred
records a turn of the loop; changelogs are left to Faust. After a seek or a rebalance, which make Faust stop, the rest
is dropped, to be read again. A full queue makes Faust wait, but not this, as one loop hands out to all agents: what was
fetched goes into the queue, and of its partition no more is fetched until the agent has taken most of what waits there.
So a queue holds as much as makes it nearly full, and one fetch of each of its partitions.

Threads: Faust gives its consumer a thread and a loop of its own. In Python they take turns: each answer of a broker
waits several times until the other thread lets go of the interpreter, and every record is handed from one loop to the
other. Here the consumer is in the worker's loop, which therefore must never stand still for as long as a session lasts.
"""

import asyncio
import contextlib
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping, Sequence
from functools import partial
from types import CoroutineType
from typing import Any

from aiokafka.errors import IllegalStateError, NoError, RebalanceInProgressError, for_code
from faust import Event
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, AppT, Message
from faust.types.transports import ConsumerCallback, TPorTopicSet
from mode.services import WaitResults
from mode.utils.futures import maybe_async, notify

from app.streams.deliveries import Deliveries
from app.streams.eager import begin
from app.streams.fetching import tune_fetches
from app.streams.membership import Membership

TURN_RECORDS = 100
"""After so many records the others in the loop have their turn."""
LOOK_AGAIN_S = 0.05
"""How long a fetch waits for records while partitions are left out, which an agent may soon have room for."""
TELL_MEMBERS = frozenset({"HeartbeatRequest", "SyncGroupRequest"})
MEMBERS = frozenset({NoError, RebalanceInProgressError})
"""Who is told that the group is being shared out anew is a member until it has given up what it has."""


class _Reader(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread without a thread, which goes back where nothing was committed, too."""

    async def start(self) -> None:
        """Start in the loop of the worker."""
        self._thread_started.set()
        await self._default_start()

    async def stop(self) -> None:
        """Leave the group."""
        if self._started.is_set() and not self._stopped.is_set():
            self._stopped.set()
            await self._shutdown_thread()

    async def call_thread(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it, there being no other thread."""
        return await maybe_async(fun(*args, **kwargs))

    async def on_start(self) -> None:
        """Start, and fetch in the worker's way."""
        await super().on_start()
        _listen(self._consumer._coordinator, self.transport.membership)  # noqa: SLF001 - aiokafka tells nobody
        tune_fetches(self._consumer)

    async def seek_to_committed(self) -> Mapping[TP, int | None]:
        """Go back to the committed offsets, and to the beginning where nothing was committed yet."""
        committed: Mapping[TP, int | None] = await self.call_thread(self._seek_to_committed)
        return committed

    async def _seek_to_committed(self) -> Mapping[TP, int | None]:
        consumer = self._ensure_consumer()
        if not consumer.assignment():
            return {}
        committed: Mapping[TP, int | None] = await consumer.seek_to_committed()
        changelogs = self.app.tables.changelog_topics
        fresh = [place for place, offset in committed.items() if not offset and place.topic not in changelogs]
        if fresh:
            await consumer.seek_to_beginning(*fresh)
        return committed

    async def _fetch_records(
        self,
        consumer: Any,
        active_partitions: set[TP],
        timeout: float | None = None,  # noqa: ASYNC109 - Faust's signature
        max_records: int | None = None,
    ) -> Any:
        """Take some records; a partition that has more comes last the next time, where aiokafka takes it first."""
        records = await super()._fetch_records(consumer, active_partitions, timeout, max_records)
        untaken = consumer._fetcher._records  # noqa: SLF001 - aiokafka has no other order
        for place in untaken.keys() & records.keys():
            untaken[place] = untaken.pop(place)
        return records

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Say nothing: Faust looks here for partitions that stand still, and fails on one that is being sought."""


def _listen(coordinator: Any, membership: Membership) -> None:
    """Have the membership hear of each answer in which the broker takes this worker for a member."""
    send = coordinator._send_req  # noqa: SLF001 - aiokafka tells nobody

    async def heard(request: Any) -> Any:
        turn, sent_at = membership.turn, time.monotonic()
        answer = await send(request)
        if (
            type(request).__name__ in TELL_MEMBERS
            and for_code(answer.error_code) in MEMBERS
            and turn == membership.turn
        ):
            membership.heard(sent_at)
        return answer

    coordinator._send_req = heard  # noqa: SLF001


class _Consumer(driver.Consumer):  # type: ignore[misc]
    """A consumer that commits nothing past a record that is not acknowledged."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._deliveries: defaultdict[TP, Deliveries] = defaultdict(Deliveries)
        self._assigned: set[TP] = set()
        self._pressed: dict[Any, set[TP]] = {}
        self._seeks = 0
        self._seeking = 0
        self._awaits_flow = False
        self._sought = asyncio.Event()
        self._sought.set()
        self._hand_out: ConsumerCallback = self.callback  # type: ignore[has-type]
        self.callback = self._deliver

    def _new_consumer_thread(self) -> _Reader:
        return _Reader(self, loop=self.loop, thread_loop=self.loop, beacon=self.beacon)

    async def threadsafe_partitions_revoked(self, receiver_loop: Any, revoked: set[TP]) -> None:  # noqa: ARG002
        """Give them up, with no queue between two threads."""
        await self.on_partitions_revoked(revoked)

    async def threadsafe_partitions_assigned(
        self,
        receiver_loop: Any,  # noqa: ARG002
        assigned: set[TP],
        generation_id: int = 0,
    ) -> None:
        """Take them, with no queue between two threads."""
        await self.on_partitions_assigned(assigned, generation_id)

    async def _deliver(self, message: Message) -> None:
        """Hand it out; what was fetched before its partition was lost, and comes after, is nothing to commit."""
        if message.tp in self._assigned and self.app.topics.acks_enabled_for(message.topic):
            self._deliveries[message.tp].deliver(message.offset)
        await self._hand_out(message)

    async def _wait_next_records(self, timeout: float) -> tuple[Any, Any]:  # noqa: ASYNC109 - Faust's signature
        """Fetch, and hand out what agents read; what is left, as records of changelogs, is for Faust to hand out."""
        seeks = self._seeks
        if self._pressed:
            timeout = min(timeout, LOOK_AGAIN_S)
            if not self._get_active_partitions():  # Faust would sleep for a second
                await self.sleep(timeout)
                return None, None
        records, active = await super()._wait_next_records(timeout)
        for place in [*(records or ())]:
            tp = TP(place.topic, place.partition)  # aiokafka's is equal to it, and Faust will have its own
            channel = self._channel_of(tp)
            if self._seeks != seeks or not self.flow_active or self.should_stop:
                break
            if channel is not None and (tp in active or tp in self._buffered_partitions):
                await self._hand_out_all(tp, records.pop(tp), channel, seeks)
        return records, active

    def _channel_of(self, tp: TP) -> Any:
        """Where records of a partition go that one agent reads; None of others."""
        channels = self.app.topics._tp_index.get(tp, ())  # noqa: SLF001 - Faust tells nobody
        if len(channels) != 1 or not self.app.topics.acks_enabled_for(tp.topic):
            return None
        (channel,) = channels
        return channel

    async def _hand_out_all(self, tp: TP, records: Sequence[Any], channel: Any, seeks: int) -> None:
        """Put them into the agent's queue, however much waits there, and fetch no more of them if that is much.

        Those are left out that are worthless when their turn comes: the partition is sought, or shared out anew.
        """
        app, queue = self.app, channel.queue
        generation, read_offset = app.consumer_generation_id, self._read_offset
        deliveries = self._deliveries[tp] if tp in self._assigned else None
        for number, record in enumerate(records, start=1):
            offset, read = record.offset, read_offset[tp]
            if read is not None and offset < read:
                continue
            message = self._to_message(tp, record)
            message.refcount = 1
            event = Event(app, message.key, message.value, message.headers, message)
            if deliveries is not None:
                deliveries.deliver(offset)
            queue.force_put_nowait(event)
            read_offset[tp] = offset
            if not number % TURN_RECORDS:
                await asyncio.sleep(0)
                if self._seeks != seeks or not self.flow_active or app.consumer_generation_id != generation:
                    return
        if queue.qsize() >= queue.pressure_high_size:
            self._press(tp, queue)

    def _press(self, tp: TP, queue: Any) -> None:
        """Fetch no more of a partition until its agent has taken most of what waits, of whichever partition."""
        pressed = self._pressed.get(queue)
        if pressed is None:
            pressed = self._pressed[queue] = set()
            queue.in_pressure_high_state(partial(self._relieve, queue, pressed))  # has it called when that is so
        pressed.add(tp)
        self.on_buffer_full(tp)

    def _relieve(self, queue: Any, pressed: set[TP]) -> None:
        """Fetch these again; nothing happens when the partitions were shared out anew meanwhile."""
        if self._pressed.get(queue) is pressed:
            del self._pressed[queue]
            for tp in pressed:
                self.on_buffer_drop(tp)

    def _forget_pressure(self) -> None:
        """The queues are emptied, as at each rebalance."""
        self._pressed.clear()
        self._buffered_partitions.clear()

    def ack(self, message: Message) -> bool:
        """Note that all that came of the message is safe; False when that was known."""
        if message.acked:
            return False
        message.acked = True
        self._unacked_messages.discard(message)
        self._n_acked += 1
        if message.tp in self._deliveries:
            self._deliveries[message.tp].acknowledge(message.offset)
        notify(self._waiting_for_ack)
        return True

    def reached(self) -> dict[TP, int | None]:
        """By partition that this worker reads, the first record it has not done with; None for the very first one."""
        return {
            tp: self._reached(tp)
            for tp in self._read_offset
            if tp in self._assigned and self.app.topics.acks_enabled_for(tp.topic)
        }

    def _reached(self, tp: TP) -> int | None:
        handed_out = self._deliveries[tp].committable() if tp in self._deliveries else None
        return self._committed_offset.get(tp) if handed_out is None else handed_out

    def _new_offset(self, tp: TP) -> int | None:
        return self._deliveries[tp].committable()

    def _filter_tps_with_pending_acks(self, topics: TPorTopicSet | None = None) -> Iterator[TP]:
        return (tp for tp in list(self._deliveries) if topics is None or tp in topics or tp.topic in topics)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        """Forget what was handed out of them: their new owner begins at the committed offset."""
        self.transport.membership.shared_out()
        self._assigned -= revoked
        self._forget_pressure()
        for tp in revoked:
            self._deliveries.pop(tp, None)
        await super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        """Count what is handed out of them; nothing is fetched of them before."""
        self._assigned = set(assigned)
        self._forget_pressure()
        await super().on_partitions_assigned(assigned, generation_id)

    def perform_seek(self) -> Coroutine[Any, Any, None]:
        """Go back to the committed offsets; nothing is handed out before the flow goes on, with empty queues.

        From the call on, not from when it is awaited: Faust has the partitions resumed just before.
        """
        self._awaits_flow = True
        self._seeks += 1
        self._note_sought()
        return self._seek_for_flow()

    async def _seek_for_flow(self) -> None:
        try:
            await self._seek_back()
        except BaseException:
            self._awaits_flow = False  # the flow may never go on; what is handed out now is sought again before it does
            self._note_sought()
            raise

    def resume_flow(self) -> None:
        """Hand out again; Faust has emptied the queues just before."""
        super().resume_flow()
        self._awaits_flow = False
        self._note_sought()

    async def _seek_back(self) -> None:
        """Nothing is handed out until all partitions are there."""
        self._seeks += 1
        self._seeking += 1
        self._note_sought()
        try:
            await super().perform_seek()
        finally:
            self._seeking -= 1
            self._note_sought()

    def _note_sought(self) -> None:
        if self._seeking or self._awaits_flow:
            self._sought.clear()
        else:
            self._sought.set()

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109 - Faust's signature
        """Yield what was fetched; after a seek made meanwhile, seek once more instead and yield no more."""
        await self._sought.wait()
        seeks = self._seeks
        async with contextlib.aclosing(super().getmany(timeout)) as fetched:
            async for tp, message in fetched:
                if self._seeks != seeks:
                    break
                yield tp, message
        if self._seeks != seeks:
            await self._sought.wait()
            with contextlib.suppress(IllegalStateError):  # a rebalance took the partitions: it seeks when it is done
                await self._seek_back()

    async def wait_first(self, *waited: Any, timeout: Any = None) -> WaitResults:  # noqa: ASYNC109 - Faust's signature
        """As mode's, but what is done at once is done: Faust waits so for each record of a changelog, in four tasks."""
        first, *others = waited
        if not isinstance(first, CoroutineType):
            return await super().wait_first(*waited, timeout=timeout)
        rest = begin(first)
        if rest is not None:
            return await super().wait_first(rest, *others, timeout=timeout)
        for other in others:
            if isinstance(other, CoroutineType):
                other.close()
        return WaitResults([first], [None], stopped=False)

    async def _getmany(self, active_partitions: set[TP], timeout: float) -> Any:  # noqa: ASYNC109 - Faust's signature
        """Fetch of these partitions, as they are now: an empty set would mean all, and Faust empties its own."""
        return await super()._getmany(set(active_partitions), timeout)


class QuickTransport(driver.Transport):  # type: ignore[misc]
    """The aiokafka transport over such consumers."""

    Consumer = _Consumer
    membership: Membership

    @classmethod
    def of(cls, app: AppT[Any]) -> "QuickTransport":
        """The transport of an application."""
        transport = cls(app.conf.broker_consumer, app)
        transport.membership = Membership(app.conf.broker_session_timeout)
        return transport
