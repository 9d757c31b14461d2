"""A file that lets an audit go on where it was stopped, if it is still the same log."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from app.audit.anchors import AnchorPoint
from app.audit.comparing import Ahead
from app.audit.findings import Difference
from app.audit.folding import LogRecord, Position
from app.core.errors import RunbooksError

VERSION = 7


class PartitionPoint(BaseModel):
    """One partition: its fold, where the merge with the history and its anchors stand, a hash of the last record read.

    left_out: rows that moved on meanwhile. history_ahead: rows of which the log has yet to tell. anchors: against the
    history first, where there is one.
    """

    model_config = ConfigDict(extra="forbid")

    position: Position
    end: int
    history_place: tuple[int, str]
    left_out: int
    history_ahead: list[Ahead]
    anchors: list[AnchorPoint]
    last_record: str | None


class _Versioned(BaseModel):
    """What checkpoints of all versions have."""

    version: int


class Checkpoint(BaseModel):
    """All that an audit knows. log: names all that it reads. count: of all differences, those that are not kept too."""

    model_config = ConfigDict(extra="forbid")

    version: int = VERSION
    log: str
    points: list[PartitionPoint]
    differences: list[Difference]
    count: int

    def write(self, path: Path) -> None:
        """Replace the file, all or nothing."""
        beside = path.with_name(path.name + ".new")
        beside.write_text(self.model_dump_json())
        beside.replace(path)


def read_checkpoint(path: Path, log: str) -> Checkpoint:
    """Read it. Raises RunbooksError when it is not one of this version and this log."""
    try:
        content = path.read_bytes()
        version = _Versioned.model_validate_json(content).version
        if version != VERSION:
            raise RunbooksError(f"the checkpoint {path} was written by another version: remove it to begin anew")
        found = Checkpoint.model_validate_json(content)
    except (OSError, ValidationError) as error:
        raise RunbooksError(f"the checkpoint {path} cannot be read: remove it to begin anew") from error
    if found.log != log:
        raise RunbooksError(f"the checkpoint {path} is of {found.log}, and this is {log}: remove it to begin anew")
    return found


def fingerprint(record: LogRecord) -> str:
    """A hash of a record, to know it again."""
    parts = (str(record.offset).encode(), record.key or b"", record.value or b"")
    return hashlib.sha256(b"\x00".join(parts)).hexdigest()
