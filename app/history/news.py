"""Waiting for something to show in the read model, and what wakes whoever waits.

The projector of this worker tells what each batch changed once it is written, so that nobody asks the database again
and again meanwhile. What another worker projects is looked for by one look for all who wait.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

from app.core.execution import Execution
from app.history.database import DATABASE_ERRORS
from app.history.store import Store

LOOK_S = 0.1
logger = logging.getLogger(__name__)
Key = TypeVar("Key")
Entry = TypeVar("Entry")
Wanted = Callable[[Execution], bool]
Version = tuple[int, int]
"""Run and last offset: they tell any two states of an execution apart."""


@dataclass(eq=False, slots=True)
class Awaited:
    """Somebody who waits for an execution; seen is the version that was last held against what is wanted."""

    tenant: str
    wanted: Wanted
    found: "asyncio.Future[Execution]"
    seen: Version | None

    def look_at(self, execution: Execution) -> None:
        """Take the execution if it is as wanted."""
        if execution.tenant != self.tenant or self.found.done():
            return
        self.seen = version_of(execution)
        if self.wanted(execution):
            self.found.set_result(execution)


class News:
    """What has come into the read model, for those who wait for it."""

    def __init__(self, store: Store) -> None:
        """Look into this store for what nobody tells."""
        self._store = store
        self._ends: dict[int, int] = {}
        self._executions: dict[str, list[Awaited]] = {}
        self._places: dict[int, list[tuple[int, asyncio.Future[bool]]]] = {}
        self.awaited = asyncio.Event()
        """Set while anybody waits."""

    def told(self, ends: Mapping[int, int], changed: Iterable[Execution]) -> None:
        """A batch is written: where its partitions stand now, and what it changed, each in its last state."""
        for partition, end in ends.items():
            self._ends[partition] = max(end, self._ends.get(partition, 0))
            for offset, there in self._places.get(partition, ()):
                if offset < end and not there.done():
                    there.set_result(True)
        for execution in changed:
            for awaited in self._executions.get(execution.execution_id, ()):
                awaited.look_at(execution)

    async def projected(self, partition: int, offset: int, timeout_s: float) -> bool:
        """Whether the record at an offset is folded, by whichever worker, waiting for it at most timeout_s seconds.

        A database that does not answer is one more reason to wait.
        """
        if self._ends.get(partition, 0) > offset:
            return True
        there: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        with _listed(self._places, partition, (offset, there)):
            self.awaited.set()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    return await there
        return False

    async def until(
        self, tenant: str, execution_id: str, wanted: Wanted, timeout_s: float, known: Execution | None = None
    ) -> Execution | None:
        """The latest run of an execution once it is as wanted; None when that takes longer than timeout_s seconds.

        known: a state that was read before and is not as wanted. A database that does not answer is one more reason
        to wait.
        """
        found: asyncio.Future[Execution] = asyncio.get_running_loop().create_future()
        awaited = Awaited(tenant, wanted, found, version_of(known) if known else None)
        with _listed(self._executions, execution_id, awaited), contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                with contextlib.suppress(*DATABASE_ERRORS):
                    await self._look_for({execution_id})
                self.awaited.set()
                return await found
        return None

    async def run(self) -> None:
        """Look, while anybody waits, for what this worker's projector does not tell, until cancelled."""
        while True:
            await self.awaited.wait()
            await asyncio.sleep(LOOK_S)
            if not (self._executions or self._places):
                self.awaited.clear()
                continue
            try:
                await self._look()
            except DATABASE_ERRORS:  # the next look may find it back
                continue
            except ValueError as error:
                logger.warning("history_row_unreadable", extra={"error": repr(error)})

    async def _look(self) -> None:
        ends = await self._store.next_offsets()
        if any(end > self._ends.get(partition, 0) for partition, end in ends.items()):
            await self._look_for(set(self._executions))
            self.told(ends, ())

    async def _look_for(self, execution_ids: set[str]) -> None:
        """Look at these executions, where their rows are not those that were looked at before."""
        versions = await self._store.versions(execution_ids)
        news = {
            execution_id
            for execution_id, version in versions.items()
            if any(one.seen != version for one in self._executions.get(execution_id, ()))
        }
        for execution in await self._store.newest(news):
            for awaited in self._executions.get(execution.execution_id, ()):
                awaited.look_at(execution)


def version_of(execution: Execution) -> Version:
    """What tells this state of an execution from any other."""
    return execution.run, execution.last_offset


@contextlib.contextmanager
def _listed(lists: dict[Key, list[Entry]], key: Key, entry: Entry) -> Iterator[None]:
    """The entry in the list of its key while this lasts; an empty list is not kept."""
    lists.setdefault(key, []).append(entry)
    try:
        yield
    finally:
        lists[key].remove(entry)
        if not lists[key]:
            del lists[key]
