"""Ids that anyone can derive again: the same cause gives the same id."""

import uuid

EXECUTION_NAMESPACE = uuid.UUID("8d6c1a52-7f2f-5a55-8f5f-0d7f3c1f6b29")


def execution_id_for_anomaly(tenant: str, anomaly_id: str, runbook: str) -> str:
    """The execution that this anomaly starts of this runbook: however often the event arrives, the same."""
    return _derive("anomaly", tenant, anomaly_id, runbook)


def execution_id_for_key(tenant: str, idempotency_key: str) -> str:
    """The execution that a caller named with an Idempotency-Key."""
    return _derive("key", tenant, idempotency_key)


def _derive(*parts: str) -> str:
    return str(uuid.uuid5(EXECUTION_NAMESPACE, "\x00".join(parts)))


def command_id(execution_id: str, run: int, step: int, phase: str, attempt: int) -> str:
    """``execution_id/run/step/phase/attempt``.

    run is the offset of the execution's request: an execution id that comes again after the dedup window is
    another run, and its commands must not be taken for the first run's.
    """
    return f"{execution_id}/{run}/{step}/{phase}/{attempt}"


def message_id(execution_id: str, run: int, step: int, request: int, notice: int) -> str:
    """``execution_id/run/step/notice-request-notice``: one message about a request, in all its versions."""
    return f"{execution_id}/{run}/{step}/notice-{request}-{notice}"


def first_attempt(command: str) -> str:
    """The id of the same command's first attempt: what all attempts have in common."""
    return command.rpartition("/")[0] + "/1"
