"""Faust tables whose changelog goes through our own producer, so that a change can be waited for.

A table's own changelog is sent some time later by Faust's producer. The ledger needs more: a claim must be on the
broker before the claimed step may act. So changes are collected here and sent by the agent that made them.

Nor is the last record of a key its newest one: a worker that was cut off while it wrote, and has lost the partition
since, is heard after the new owner. So what is read back is compared, and the newer row is written once more.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import faust
import orjson
from faust.types import TP, EventT

from app.core.errors import RecordTooLarge
from app.streams.publisher import Delivery, Publisher

logger = logging.getLogger(__name__)
IsNewer = Callable[[Any, Any], bool]


def always(_before: Any, _row: Any) -> bool:
    """The last row of a key is its newest."""
    return True


class TableChange(NamedTuple):
    """One changelog record not sent yet; value None deletes the key."""

    partition: int
    key: str
    value: Any


class DeferredTable(faust.Table):  # type: ignore[misc]
    """A table that keeps its unsent changes until ``send_changes``.

    is_newer: whether a row (the second one) may stand in the place of another one of the same key. on_owned: called
    after each recovery with the owned partitions. on_failure: called with what that raised; the worker must stop then.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Start with nothing unsent."""
        super().__init__(*args, **kwargs)
        self._unsent: list[TableChange] = []
        self.is_newer: IsNewer = always
        self._overwritten: set[str] = set()
        self.unwritten: dict[str, asyncio.Future[Any]] = {}
        self.on_owned: Callable[[set[int]], None] | None = None
        self.on_failure: Callable[[BaseException], None] = lambda _: None

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """After every rebalance, before records flow again: keep only the owned partitions, and say which they are."""
        await super().on_recovery_completed(active_tps, standby_tps)
        owned = {tp.partition for tp in active_tps}
        self._forget_all_but(owned)
        rows = ((key, self.data.get(key)) for key in self._overwritten)
        self._unsent += [TableChange(row["partition"], key, row) for key, row in rows if row is not None]
        self._overwritten.clear()
        try:
            if self.on_owned is not None:
                self.on_owned(owned)
        except Exception as error:  # Faust would go on with a worker that knows of nothing
            self.on_failure(error)
            raise

    def apply_changelog_batch(self, batch: Iterable[EventT]) -> None:
        """Take what the changelog holds, without rows that are older than what was read before them."""
        read: dict[str, Any] = {}
        super().apply_changelog_batch([event for event in batch if self._is_to_be_taken(event, read)])

    def _is_to_be_taken(self, event: EventT, read: dict[str, Any]) -> bool:
        key, row = self._to_key(event.key), event.value
        known = read[key] if key in read else self.data.get(key)
        if row is not None and known is not None and not self.is_newer(known, row):
            self._overwritten.add(key)
            return False
        self._overwritten.discard(key)
        read[key] = row
        return True

    def on_key_set(self, key: str, value: Any) -> None:
        """Remember the change instead of buffering it in Faust's producer."""
        self._remember(key, value)

    def on_key_del(self, key: str) -> None:
        """Remember the deletion."""
        self._remember(key, None)

    def _remember(self, key: str, value: Any) -> None:
        partition = self.partition_for_key(key)
        assert partition is not None
        self._unsent.append(TableChange(partition, key, value))

    async def send_changes(self, publisher: Publisher) -> list[Delivery]:
        """Send all changes made since the last call, in their order.

        A row that no record can hold is not sent: its delivery is that of the key's next row, so that what led to it is
        not acknowledged before, and is read again by whoever recovers the row before it.
        """
        changes, self._unsent = self._unsent, []
        return [await self._send(change, publisher) for change in changes]

    async def _send(self, change: TableChange, publisher: Publisher) -> Delivery:
        topic, key = self.changelog_topic_name, orjson.dumps(change.key)
        value = None if change.value is None else orjson.dumps(change.value)
        try:
            delivery = await publisher.send(topic, value, key=key, partition=change.partition)
        except RecordTooLarge as error:
            logger.error("row_too_large", extra={"key": change.key, "error": str(error)})  # noqa: TRY400 - no traceback
            return self.unwritten.setdefault(change.key, asyncio.get_running_loop().create_future())
        delivery.add_done_callback(self._persisted)
        waiting = self.unwritten.pop(change.key, None)
        if waiting is not None:
            delivery.add_done_callback(lambda done: _pass_on(done, waiting))
        return delivery

    def _persisted(self, delivery: Delivery) -> None:
        if not delivery.cancelled() and delivery.exception() is None:
            place = delivery.result()
            self.data.set_persisted_offset(TP(place.topic, place.partition), place.offset)

    def _forget_all_but(self, owned: set[int]) -> None:
        """Drop what a memory store still holds of partitions that another worker owns now.

        Rows that were not written are forgotten altogether: what led to them is read again.
        """
        self.unwritten.clear()
        data = getattr(self.data, "data", None)
        if isinstance(data, dict):
            for key in [key for key, row in data.items() if row["partition"] not in owned]:
                del data[key]


def _pass_on(done: Delivery, waiting: asyncio.Future[Any]) -> None:
    if done.cancelled():
        waiting.cancel()
    elif (error := done.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(done.result())
