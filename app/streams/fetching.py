"""How the worker's consumer fetches: long or short waits, and a session with each broker.

Waits: aiokafka keeps one fetch in flight for each broker. While it waits for data, a partition whose records nobody had
taken when it was sent is not part of it, so a new record there waits for the whole fetch to come back: up to the 1.5 s
that Faust sets. And while one partition of a broker has such records, nothing at all is fetched from that broker for up
to 100 ms. With several topics on one broker these two are the tail of every hop. So a fetch that leaves partitions out
comes back soon; one that names them all may wait longer, as any new record ends it.

Sessions: a worker reads some seventy partitions, and a fetch that names them all, with an answer that does the same, is
half a millisecond of processor time, a few hundred times a second. With Kafka's fetch sessions (KIP-227) the broker
remembers them: a request names those whose offset has changed, an answer those that have something new. aiokafka knows
no sessions; a fetch whose answer did not come, or that the broker refuses, begins a new one.

docs/performance.md has the figures.
"""

import time
from collections import defaultdict
from typing import Any

from aiokafka import AIOKafkaConsumer
from aiokafka.protocol.fetch import FetchRequest

PART_WAIT_MS, WHOLE_WAIT_MS = 10, 50
"""How long a broker waits for a record of a fetch that leaves some partitions out, and of one that names them all."""
PREFETCH_BACKOFF_S = 0.01
SOON_S = 1.0
"""Records that were not taken for so long are of a partition that nobody reads, as a changelog after a recovery."""
SESSIONS_SINCE = 7  # the version of the request
LAST_EPOCH = 2**31 - 1  # after it comes 1: with 0 a session begins
Topics = list[tuple[str, list[tuple[int, int, int]]]]
"""By topic: partition, offset, and the most bytes that are wanted of it."""


def tune_fetches(consumer: AIOKafkaConsumer) -> "defaultdict[int, FetchSession]":
    """Have a consumer that has started fetch so; its sessions, by the number of the broker."""
    sessions = defaultdict[int, FetchSession](FetchSession)
    _have_fetches_wait(consumer._fetcher)  # noqa: SLF001 - aiokafka has no setting for it
    _have_brokers_remember(consumer._client, sessions)  # noqa: SLF001 - the same
    return sessions


def _have_fetches_wait(fetcher: Any) -> None:
    fetcher._prefetch_backoff = PREFETCH_BACKOFF_S  # noqa: SLF001 - the same
    plan = fetcher._get_actions_per_node  # noqa: SLF001 - the same

    def planned(assignment: Any) -> Any:
        untaken = fetcher._records.values()  # noqa: SLF001 - the same
        wait_s = max((one.calculate_backoff() for one in untaken), default=0)
        if wait_s and len(fetcher._client.cluster.brokers()) == 1:  # noqa: SLF001 - the same
            return [], {}, wait_s, False, []  # as it would come to, after a look at each partition
        requests, resets, timeout, stale, resumed = plan(assignment)
        soon = time.monotonic() - SOON_S
        left_out = any(one._created > soon for one in untaken) or resets or stale or resumed  # noqa: SLF001 - the same
        for _, request in requests:
            request._max_wait_ms = PART_WAIT_MS if left_out else WHOLE_WAIT_MS  # noqa: SLF001 - the same
        return requests, resets, timeout, stale, resumed

    fetcher._get_actions_per_node = planned  # noqa: SLF001 - the same


def _have_brokers_remember(client: Any, sessions: "defaultdict[int, FetchSession]") -> None:
    send = client.send

    async def sent(node: int, request: Any, **more: Any) -> Any:
        if not isinstance(request, FetchRequest):
            return await send(node, request, **more)
        session = sessions[node]
        asked = session.ask(request)
        try:
            answer = await send(node, asked, **more)
        except BaseException:
            session.end()
            raise
        session.hear(answer)
        return answer

    client.send = sent


class FetchSession:
    """What one broker knows of the partitions that are fetched from it; the rules are those of KIP-227."""

    def __init__(self) -> None:
        """It knows nothing yet."""
        self._id = 0
        self._epoch = 0
        self._known: dict[tuple[str, int], tuple[int, int]] = {}

    def ask(self, whole: FetchRequest) -> FetchRequest:
        """What to ask the broker; whole: a request that names all partitions that are wanted, as for no session."""
        wanted = {(topic, number): (offset, size) for topic, parts in whole.topics for number, offset, size in parts}
        changed, forgotten = defaultdict(list), defaultdict(list)
        for (topic, number), (offset, size) in wanted.items():
            if self._known.get((topic, number)) != (offset, size):
                changed[topic].append((number, offset, size))
        for topic, number in self._known.keys() - wanted.keys():
            forgotten[topic].append(number)
        self._known = wanted
        return _Asked(whole, (self._id, self._epoch), [*changed.items()], [*forgotten.items()])

    def hear(self, answer: Any) -> None:
        """Note what the broker says of the session: its id, or none where it keeps none or refuses the request."""
        session_id = getattr(answer, "session_id", 0)
        if session_id and not answer.error_code:
            self._id = session_id
            self._epoch = self._epoch % LAST_EPOCH + 1
        else:
            self.end()

    def end(self) -> None:
        """Begin another one with the next request, which names all and has the broker forget this one."""
        self._epoch = 0
        self._known = {}


class _Asked(FetchRequest):  # type: ignore[misc]
    """A request within a session, for brokers that know them; the whole of it for others."""

    def __init__(
        self, whole: FetchRequest, session: tuple[int, int], changed: Topics, forgotten: list[tuple[str, list[int]]]
    ) -> None:
        self.__dict__.update(whole.__dict__, _topics=changed)
        self._whole = whole
        self._session = session
        self._forgotten = forgotten

    def build(self, request_struct_class: Any) -> Any:
        if request_struct_class.API_VERSION < SESSIONS_SINCE:
            return self._whole.build(request_struct_class)
        request = super().build(request_struct_class)
        request.session_id, request.session_epoch = self._session
        request.forgotten_topics_data = self._forgotten
        return request
