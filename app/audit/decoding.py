"""Records into events, faster than one at a time: a definition that many requests pin is read once.

The answers are those of ``read_event``, and a test compares them.
"""

import hashlib
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from app.core.errors import Problem, RecordRefused
from app.core.events import EVENTS, Event, ExecutionRequested, StepPrepared, StepStarted, read_event
from app.core.model import digest
from app.core.planning import Prepared
from app.core.runbook import Runbook

MAX_DEFINITIONS = 1000  # kept; after that it begins anew
PLAN_FIELDS = frozenset(Prepared.model_fields)


class Decoded(NamedTuple):
    """One event, and whether the digest that it carries is that of what it carries."""

    event: Event
    digest_holds: bool


class Decoder:
    """Reads records, and checks the digests in them."""

    def __init__(self) -> None:
        """Start with no definition at hand."""
        self._definitions: dict[bytes, tuple[Runbook, str]] = {}

    def read(self, raw: bytes | None) -> Decoded:
        """Read one record. Raises RecordRefused."""
        try:
            document = orjson.loads(raw or b"")
        except orjson.JSONDecodeError as error:
            raise RecordRefused([Problem("", f"not JSON: {error}")]) from error
        content = document.get("runbook") if isinstance(document, dict) else None
        known = self._definition(content) if isinstance(content, dict) else None
        if known is not None:
            document["runbook"] = known[0]
        try:
            event = EVENTS.validate_python(document)
        except ValidationError:
            event = read_event(raw)  # it says what is wrong
        if isinstance(event, ExecutionRequested):
            actual = known[1] if known else event.runbook.digest()
            return Decoded(event, event.runbook_digest == actual)
        if isinstance(event, StepStarted | StepPrepared):
            return Decoded(event, _plan_holds(event.plan, document["plan"]))
        return Decoded(event, digest_holds=True)

    def _definition(self, content: dict[str, Any]) -> tuple[Runbook, str] | None:
        name = orjson.dumps(content)
        known = self._definitions.get(name)
        if known is None:
            try:
                runbook = Runbook.model_validate(content)
            except ValidationError:
                return None
            if len(self._definitions) >= MAX_DEFINITIONS:
                self._definitions.clear()
            known = self._definitions[name] = (runbook, runbook.digest())
        return known


def _plan_holds(plan: Prepared, written: dict[str, Any]) -> bool:
    """Whether the plan's digest is that of its content; sorting what is written is enough but for rare numbers."""
    if written.keys() == PLAN_FIELDS:
        rest = {name: value for name, value in written.items() if name != "digest"}
        quick = hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()
        if quick == plan.digest:
            return True
    return plan.digest == digest(plan.model_dump(mode="json", exclude={"digest"}))
