"""What an audit finds: differences, each at its place in the log."""

from collections.abc import Callable
from typing import Literal, NamedTuple

Rule = Literal[
    "unreadable",  # the record is no event
    "key",  # its Kafka key is not its tenant, or it stands in another tenant's partition
    "offsets",  # records are missing between two others
    "ids",  # an id is not the derived one
    "tenant",  # it names another tenant's execution
    "digest",  # a runbook or a plan is not what its digest says
    "not_requested",  # a start of an execution, or of a run of it, that nobody requested
    "approval",  # a step was started without the approval it needs
    "started_twice",  # one command was started twice
    "not_started",  # a success without a start, or a start in a dry run
    "order",  # an end before its start
    "pinned",  # a rollback was asked for from a state that is not the one it ended in
    "history",  # a row is missing, extra or different
    "table",  # the same for the live table
    "chain",  # the record is not the one that was recorded, or is gone
]


class Difference(NamedTuple):
    """One difference; offset is -1 and execution_id empty where none is concerned."""

    partition: int
    offset: int
    rule: Rule
    execution_id: str
    detail: str

    def told(self) -> str:
        """One line; what came from records cannot move a terminal's cursor."""
        about = f" {self.execution_id}" if self.execution_id else ""
        return safe(f"{self.partition}/{self.offset} {self.rule}{about}: {self.detail}")


Report = Callable[[Difference], None]


def safe(text: str) -> str:
    """The text with everything that a terminal could take for an order made visible."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
