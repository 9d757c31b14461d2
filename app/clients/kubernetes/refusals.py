"""What the Kubernetes API refuses, in our words: whether trying again can help, and which right is missing."""

import json
from datetime import UTC, datetime

from kubernetes_asyncio.client.exceptions import ApiException

from app.clients.foreign_text import legible
from app.clients.http import retry_after_s
from app.core.errors import ActionError, OutcomeUnknown, PermanentError, TemporaryError

BY_ADMISSION = "denied the request"
FROM_THE_STORE = ("rpc error", "etcdserver:")


def translated(error: ApiException, what: str, right: str, *, writes: bool) -> ActionError:
    """The refusal of a request about ``what``, which needed ``right``; writes: whether it was to change something."""
    said = _message(error)
    if writes and _is_in_doubt(error.status, said):
        return OutcomeUnknown(f"the Kubernetes API does not know whether {what} was changed: {said}")
    match error.status:
        case 401:
            return PermanentError("the Kubernetes API does not know who we are: renew the credentials")
        case 403 if BY_ADMISSION in said:
            return PermanentError(f"{what} was not changed: {said}")
        case 403:
            return PermanentError(f"the right to {right} is missing for {what}: {said}")
        case 404:
            return PermanentError(f"{what} does not exist")
        case 422:
            return PermanentError(f"{what} was not changed, the API refused the request or its precondition: {said}")
        case 409 | 410 | 429:
            return TemporaryError(f"{what}: {said}", _delay_s(error))
        case status if status is not None and status >= 500:
            return TemporaryError(f"the Kubernetes API failed with {status}: {said}", _delay_s(error))
        case _:
            return PermanentError(f"the Kubernetes API refused {what}: {said}")


def lacks_right(error: ApiException) -> bool:
    """Whether it was refused for want of a right."""
    return error.status == 403 and BY_ADMISSION not in _message(error)


def refused_with(error: PermanentError, status: int) -> bool:
    """Whether this is the translation of an answer with this status."""
    return isinstance(error.__cause__, ApiException) and error.__cause__.status == status


def _is_in_doubt(status: int | None, said: str) -> bool:
    """Whether the API itself gave up waiting for a write, or lost its etcd, which may have it all the same."""
    return status == 504 or (status == 500 and any(sign in said for sign in FROM_THE_STORE))


def _delay_s(error: ApiException) -> float | None:
    value = error.headers.get("Retry-After") if error.headers else None
    return retry_after_s(value, datetime.now(UTC))


def _message(error: ApiException) -> str:
    """The message of the API's Status object, else the reason."""
    try:
        body = json.loads(error.body or "{}")
    except (ValueError, RecursionError):
        return str(error.reason)
    message = body.get("message") if isinstance(body, dict) else None
    return legible(str(message or error.reason))
