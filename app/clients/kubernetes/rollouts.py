"""Rollouts: a deployment that replaces its pods by its own rules, and how far it is."""

from typing import Literal

from pydantic import JsonValue

from app.clients.kubernetes.answers import Answer, Metadata
from app.clients.kubernetes.connection import Connection, Request
from app.clients.kubernetes.names import deployment_path
from app.clients.kubernetes.refusals import refused_with
from app.core.errors import PermanentError

RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"


class Versioned(Metadata):
    """With the number of what is asked for; it moves up with every change of the spec."""

    generation: int


class TemplateMetadata(Answer):
    """The annotations of a pod template; None when it has no place for them."""

    annotations: dict[str, str] | None = None


class Template(Answer):
    """A pod template, as far as a restart goes; its metadata holds at least the labels that the selector takes."""

    metadata: TemplateMetadata


class RolloutSpec(Answer):
    """What is asked for."""

    template: Template
    replicas: int = 0
    paused: bool = False


class RolloutCondition(Answer):
    """``Progressing``, ``Available`` or ``ReplicaFailure``."""

    type: str
    status: str
    reason: str = ""


class RolloutStatus(Answer):
    """How far it is; counts that are 0 are left out."""

    observed_generation: int = 0
    replicas: int = 0
    updated_replicas: int = 0
    available_replicas: int = 0
    conditions: tuple[RolloutCondition, ...] = ()


class Rollout(Answer):
    """A deployment, seen as what rolls out its pods."""

    kind: Literal["Deployment"]
    metadata: Versioned
    spec: RolloutSpec
    status: RolloutStatus = RolloutStatus()

    @property
    def restarted_at(self) -> str | None:
        """What the last rolling restart left in the pods' annotations."""
        return (self.spec.template.metadata.annotations or {}).get(RESTARTED_AT)

    @property
    def seen(self) -> bool:
        """Whether the status is about what is asked for now."""
        return self.status.observed_generation >= self.metadata.generation

    @property
    def complete(self) -> bool:
        """Whether all pods are of what is asked for now, and serve; as ``kubectl rollout status`` has it."""
        status = self.status
        counts = {status.replicas, status.updated_replicas, status.available_replicas}
        return self.seen and counts == {self.spec.replicas}

    @property
    def stuck(self) -> bool:
        """Whether the deployment's own deadline for progress is over."""
        return self.seen and any(
            one.type == "Progressing" and one.reason == "ProgressDeadlineExceeded" for one in self.status.conditions
        )


class Rollouts:
    """The rollouts of a cluster's deployments."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is asked yet."""
        self._connection = connection

    async def read(self, namespace: str, deployment: str) -> Rollout:
        """The rollout as it is now; raises PermanentError (no such deployment, no right) or TemporaryError."""
        path, what = deployment_path(namespace, deployment), f"deployment {namespace}/{deployment}"
        return await self._connection.ask(Request("GET", path, what, "get deployments"), Rollout)

    async def restart(self, found: Rollout, mark: str, *, dry_run: bool = False) -> None:
        """Have all pods made anew, with the mark in their annotations, if none was restarted since it was found.

        Raises PermanentError when one was, and as read; OutcomeUnknown when no answer came.
        """
        namespace, name = found.metadata.namespace or "", found.metadata.name
        what, right = f"deployment {namespace}/{name}", "patch deployments"
        patch = _patch(found, mark)
        try:
            path = deployment_path(namespace, name)
            request = Request("PATCH", path, what, right, writes=True, dry_run=dry_run, body=patch)
            await self._connection.ask(request, Rollout)
        except PermanentError as error:
            if not refused_with(error, 422):
                raise
            check_not_restarted(await self.read(namespace, name), found.restarted_at)
            raise


def check_not_restarted(rollout: Rollout, before: str | None) -> None:
    """Raises PermanentError that says both values when the last restart is another one."""
    if rollout.restarted_at != before:
        raise PermanentError(
            f"somebody else restarted {rollout.metadata.namespace}/{rollout.metadata.name}: "
            f"{RESTARTED_AT} was {before}, and is {rollout.restarted_at}"
        )


def _patch(found: Rollout, mark: str) -> list[JsonValue]:
    """The patch that holds its own precondition; a field that is left out tests equal to null."""
    place, key = "/spec/template/metadata/annotations", RESTARTED_AT.replace("/", "~1")
    same: JsonValue = {"op": "test", "path": "/metadata/uid", "value": found.metadata.uid}
    if found.spec.template.metadata.annotations is None:
        return [
            same,
            {"op": "test", "path": place, "value": None},
            {"op": "add", "path": place, "value": {RESTARTED_AT: mark}},
        ]
    return [
        same,
        {"op": "test", "path": f"{place}/{key}", "value": found.restarted_at},
        {"op": "add", "path": f"{place}/{key}", "value": mark},
    ]
