"""Records into events, and whether what they carry is what their digests say."""

import hashlib
from typing import Any

import orjson

from app.core.events import EVENTS, Event, ExecutionRequested, StepPrepared, StepStarted
from app.core.model import digest, read_document, validated
from app.core.planning import Prepared

PLAN_FIELDS = len(Prepared.model_fields)


Decoded = tuple[Event, bool]
"""One event, and whether the digest that it carries is that of what it carries."""


def decoded(raw: bytes | None) -> Decoded:
    """Read one record, and check the digest in it. Raises RecordRefused."""
    document = read_document(raw)
    event: Event = validated(document, EVENTS)
    if type(event) is StepStarted or type(event) is StepPrepared:
        return event, _plan_holds(event.plan, document["plan"])
    if type(event) is ExecutionRequested:
        return event, event.runbook_digest == event.runbook.digest()
    return event, True


def _plan_holds(plan: Prepared, written: dict[str, Any]) -> bool:
    """Whether the plan's digest is that of its content; sorting what is written is enough but for rare numbers."""
    if len(written) == PLAN_FIELDS:  # no plan has others than these
        rest = written.copy()
        del rest["digest"]
        quick = hashlib.sha256(orjson.dumps(rest, option=orjson.OPT_SORT_KEYS)).hexdigest()
        if quick == plan.digest:
            return True
    return plan.digest == digest(plan.model_dump(mode="json", exclude={"digest"}))
