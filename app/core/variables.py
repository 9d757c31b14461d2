"""What templates and conditions see of an execution's request."""

from app.core.events import ExecutionRequested
from app.core.model import JsonObject


def request_variables(request: ExecutionRequested) -> JsonObject:
    """All variables but ``steps``: anomaly, context, runbook, execution.

    A manual run has no anomaly: its context stands in, on top of what the trigger names.
    """
    return {
        "anomaly": _anomaly_of(request),
        "context": request.context,
        "runbook": {"name": request.runbook.name, "version": request.runbook_version},
        "execution": {
            "id": request.execution_id,
            "tenant": request.tenant,
            "dry_run": request.dry_run,
            "requested_by": request.requested_by,
            "requested_at": request.at.isoformat(),
        },
    }


def _anomaly_of(request: ExecutionRequested) -> JsonObject:
    if request.anomaly is not None:
        return request.anomaly.variables()
    trigger = request.runbook.trigger
    named = {} if trigger is None else {"service_id": trigger.service_id, "metric_name": trigger.metric_name}
    return {key: value for key, value in named.items() if value != "*"} | request.context
