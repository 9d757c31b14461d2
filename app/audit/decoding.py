"""Records into events, and whether what they carry is what their digests say."""

import contextlib
import hashlib

import orjson

from app.core.events import Event, ExecutionRequested, StepPrepared, StepStarted, read_event
from app.core.model import VALUES, digest
from app.core.planning import Prepared

QUICK = orjson.OPT_SORT_KEYS | orjson.OPT_UTC_Z


Decoded = tuple[Event, bool]
"""One event, and whether the digest that it carries is that of what it carries."""


def decoded(raw: bytes | None) -> Decoded:
    """Read one record, and check the digest in it. Raises RecordRefused."""
    event = read_event(raw)
    if type(event) is StepStarted or type(event) is StepPrepared:
        return event, _plan_holds(event.plan)
    if type(event) is ExecutionRequested:
        return event, event.runbook_digest == event.runbook.digest()
    return event, True


def _plan_holds(plan: Prepared) -> bool:
    """Whether the plan's digest is that of its content; the quick way is right but for rare numbers."""
    rest = plan.__dict__.copy()
    del rest["digest"]
    with contextlib.suppress(TypeError):  # a number of more than 64 bits
        if hashlib.sha256(orjson.dumps(rest, default=VALUES, option=QUICK)).hexdigest() == plan.digest:
            return True
    return plan.digest == digest(plan.model_dump(mode="json", exclude={"digest"}))
