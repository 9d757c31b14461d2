"""Which runbooks an anomaly event starts, and which clause failed where it starts none."""

from datetime import datetime
from typing import NamedTuple

from app.core.anomaly import Anomaly
from app.core.catalog import Catalog, Definition
from app.core.conditions import compile_condition
from app.core.errors import ConditionError
from app.core.events import ExecutionRequested, Limits
from app.core.ids import execution_id_for_anomaly
from app.core.model import JsonObject
from app.core.pauses import Pauses
from app.core.runbook import Trigger


class Match(NamedTuple):
    """The definition's trigger holds."""

    definition: Definition


class Miss(NamedTuple):
    """The definition was looked at, and this clause of its trigger failed."""

    definition: Definition
    reason: str


def request_of(
    anomaly: Anomaly, definition: Definition, at: datetime, limits: Limits, pauses: Pauses
) -> ExecutionRequested:
    """The execution that an anomaly starts of a definition; one that is paused is pinned as such."""
    runbook = definition.runbook
    pause = None if runbook.dry_run else pauses.why_paused(definition.tenant, definition.name, anomaly.service_id, at)
    return ExecutionRequested(
        tenant=definition.tenant,
        execution_id=execution_id_for_anomaly(definition.tenant, anomaly.anomaly_id, definition.name),
        at=at,
        runbook=runbook,
        runbook_version=definition.version,
        runbook_digest=definition.digest,
        anomaly=anomaly,
        dry_run=runbook.dry_run,
        limits=limits,
        paused=None if pause is None else pause.told(),
    )


def match(anomaly: Anomaly, catalog: Catalog) -> tuple[Match | Miss, ...]:
    """One answer for every candidate: a definition of the tenant whose trigger names the service and metric, or any."""
    candidates = tuple(catalog.candidates(anomaly.tenant_id, anomaly.service_id, anomaly.metric_name))
    if not candidates:
        return ()
    variables = seen_by_triggers(anomaly)
    return tuple(_answer(definition, variables) for definition in candidates)


def seen_by_triggers(anomaly: Anomaly) -> JsonObject:
    """What conditions see: the event's fields, and all of them as ``anomaly``."""
    variables = anomaly.variables()
    return variables | {"anomaly": variables}


def _answer(definition: Definition, variables: JsonObject) -> Match | Miss:
    trigger = definition.runbook.trigger
    assert trigger is not None
    reason = why_not(trigger, variables)
    return Match(definition) if reason is None else Miss(definition, reason)


def why_not(trigger: Trigger, variables: JsonObject) -> str | None:
    """The first clause of the trigger that these variables do not meet; None when all hold."""
    for name, wanted in (("service_id", trigger.service_id), ("metric_name", trigger.metric_name)):
        if wanted not in ("*", variables.get(name)):
            return f"{name} is {variables.get(name)!r}, not {wanted!r}"
    if trigger.condition is None:
        return None
    try:
        held = compile_condition(trigger.condition).holds(variables)
    except ConditionError as error:
        return f"condition `{trigger.condition}`: {error}"
    return None if held else f"condition `{trigger.condition}` is false"
