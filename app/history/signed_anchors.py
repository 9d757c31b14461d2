"""Anchors in a file elsewhere, signed with Ed25519 (RFC 8032), one object a line: the database may be distrusted.

Only whole anchors are signed: what follows the last one stands in the database alone until it is full.
"""

import asyncio
import hashlib
import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from pydantic import BaseModel, ConfigDict, ValidationError

from app.core.chain import NOTHING, Anchor
from app.core.errors import ConfigurationError, RunbooksError
from app.history.database import DATABASE_ERRORS
from app.history.store import Store

PAGE = 100  # anchors, about 1 MB
LOOKED_AT = 64 * 1024  # bytes, from the end on, until a line's end is found
PURPOSE = b"infrasage runbooks anchor 1\n"
logger = logging.getLogger(__name__)


class SignedAnchor(BaseModel):
    """One line: an anchor of a partition, the running hash before it, and who vouches for it; bytes are hex.

    signature: of PURPOSE and the JSON of all other fields, sorted by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    topic: str
    partition: int
    first_offset: int
    next_offset: int
    before: str
    head: str
    digests: str
    signature: str = ""

    @classmethod
    def of(cls, topic: str, partition: int, anchor: Anchor, before: bytes) -> "SignedAnchor":
        """An anchor that is not signed yet."""
        return cls(
            topic=topic,
            partition=partition,
            first_offset=anchor.first_offset,
            next_offset=anchor.next_offset,
            before=before.hex(),
            head=anchor.head.hex(),
            digests=anchor.digests.hex(),
        )

    def message(self) -> bytes:
        """What is signed."""
        return PURPOSE + orjson.dumps(self.model_dump(exclude={"signature"}), option=orjson.OPT_SORT_KEYS)

    def signed(self, key: Ed25519PrivateKey) -> "SignedAnchor":
        """The same with its signature."""
        return self.model_copy(update={"signature": key.sign(self.message()).hex()})

    def anchor(self) -> Anchor:
        """The anchor itself."""
        head, digests = bytes.fromhex(self.head), bytes.fromhex(self.digests)
        return Anchor(self.first_offset, self.next_offset, head, digests)


class AnchorSigner:
    """Appends every anchor that is whole, in its order, once; what could not be written is caught up with later."""

    def __init__(self, path: Path, key: Ed25519PrivateKey, store: Store, topic: str) -> None:
        """Go on after the last line of each partition in this file.

        Raises ConfigurationError when it cannot be read, or its end, cut by a crash, cannot be taken off.
        """
        self._path = path
        self._key = key
        self._store = store
        self._topic = topic
        self._next: dict[int, tuple[int, bytes]] = {}
        self._ends_whole = True
        try:
            _take_off_cut_end(path)
        except OSError as error:
            raise ConfigurationError(f"{path}: cannot be written: {error}") from error
        for _, line in _lines(path) if path.exists() else ():
            if line.topic == topic:
                self._next[line.partition] = (line.next_offset, bytes.fromhex(line.head))

    async def sign(self, partition: int) -> None:
        """Sign what is whole and was not signed; when that cannot be done now, it is told of, and stops nobody."""
        try:
            while await self._sign_page(partition):
                pass
        except DATABASE_ERRORS as error:
            logger.warning("anchors_not_signed", extra={"partition": partition, "error": str(error)})

    async def _sign_page(self, partition: int) -> bool:
        start, head = self._next.get(partition, (0, NOTHING))
        found = await self._store.anchors_from(partition, start, PAGE)
        lines = []
        for anchor in found[:-1]:
            lines.append(SignedAnchor.of(self._topic, partition, anchor, head).signed(self._key))
            head = anchor.head
        if lines:
            await asyncio.to_thread(self._append, lines)
            self._next[partition] = (lines[-1].next_offset, head)
        return len(found) == PAGE

    def _append(self, lines: Iterable[SignedAnchor]) -> None:
        """Write all of the lines or none; a part that cannot be taken off at once goes before the next ones."""
        if not self._ends_whole:
            _take_off_cut_end(self._path)
        unwritten = b"".join(line.model_dump_json().encode() + b"\n" for line in lines)
        with self._path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            self._ends_whole = False
            try:
                while unwritten:
                    unwritten = unwritten[file.write(unwritten) :]
            except OSError:
                file.truncate(before)
                self._ends_whole = True
                raise
        self._ends_whole = True


class _Entry(NamedTuple):
    """Where an anchor's line stands."""

    first_offset: int
    next_offset: int
    path: Path
    position: int
    content: bytes


