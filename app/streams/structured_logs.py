"""Structured logs: one JSON object a line, a stable event name, values masked."""

import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

MAX_TEXT = 8 * 1024  # characters
OURS = "app"
WHILE_S, AT_ONCE = 10.0, 3
MAX_SAID = 1000
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}


class JsonLines(logging.Formatter):
    """One JSON object a line; what does not print is escaped, so a value can forge no line and steer no terminal.

    mask: takes secrets out of the finished text. A text is cut at 8 KiB: bad input must not fill the disk.
    """

    def __init__(self, mask: Callable[[str], str]) -> None:
        """Keep the mask."""
        super().__init__()
        self._mask = mask

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname,
            "logger": record.name,
            "event": record.getMessage(),
        }
        own = _OWN | line.keys()
        line |= {key: value for key, value in vars(record).items() if key not in own and not key.startswith("_")}
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        cut = {key: _cut(value) for key, value in line.items()}
        written = self._mask(json.dumps(cut, default=str, ensure_ascii=False))
        return written if written.isprintable() else "".join(map(_escaped, written))


def _cut(value: Any) -> Any:
    return (
        f"{value[:MAX_TEXT]} … ({len(value)} characters)" if isinstance(value, str) and len(value) > MAX_TEXT else value
    )


def _escaped(one: str) -> str:
    """A character as it stands in a JSON text, which is its own escape where it does not print."""
    return one if one.isprintable() else json.dumps(one)[1:-1]


class Sparing(logging.Filter):
    """Has libraries say the same only a few times a while: in an outage each attempt of each client fails.

    The same is what has the same text before its values are filled in. Who is let through after others were not says
    how many: ``left_out``. What the application says is let through, and what has a traceback.
    """

    def __init__(self) -> None:
        """Nothing was said yet."""
        super().__init__()
        self._said: dict[tuple[str, str], _Said] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether it is let through."""
        if record.name.partition(".")[0] == OURS or record.exc_info:
            return True
        key = record.name, str(record.msg)
        said = self._said.get(key)
        if said is None or record.created - said.since >= WHILE_S:
            if said is not None and said.times > AT_ONCE:
                record.left_out = said.times - AT_ONCE
            if len(self._said) >= MAX_SAID:  # texts that are filled in by who logs them are all different
                self._said.clear()
            said = self._said[key] = _Said(record.created)
        said.times += 1
        return said.times <= AT_ONCE


@dataclass(slots=True)
class _Said:
    since: float
    times: int = 0


def configure_logging(level: str, mask: Callable[[str], str], file: Path | None = None) -> None:
    """Send all logs as JSON lines to a file, or to standard error; of libraries from WARNING on, and few repeats."""
    handler = logging.StreamHandler(sys.stderr) if file is None else logging.FileHandler(file)
    handler.setFormatter(JsonLines(mask))
    handler.addFilter(Sparing())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger(OURS).setLevel(level)
