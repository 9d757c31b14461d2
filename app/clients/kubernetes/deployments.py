"""Deployments and the revisions that their replica sets keep."""

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, JsonValue, field_validator

from app.clients.kubernetes.answers import Answer, Metadata, Page, Selector
from app.clients.kubernetes.connection import Connection, Request
from app.clients.kubernetes.names import apps_path, deployment_path
from app.clients.kubernetes.refusals import refused_with
from app.core.errors import PermanentError
from app.core.model import JsonObject

HASH_LABEL = "pod-template-hash"
REVISION = "deployment.kubernetes.io/revision"
CHANGE_CAUSE = "kubernetes.io/change-cause"
PAGE_LIMIT = "250"


class Container(Answer):
    """A container of a pod template, as far as it tells revisions apart."""

    name: str
    image: str = ""


class PodSpec(Answer):
    """The containers of a pod template."""

    containers: tuple[Container, ...]
    init_containers: tuple[Container, ...] = ()


class PodTemplate(Answer):
    """A pod template, read."""

    spec: PodSpec


class DeploymentSpec(Answer):
    """What a deployment asks for; its template is kept as the API writes it."""

    selector: Selector
    template: JsonObject
    replicas: int = 0
    paused: bool = False
    revision_history_limit: int = 10


class Deployment(Answer):
    """A deployment."""

    kind: Literal["Deployment"]
    metadata: Metadata
    spec: DeploymentSpec

    @property
    def what(self) -> str:
        """How messages call it."""
        return f"deployment {self.metadata.namespace}/{self.metadata.name}"


class ReplicaSetSpec(Answer):
    """A replica set's template, with the label that tells its pods from those of others."""

    template: JsonObject

    @field_validator("template")
    @classmethod
    def _has_containers(cls, value: JsonObject) -> JsonObject:
        PodTemplate.model_validate(value)
        return value


class ReplicaSet(Answer):
    """A replica set: one revision of a deployment."""

    metadata: Metadata
    spec: ReplicaSetSpec

    @property
    def revision(self) -> int:
        """The number of the revision; moves up when the deployment goes back to it. 0: not numbered yet."""
        number = self.metadata.annotations.get(REVISION, "")
        return int(number) if number.isascii() and number.isdigit() else 0

    @property
    def template_hash(self) -> str:
        """The ``pod-template-hash`` of its pods; stays as it is."""
        return self.metadata.labels.get(HASH_LABEL, "")

    @property
    def change_cause(self) -> str | None:
        """Why this revision was made, where somebody said so."""
        return self.metadata.annotations.get(CHANGE_CAUSE)

    def template(self) -> JsonObject:
        """The template as the deployment had it: without the hash."""
        template = self.spec.template
        metadata = template.get("metadata")
        if not isinstance(metadata, dict) or not isinstance(labels := metadata.get("labels"), dict):
            return template
        plain: JsonObject = {name: value for name, value in labels.items() if name != HASH_LABEL}
        return {**template, "metadata": {**metadata, "labels": plain}}

    def images(self) -> Mapping[str, str]:
        """The image of each container, by the container's name."""
        spec = PodTemplate.model_validate(self.spec.template).spec
        return {one.name: one.image for one in (*spec.init_containers, *spec.containers)}


class ReplicaSetList(Answer):
    """A page of replica sets."""

    kind: Literal["ReplicaSetList"]
    metadata: Page
    items: Annotated[tuple[ReplicaSet, ...], Field(default_factory=tuple)]


class Deployments:
    """The deployments of a cluster."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is asked yet."""
        self._connection = connection

    async def read(self, namespace: str, deployment: str) -> Deployment:
        """A deployment as it is now; raises PermanentError (no such deployment, no right) or TemporaryError."""
        path, what = deployment_path(namespace, deployment), f"deployment {namespace}/{deployment}"
        return await self._connection.ask(Request("GET", path, what, "get deployments"), Deployment)

    async def replica_sets(self, deployment: Deployment) -> tuple[ReplicaSet, ...]:
        """Those that the deployment controls, the newest revision first; raises as read."""
        path = f"{apps_path(deployment.metadata.namespace or '')}/replicasets"
        what = f"the replica sets of {deployment.what}"
        query = (("labelSelector", str(deployment.spec.selector)), ("limit", PAGE_LIMIT))
        found: list[ReplicaSet] = []
        following = ""
        while True:
            page_query = (*query, ("continue", following)) if following else query
            request = Request("GET", path, what, "list replicasets", query=page_query)
            page = await self._connection.ask(request, ReplicaSetList)
            found.extend(one for one in page.items if one.metadata.controlled_by(deployment.metadata.uid))
            following = page.metadata.continue_
            if not following:
                return tuple(sorted(found, key=lambda one: one.revision, reverse=True))

    async def go_back(self, found: Deployment, to: ReplicaSet, *, dry_run: bool = False) -> Deployment:
        """Give the deployment that was found the template of a revision, if it still is the same with the same one.

        What is tested is the template itself: a test of the resourceVersion would fail whenever the deployment's
        status or count changed, which they do all the time while pods move, and neither makes another plan. Raises
        PermanentError when the template is another one, and as read; OutcomeUnknown when no answer came.
        """
        namespace, name = found.metadata.namespace or "", found.metadata.name
        path, right = deployment_path(namespace, name), "patch deployments"
        patch: JsonValue = [
            {"op": "test", "path": "/metadata/uid", "value": found.metadata.uid},
            {"op": "test", "path": "/spec/template", "value": found.spec.template},
            {"op": "replace", "path": "/spec/template", "value": to.template()},
            *_cause_patch(found, to),
        ]
        try:
            request = Request("PATCH", path, found.what, right, writes=True, dry_run=dry_run, body=patch)
            return await self._connection.ask(request, Deployment)
        except PermanentError as error:
            if refused_with(error, 422) and (await self.read(namespace, name)).spec.template != found.spec.template:
                raise PermanentError(f"{found.what} was not changed: somebody else has changed its template") from error
            raise


def _cause_patch(found: Deployment, to: ReplicaSet) -> list[JsonValue]:
    """Why the revision was made goes with it; all other annotations stay, for they tell nothing about a template."""
    path = f"/metadata/annotations/{CHANGE_CAUSE.replace('/', '~1')}"
    cause = found.metadata.annotations.get(CHANGE_CAUSE)
    if to.change_cause == cause or not found.metadata.annotations:
        return []
    if to.change_cause is None:
        return [{"op": "remove", "path": path}]
    return [{"op": "add", "path": path, "value": to.change_cause}]
