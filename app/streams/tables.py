"""Faust tables whose changelog goes through our own producer, so that a change can be waited for.

Their rows are in a file (``rows``), and what Faust keeps in memory for a table stays empty.

A table's own changelog is sent some time later by Faust's producer. The ledger needs more: a claim must be on the
broker before the claimed step may act. So changes are collected here and sent by the agent that made them.

Nor is the last record of a key its newest one: a worker that was cut off while it wrote, and has lost the partition
since, is heard after the new owner. So what is read back is compared, and the newer row is written once more.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import faust
import orjson
from faust.types import TP, EventT

from app.core.errors import DataFolderError, RecordTooLarge
from app.core.model import JsonObject
from app.streams.publisher import Delivery, Publisher
from app.streams.rows import Outline, Row, Rows
from app.streams.topics import changelog_name

logger = logging.getLogger(__name__)
IsNewer = Callable[[JsonObject, JsonObject], bool]


class TableChange(NamedTuple):
    """One changelog record not sent yet; value None deletes the key."""

    partition: int
    key: str
    value: bytes | None


class DeferredTable(faust.Table):  # type: ignore[misc]
    """A table that keeps its unsent changes until ``send_changes``.

    is_newer: whether a row (the second one) may stand in the place of another one of the same key. outline: what is
    asked for of a row that is read back. on_owned: called after each recovery with the owned partitions, where
    is_current says that they still are. on_failure: called with what that raised, or with a DataFolderError; the
    worker must stop then.
    """

    def __init__(self, *args: Any, owner: str | None = None, **kwargs: Any) -> None:
        """Start with nothing unsent; owner: the group whose changelog it is, None for the application's own."""
        super().__init__(*args, **kwargs)
        self._owner = owner
        self._unsent: list[TableChange] = []
        self._rows: Rows | None = None
        self.is_newer: IsNewer
        self.outline: Callable[[JsonObject], Outline]
        self._overwritten: set[str] = set()
        self.unwritten: dict[str, asyncio.Future[Any]] = {}
        self.on_owned: Callable[[set[int]], None] | None = None
        self.on_failure: Callable[[BaseException], None] = lambda _: None
        self.is_current: Callable[[], bool] = lambda: True

    def _changelog_topic_name(self) -> str:
        return changelog_name(self._owner or self.app.conf.id, self.name)

    @property
    def rows(self) -> Rows:
        """The rows of the owned partitions."""
        if self._rows is None:
            path = Path(self.app.conf.datadir) / f"{self.name}.rows"
            self._rows = Rows(path, self._fail)
        return self._rows

    def _fail(self, error: DataFolderError) -> None:
        self.on_failure(error)

    def put(self, key: str, value: bytes, outline: Outline) -> None:
        """Take the newest row of a key, to be sent.

        Raises DataFolderError, after which the worker stops.
        """
        self.rows.put(key, value, outline)
        self._unsent.append(TableChange(outline.partition, key, value))

    def drop(self, row: Row) -> None:
        """Forget a row, and have that sent."""
        self.rows.drop(row.key)
        self._unsent.append(TableChange(row.partition, row.key, None))

    async def on_recovery_completed(self, active_tps: set[TP], standby_tps: set[TP]) -> None:
        """After every rebalance, before records flow again: keep only the owned partitions, and say which they are."""
        await super().on_recovery_completed(active_tps, standby_tps)
        if not self.is_current():
            return
        owned = {tp.partition for tp in active_tps}
        self._forget_all_but(owned)
        rows = (self.rows.find(key) for key in self._overwritten)
        self._unsent += [TableChange(*row) for row in rows if row is not None]
        self._overwritten.clear()
        try:
            if self.on_owned is not None:
                self.on_owned(owned)
        except Exception as error:  # Faust would go on with a worker that knows of nothing
            self.on_failure(error)
            raise

    def apply_changelog_batch(self, batch: Iterable[EventT]) -> None:
        """Take what the changelog holds, without rows that are older than what was read before them."""
        for event in batch:
            key, row, value = event.key, event.value, event.message.value
            known = self.rows.find(key)
            if value is None:
                self.rows.drop(key)
            elif known is not None and not self.is_newer(orjson.loads(known.value), row):
                self._overwritten.add(key)
                continue
            else:
                self.rows.put(key, value, self.outline(row))
            self._overwritten.discard(key)

    async def send_changes(self, publisher: Publisher) -> list[Delivery]:
        """Send all changes made since the last call, in their order.

        A row that no record can hold is not sent: its delivery is that of the key's next row, so that what led to it is
        not acknowledged before, and is read again by whoever recovers the row before it.
        """
        changes, self._unsent = self._unsent, []
        return [await self._send(change, publisher) for change in changes]

    async def _send(self, change: TableChange, publisher: Publisher) -> Delivery:
        topic, key = self.changelog_topic_name, orjson.dumps(change.key)
        try:
            delivery = await publisher.send(topic, change.value, key=key, partition=change.partition)
        except RecordTooLarge as error:
            logger.error("row_too_large", extra={"key": change.key, "error": str(error)})  # noqa: TRY400 - no traceback
            return self.unwritten.setdefault(change.key, asyncio.get_running_loop().create_future())
        waiting = self.unwritten.pop(change.key, None)
        if waiting is not None:
            delivery.add_done_callback(lambda done: _pass_on(done, waiting))
        return delivery

    def _forget_all_but(self, owned: set[int]) -> None:
        """Drop what is still held of partitions that another worker owns now.

        Rows that were not written are forgotten altogether: what led to them is read again.
        """
        self.unwritten.clear()
        self.rows.keep_only(owned)


def _pass_on(done: Delivery, waiting: asyncio.Future[Any]) -> None:
    if done.cancelled():
        waiting.cancel()
    elif (error := done.exception()) is not None:
        waiting.set_exception(error)
    else:
        waiting.set_result(done.result())
