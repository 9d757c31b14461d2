"""A file that lets an audit go on where it was stopped, if it is still the same log."""

import hashlib
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from app.audit.findings import Difference
from app.audit.folding import LogRecord, Position
from app.core.errors import RunbooksError

VERSION = 4


class PartitionPoint(BaseModel):
    """One partition: its fold, where the merge with the history stands, and a hash of the last record read."""

    model_config = ConfigDict(extra="forbid")

    position: Position
    end: int
    history_place: tuple[int, str]
    last_record: str | None


class Checkpoint(BaseModel):
    """All that an audit knows. log: names the broker's cluster, the topic and whether a history is beside it."""

    model_config = ConfigDict(extra="forbid")

    version: int = VERSION
    log: str
    points: list[PartitionPoint]
    differences: list[Difference]

    def write(self, path: Path) -> None:
        """Replace the file, all or nothing."""
        beside = path.with_name(path.name + ".new")
        beside.write_text(self.model_dump_json())
        beside.replace(path)


def read_checkpoint(path: Path, log: str) -> Checkpoint:
    """Read it. Raises RunbooksError when it is not one of this log."""
    try:
        found = Checkpoint.model_validate_json(path.read_bytes())
    except (OSError, ValidationError) as error:
        raise RunbooksError(f"the checkpoint {path} cannot be read: remove it to begin anew") from error
    if found.version != VERSION:
        raise RunbooksError(f"the checkpoint {path} was written by another version: remove it to begin anew")
    if found.log != log:
        raise RunbooksError(f"the checkpoint {path} is of {found.log}, and this is {log}: remove it to begin anew")
    return found


def fingerprint(record: LogRecord) -> str:
    """A hash of a record, to know it again."""
    parts = (str(record.offset).encode(), record.key or b"", record.value or b"")
    return hashlib.sha256(b"\x00".join(parts)).hexdigest()
