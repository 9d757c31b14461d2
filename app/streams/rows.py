"""The rows of a table, in a file of the data folder: what a worker must know for days does not fill its memory.

The file is scratch: made anew at each start and filled from the table's changelog, never read by a later process. So
nothing in it has to survive a crash: no journal, no fsync, one transaction that is never ended.
"""

import sqlite3
from collections.abc import Callable, Collection, Iterator
from datetime import datetime
from pathlib import Path
from typing import NamedTuple

from app.core.errors import DataFolderError

PAGES_IN_MEMORY_KIB = 4 * 1024
SETTINGS = (
    "PRAGMA journal_mode = OFF",
    "PRAGMA synchronous = OFF",
    "PRAGMA locking_mode = EXCLUSIVE",
    f"PRAGMA cache_size = -{PAGES_IN_MEMORY_KIB}",
    "CREATE TABLE rows (key TEXT PRIMARY KEY, partition INTEGER, until REAL, indexed INTEGER, value BLOB)",
    "CREATE INDEX ends ON rows (partition, until) WHERE until IS NOT NULL",
    "CREATE INDEX wanted ON rows (partition) WHERE indexed",
    "BEGIN",
)
UPDATE = "UPDATE rows SET partition = ?, until = ?, indexed = ?, value = ? WHERE key = ?"
INSERT = "INSERT INTO rows (partition, until, indexed, value, key) VALUES (?, ?, ?, ?, ?)"


class Outline(NamedTuple):
    """What is asked for of a row.

    until: when nobody needs it any more, None where that is not known yet. indexed: whether it is read again after each
    rebalance, to build what is kept in memory.
    """

    partition: int
    until: datetime | None
    indexed: bool


class Row(NamedTuple):
    """A row, as the changelog has it: value is JSON."""

    partition: int
    key: str
    value: bytes


class Rows:
    """Rows by key.

    Every call raises DataFolderError when the file has no room, and calls on_failure with it: the rows are worth
    nothing from then on.
    """

    def __init__(self, path: Path, on_failure: Callable[[DataFolderError], None] = lambda _: None) -> None:
        """Begin with none; what stood at this path goes."""
        self._path = path
        self._on_failure = on_failure
        self._count = 0
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            self._file = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        except (OSError, sqlite3.Error) as error:
            raise self._unusable(error) from error
        for setting in SETTINGS:
            self._run(setting)

    def __len__(self) -> int:
        """How many rows there are."""
        return self._count

    def put(self, key: str, value: bytes, outline: Outline) -> None:
        """Take the newest row of a key."""
        until = None if outline.until is None else outline.until.timestamp()
        new = (outline.partition, until, outline.indexed, value, key)
        if not self._run(UPDATE, new).rowcount:
            self._run(INSERT, new)
            self._count += 1

    def drop(self, key: str) -> None:
        """Forget a key."""
        self._count -= self._run("DELETE FROM rows WHERE key = ?", (key,)).rowcount

    def find(self, key: str) -> Row | None:
        """The row of a key; None where there is none."""
        found = self._run("SELECT partition, key, value FROM rows WHERE key = ?", (key,)).fetchone()
        return None if found is None else Row(*found)

    def indexed(self) -> Iterator[Row]:
        """The rows that are read again after each rebalance."""
        return map(Row._make, self._run("SELECT partition, key, value FROM rows WHERE indexed"))

    def expired(self, partition: int, now: datetime, limit: int = 100) -> list[Row]:
        """Rows of a partition that nobody needs any more, at most ``limit`` a call."""
        asked = "SELECT partition, key, value FROM rows WHERE partition = ? AND until < ? ORDER BY until LIMIT ?"
        return [Row(*found) for found in self._run(asked, (partition, now.timestamp(), limit))]

    def keep_only(self, partitions: Collection[int]) -> None:
        """Forget the rows of all other partitions."""
        held = [partition for (partition,) in self._run("SELECT DISTINCT partition FROM rows")]
        for partition in held:
            if partition not in partitions:
                self._count -= self._run("DELETE FROM rows WHERE partition = ?", (partition,)).rowcount

    def _run(self, statement: str, values: tuple[object, ...] = ()) -> sqlite3.Cursor:
        try:
            return self._file.execute(statement, values)
        except sqlite3.Error as error:
            raise self._unusable(error) from error

    def _unusable(self, error: Exception) -> DataFolderError:
        failed = DataFolderError(f"{self._path}: {error}: make room there, or set RUNBOOKS_DATA_DIR to another folder")
        self._on_failure(failed)
        return failed