class SignedAnchors:
    """The anchors of one topic in one or several such files, as an audit asks for them; memory holds their places."""

    def __init__(self, paths: Iterable[Path], key: Ed25519PublicKey, topic: str) -> None:
        """Read them all. Raises RunbooksError when a line is not signed with this key, or two contradict each other."""
        found: dict[tuple[int, int], _Entry] = {}
        self._digest = hashlib.sha256(key.public_bytes_raw())
        for path in sorted(paths):
            self._digest.update(b"%b\n" % str(path.resolve()).encode(errors="surrogateescape"))
            for position, line in _lines(path):
                _check(line, key, f"{path}: the line at byte {position}")
                if line.topic != topic:
                    continue
                content = hashlib.sha256(line.message()).digest()
                entry = _Entry(line.first_offset, line.next_offset, path, position, content)
                if found.setdefault((line.partition, line.first_offset), entry).content != content:
                    where = f"{line.partition}/{line.first_offset}"
                    raise RunbooksError(f"{path}: two anchors are signed for {where}, and they contradict each other")
        self._entries: dict[int, list[_Entry]] = {}
        for partition, first in sorted(found):
            self._entries.setdefault(partition, []).append(found[partition, first])

    @property
    def digest(self) -> str:
        """Names the key and the files, to know them again; what is in the files grows."""
        return self._digest.hexdigest()

    async def last_anchor(self, partition: int) -> Anchor | None:
        """The last anchor of a partition; None where there is none."""
        entries = self._entries.get(partition)
        return (await self._line(entries[-1])).anchor() if entries else None

    async def anchor_at(self, partition: int, offset: int) -> Anchor | None:
        """The anchor that an offset falls into, else the next one; None after the last."""
        entry = self._entry(partition, offset)
        return None if entry is None else (await self._line(entry)).anchor()

    async def head_before(self, partition: int, offset: int) -> bytes:
        """The running hash up to an offset at which an anchor begins."""
        entry = self._entry(partition, offset)
        return NOTHING if entry is None else bytes.fromhex((await self._line(entry)).before)

    def _entry(self, partition: int, offset: int) -> _Entry | None:
        entries = self._entries.get(partition, [])
        place = bisect_right(entries, offset, key=lambda entry: entry.next_offset)
        return entries[place] if place < len(entries) else None

    async def _line(self, entry: _Entry) -> SignedAnchor:
        return await asyncio.to_thread(_line_at, entry.path, entry.position)


def read_private_key(path: Path) -> Ed25519PrivateKey:
    """An Ed25519 key as PEM, PKCS#8, without a password. Raises ConfigurationError."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigurationError(f"{path}: cannot be read as a private key in PEM: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path}: must be an Ed25519 key")
    return key


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The same of its public half. Raises ConfigurationError."""
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: cannot be read as a public key in PEM: {error}") from error
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path}: must be an Ed25519 key")
    return key


def _lines(path: Path) -> Iterator[tuple[int, SignedAnchor]]:
    """All lines with the byte they begin at; one that was cut off at the end, as by a crash, is none."""
    try:
        with path.open("rb") as file:
            position = 0
            for raw in file:
                if raw.endswith(b"\n"):
                    yield position, SignedAnchor.model_validate_json(raw)
                position += len(raw)
    except (OSError, ValidationError) as error:
        raise ConfigurationError(f"{path}: cannot be read as signed anchors: {error}") from error


def _line_at(path: Path, position: int) -> SignedAnchor:
    with path.open("rb") as file:
        file.seek(position)
        return SignedAnchor.model_validate_json(file.readline())


def _take_off_cut_end(path: Path) -> None:
    """Take off what follows the last whole line, if there is a file. Raises OSError."""
    if not path.exists():
        return
    with path.open("r+b") as file:
        size = whole = file.seek(0, os.SEEK_END)
        while whole > 0:
            start = max(0, whole - LOOKED_AT)
            file.seek(start)
            place = file.read(whole - start).rfind(b"\n")
            whole = start + place + 1
            if place >= 0:
                break
        if whole < size:
            file.truncate(whole)


def _check(line: SignedAnchor, key: Ed25519PublicKey, where: str) -> None:
    try:
        key.verify(bytes.fromhex(line.signature), line.message())
    except (InvalidSignature, ValueError):
        raise RunbooksError(
            f"{where} is not signed with this key: the file was altered, or is of another one"
        ) from None
