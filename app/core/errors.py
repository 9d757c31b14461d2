"""Every error the product raises on purpose.

RunbooksError
├── ConfigurationError        a setting, a topic or a file is not as it must be; says the remedy
├── DataFolderError           a worker's data folder cannot be written; says the remedy
├── Refused                   input that is not taken; carries the problems, each with its path
│   ├── AnomalyRefused
│   ├── RunbookRefused
│   └── RecordRefused         a record on one of our own topics that cannot be read
├── RecordTooLarge            what would be written is larger than one record of its topic may be
├── ConditionError            a condition that does not compile, or gave no boolean
├── TemplateError             a template that does not compile or cannot be rendered
│   └── NotKnownYet           what it gives depends on a value that only the real run will know
└── ActionError               what clients raise; two words decide the retry
    ├── PermanentError        trying again cannot help
    │   └── Drifted           what an inverse would take back is no longer as this execution left it
    ├── TemporaryError        trying again may help, after delay_s
    │   └── NotAcknowledged   a record that was sent to Kafka, and may stand there or not
    └── OutcomeUnknown        sent, and not known whether it took effect
"""

from collections.abc import Iterable
from dataclasses import dataclass


class RunbooksError(Exception):
    """The one base."""


class ConfigurationError(RunbooksError):
    """A setting, a topic or a file is not as it must be; the message says the remedy."""


class DataFolderError(RunbooksError):
    """A worker's data folder cannot be written; the message says the remedy."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with an input.

    path: where, as ``steps[1].replicas``; empty for the whole input.
    message: what is wrong, one sentence without a full stop.
    nearest: the known field name closest to an unknown one, or None.
    """

    path: str
    message: str
    nearest: str | None = None

    def __str__(self) -> str:
        """``path: message (did you mean …?)``."""
        hint = f" (did you mean '{self.nearest}'?)" if self.nearest else ""
        return f"{self.path}: {self.message}{hint}" if self.path else f"{self.message}{hint}"


class Refused(RunbooksError):
    """Input that is not taken."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        """Keep the problems, at least one, in the order they were found."""
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))


class AnomalyRefused(Refused):
    """An anomaly event that cannot be taken."""


class RunbookRefused(Refused):
    """A runbook definition that cannot be taken."""


class RecordRefused(Refused):
    """A record on one of our own topics that cannot be read."""


class RecordTooLarge(RunbooksError):
    """What would be written is larger than one record of its topic may be; trying again cannot help.

    size, limit: in bytes.
    """

    def __init__(self, topic: str, size: int, limit: int) -> None:
        """Say which topic it is."""
        super().__init__(f"a record for {topic} would have {size} bytes, and at most {limit} are taken")
        self.topic = topic
        self.size = size
        self.limit = limit


class ConditionError(RunbooksError):
    """A condition that does not compile, or that gave no boolean."""


class TemplateError(RunbooksError):
    """A template that does not compile or cannot be rendered."""


class NotKnownYet(TemplateError):
    """What a template gives depends on a value that only the real run will know."""


class ActionError(RunbooksError):
    """What a client raises when an action did not go well."""


class PermanentError(ActionError):
    """Trying again cannot help."""


class Drifted(PermanentError):
    """What an inverse would take back is no longer as this execution left it; the message says both values."""


class TemporaryError(ActionError):
    """Trying again may help.

    delay_s: how long the other side asked to wait, in seconds; None when it said nothing.
    """

    def __init__(self, message: str, delay_s: float | None = None) -> None:
        """Keep the message and the delay."""
        super().__init__(message)
        self.delay_s = delay_s


class NotAcknowledged(TemporaryError):
    """A record was sent to Kafka, and nobody said that it stands there: it may, or it may not."""


class OutcomeUnknown(ActionError):
    """The request was sent and nobody knows whether it took effect."""
