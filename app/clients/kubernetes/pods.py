"""Pods: those of a node, and those of a deployment; deleted or evicted only while they are still the same."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from kubernetes_asyncio.client.exceptions import ApiException
from pydantic import JsonValue

from app.clients.foreign_text import legible
from app.clients.kubernetes.answers import Answer, Metadata, Owner, Page
from app.clients.kubernetes.connection import Connection, Request
from app.clients.kubernetes.deployments import Deployment, ReplicaSet
from app.clients.kubernetes.names import checked
from app.core.errors import ActionError, PermanentError, TemporaryError
from app.core.model import JsonObject

PAGE_LIMIT = "500"
MIRROR = "kubernetes.io/config.mirror"
GONE = frozenset({404, 409})  # to a request with the pod's uid: it is not there, or another has its name
BUDGET = "DisruptionBudget"
CLOSING = "NamespaceTerminating"
MAX_WHY = 500


class Volume(Answer):
    """A volume, as far as we need it."""

    empty_dir: JsonValue = None


class PodSpec(Answer):
    """What the pod is made of."""

    volumes: tuple[Volume, ...] = ()


class PodCondition(Answer):
    """``Ready``: ``True``, ``False`` or ``Unknown``."""

    type: str
    status: str


class PodStatus(Answer):
    """How the pod is."""

    phase: str = ""
    conditions: tuple[PodCondition, ...] = ()


class Pod(Answer):
    """A pod as it is now."""

    metadata: Metadata
    spec: PodSpec
    status: PodStatus = PodStatus()

    @property
    def uid(self) -> str:
        """Which of all pods that ever had the name it is."""
        return self.metadata.uid

    @property
    def named(self) -> str:
        """``namespace/name``."""
        return f"{self.metadata.namespace}/{self.metadata.name}"

    @property
    def controller(self) -> Owner | None:
        """What would bring it back; None when nothing would."""
        return next((owner for owner in self.metadata.owner_references if owner.controller), None)

    @property
    def leaving(self) -> bool:
        """Whether it is being deleted."""
        return self.metadata.deletion_timestamp is not None

    @property
    def finished(self) -> bool:
        """Whether all of its containers have ended for good."""
        return self.status.phase in {"Succeeded", "Failed"}

    @property
    def ready(self) -> bool:
        """Whether it serves, and goes on doing so."""
        conditions = self.status.conditions
        return not self.leaving and any(one.type == "Ready" and one.status == "True" for one in conditions)

    @property
    def mirror(self) -> bool:
        """Whether it only shows a static pod, which belongs to the node alone."""
        return MIRROR in self.metadata.annotations

    @property
    def has_emptydir(self) -> bool:
        """Whether data is lost with it."""
        return any(volume.empty_dir is not None for volume in self.spec.volumes)


class PodList(Answer):
    """One page of pods."""

    kind: Literal["PodList"]
    metadata: Page
    items: tuple[Pod, ...]


class Deleted(Answer):
    """The answer to a deletion: the pod as it goes, or that it is gone."""

    kind: Literal["Pod", "Status"]


class Evicted(Answer):
    """The answer to an eviction."""

    kind: Literal["Status"]


@dataclass(frozen=True, slots=True)
class Held:
    """An eviction that is not allowed now.

    why: the disruption budget and what it needs. delay_s: how long the API asked to wait, in seconds.
    """

    why: str
    delay_s: float | None


class Pods:
    """The pods of a cluster."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is asked yet."""
        self._connection = connection

    async def of_node(self, node: str) -> tuple[Pod, ...]:
        """Those of all namespaces that are on a node; raises PermanentError (no right) or TemporaryError."""
        selector = ("fieldSelector", f"spec.nodeName={checked('node', node)}")
        return await self._list("/api/v1/pods", selector, f"the pods of node {node}")

    async def of_deployment(self, deployment: Deployment, replica_sets: Iterable[ReplicaSet]) -> tuple[Pod, ...]:
        """Those that the deployment's replica sets control: labels alone could take in others; raises as of_node."""
        namespace = checked("namespace", deployment.metadata.namespace or "")
        selector = ("labelSelector", str(deployment.spec.selector))
        found = await self._list(f"/api/v1/namespaces/{namespace}/pods", selector, f"the pods of {deployment.what}")
        controllers = {one.metadata.uid for one in replica_sets}
        return tuple(pod for pod in found if pod.controller is not None and pod.controller.uid in controllers)

    async def delete(self, pod: Pod, *, dry_run: bool = False) -> bool:
        """Delete this very pod; False when it is gone already, or replaced by another of its name.

        Raises PermanentError (no right), TemporaryError, or OutcomeUnknown when no answer came.
        """
        options: JsonObject = {"preconditions": {"uid": pod.uid}}
        if dry_run:  # beside a body, the API passes over the options in the query: it would delete
            options["dryRun"] = ["All"]
        what, right = f"pod {pod.named}", "delete pods"
        try:
            request = Request("DELETE", _path(pod), what, right, writes=True, dry_run=dry_run, body=options)
            await self._connection.ask(request, Deleted)
        except (PermanentError, TemporaryError) as error:
            if _status(error) in GONE:
                return False
            raise
        return True

    async def evict(
        self, pod: Pod, *, grace_period_s: int | None = None, dry_run: bool = False
    ) -> Literal["evicted", "gone"] | Held:
        """Evict this very pod; ``gone`` when it is not there any more, or replaced by another of its name.

        grace_period_s: None leaves it to the pod. The eviction names no version of itself, so that every server takes
        it. Raises PermanentError (no right), TemporaryError, or OutcomeUnknown when no answer came.
        """
        options: JsonObject = {"preconditions": {"uid": pod.uid}}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        named: JsonValue = {"name": pod.metadata.name, "namespace": pod.metadata.namespace}
        body: JsonValue = {"metadata": named, "deleteOptions": options}
        path, what, right = f"{_path(pod)}/eviction", f"pod {pod.named}", "create pods/eviction"
        try:
            await self._connection.ask(
                Request("POST", path, what, right, writes=True, dry_run=dry_run, body=body), Evicted
            )
        except (PermanentError, TemporaryError) as error:
            if _status(error) in GONE:
                return "gone"
            if isinstance(error, TemporaryError) and _status(error) == 429:
                return Held("; ".join(_causes(error, BUDGET)) or str(error), error.delay_s)
            if _causes(error, CLOSING):  # the pod is about to be deleted, and nothing may be made here until then
                return Held(str(error), None)
            raise
        return "evicted"

    async def _list(self, path: str, selector: tuple[str, str], what: str) -> tuple[Pod, ...]:
        found: list[Pod] = []
        query: tuple[tuple[str, str], ...] = (selector, ("limit", PAGE_LIMIT))
        while True:
            page = await self._connection.ask(Request("GET", path, what, "list pods", query=query), PodList)
            found += page.items
            if not page.metadata.continue_:
                return tuple(found)
            query = (selector, ("limit", PAGE_LIMIT), ("continue", page.metadata.continue_))


def _path(pod: Pod) -> str:
    namespace, name = checked("namespace", pod.metadata.namespace or ""), checked("pod", pod.metadata.name)
    return f"/api/v1/namespaces/{namespace}/pods/{name}"


def _status(error: ActionError) -> int | None:
    """The status of the answer that this is the translation of."""
    cause = error.__cause__
    return cause.status if isinstance(cause, ApiException) else None


def _causes(error: ActionError, reason: str) -> list[str]:
    """What the API told of a refusal, as ``The disruption budget x needs 2 healthy pods and has 2 currently``."""
    cause = error.__cause__
    try:
        causes = json.loads(cause.body or "{}")["details"]["causes"] if isinstance(cause, ApiException) else []
        return [legible(str(one["message"]))[:MAX_WHY] for one in causes if one.get("reason") == reason]
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
