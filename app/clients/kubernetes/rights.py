"""Whether we may do what a step will need, asked before anything is done."""

import asyncio
from collections.abc import Callable
from typing import Literal, NamedTuple

from pydantic import JsonValue

from app.clients.kubernetes.answers import Answer
from app.clients.kubernetes.connection import Connection, Request
from app.core.errors import PermanentError

KEPT_S = 30.0  # so that a plan made twice in a row asks once; what is taken away meanwhile shows when it is used
MAX_KEPT = 10_000
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"


class Right(NamedTuple):
    """A verb on a resource, ``deployments`` or ``deployments/scale``.

    group: ``apps``; empty for the core group. namespace: None for resources of the whole cluster, and for those of
    all namespaces. name: the one object it is about; rights can be given for single objects.
    """

    verb: str
    resource: str
    group: str = ""
    namespace: str | None = None
    name: str | None = None

    def __str__(self) -> str:
        """``patch deployments/scale in namespace production``."""
        return f"{self.verb} {self.resource}" + (f" in namespace {self.namespace}" if self.namespace else "")

    def attributes(self) -> dict[str, JsonValue]:
        """The resourceAttributes of a SelfSubjectAccessReview."""
        resource, _, subresource = self.resource.partition("/")
        named = {"verb": self.verb, "group": self.group, "resource": resource, "subresource": subresource}
        return {**named, "namespace": self.namespace or "", "name": self.name or ""}


class AccessStatus(Answer):
    """The answer of a review."""

    allowed: bool


class SelfSubjectAccessReview(Answer):
    """A review with its answer."""

    kind: Literal["SelfSubjectAccessReview"]
    status: AccessStatus


class Rights:
    """Our rights in a cluster; a right that we had is not asked for again for KEPT_S seconds."""

    def __init__(self, connection: Connection, monotonic: Callable[[], float]) -> None:
        """monotonic: seconds."""
        self._connection = connection
        self._monotonic = monotonic
        self._had: dict[Right, float] = {}

    async def require(self, *rights: Right) -> None:
        """Return when we have them all.

        Raises PermanentError naming those that are missing, TemporaryError when the API is not ready, and as ``ask``.
        """
        now = self._monotonic()
        asked = [right for right in rights if not now - self._had.get(right, -KEPT_S) < KEPT_S]
        answers = await asyncio.gather(*(self._has(right) for right in asked), return_exceptions=True)
        missing: list[Right] = []
        for right, has in zip(asked, answers, strict=True):
            if isinstance(has, BaseException):
                raise has
            if has:
                self._keep(right, now)
            else:
                missing.append(right)
        if missing:
            refusal = PermanentError("; ".join(f"the right to {right} is missing" for right in missing))
            raise await self._connection.unless_starting(refusal)

    async def _has(self, right: Right) -> bool:
        review: JsonValue = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": right.attributes()},
        }
        what, needed = f"the right to {right}", "create selfsubjectaccessreviews"
        request = Request("POST", REVIEWS, what, needed, body=review)
        return (await self._connection.ask(request, SelfSubjectAccessReview)).status.allowed

    def _keep(self, right: Right, now: float) -> None:
        if len(self._had) >= MAX_KEPT:
            self._had.clear()
        self._had[right] = now
