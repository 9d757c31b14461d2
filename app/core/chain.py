"""Tamper evidence: a running SHA-256 over the records of a partition, with the short digest of each one.

The hash says whether a stretch of the log is still what was recorded, the digests where it first is not.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import NamedTuple

SHORT = 8  # bytes of a record's digest that are kept
ANCHOR_EVERY = 1000  # records
NOTHING = bytes(32)
NO_RECORD = bytes(SHORT)


class Anchor(NamedTuple):
    """One stretch: the hash of everything up to next_offset, and the digests of its own records from first_offset.

    An offset that holds no record has a digest of zeros.
    """

    first_offset: int
    next_offset: int
    head: bytes
    digests: bytes

    @classmethod
    def beginning(cls, offset: int) -> "Anchor":
        """A chain that begins at an offset."""
        return cls(offset, offset, NOTHING, b"")

    def short(self, offset: int) -> bytes:
        """The short digest that was recorded for one of its offsets."""
        start = (offset - self.first_offset) * SHORT
        return self.digests[start : start + SHORT]


def record_digest(partition: int, offset: int, key: bytes | None, value: bytes | None) -> bytes:
    """SHA-256 of one record; lengths stand before what they measure, so no two records read the same."""
    lengths = -1 if key is None else len(key), -1 if value is None else len(value)
    return hashlib.sha256(b"%d/%d/%d/%d/%b%b" % (partition, offset, *lengths, key or b"", value or b"")).digest()


def linked(head: bytes, digest: bytes) -> bytes:
    """The running hash after one more record."""
    return hashlib.sha256(head + digest).digest()


def extended(last: Anchor, digests: Iterable[tuple[int, bytes]], every: int = ANCHOR_EVERY) -> Iterator[Anchor]:
    """The anchors that change when records, as (offset, digest), follow the last anchor; the open one comes last.

    None has more than ``every`` offsets; a hole in the log that is as long stands between two.
    """
    first, following, head, kept = last.first_offset, last.next_offset, last.head, bytearray(last.digests)
    for offset, digest in digests:
        if kept and offset - first >= every:
            yield Anchor(first, following, head, bytes(kept))
            kept = bytearray()
        if kept:
            kept += bytes(SHORT * (offset - following))
        else:
            first = offset
        kept += digest[:SHORT]
        head, following = linked(head, digest), offset + 1
    yield Anchor(first, following, head, bytes(kept))
