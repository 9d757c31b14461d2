"""How many replicas a deployment has."""

from typing import Literal

from pydantic import JsonValue

from app.clients.kubernetes.answers import Answer, Metadata
from app.clients.kubernetes.connection import Connection, Request
from app.clients.kubernetes.names import deployment_path
from app.clients.kubernetes.refusals import refused_with
from app.core.errors import PermanentError


class ScaleSpec(Answer):
    """The count; the field is left out when it is 0."""

    replicas: int = 0


class Scale(Answer):
    """A deployment's scale: how many replicas are asked for, and the version of the object that said so."""

    kind: Literal["Scale"]
    metadata: Metadata
    spec: ScaleSpec

    @property
    def replicas(self) -> int:
        """How many are asked for."""
        return self.spec.replicas


class Scales:
    """The scales of a cluster's deployments."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is asked yet."""
        self._connection = connection

    async def read(self, namespace: str, deployment: str) -> Scale:
        """The scale as it is now; raises PermanentError (no such deployment, no right) or TemporaryError."""
        path, what = deployment_path(namespace, deployment) + "/scale", f"deployment {namespace}/{deployment}"
        return await self._connection.ask(Request("GET", path, what, "get deployments/scale"), Scale)

    async def set(
        self, namespace: str, deployment: str, *, replicas: int, expected_replicas: int, dry_run: bool = False
    ) -> Scale:
        """Set the count if it still is expected_replicas: tested and replaced by the API in one request.

        Raises PermanentError naming both counts when it is another one, and as read; OutcomeUnknown when no answer
        came.
        """
        path, what = deployment_path(namespace, deployment) + "/scale", f"deployment {namespace}/{deployment}"
        patch, right = _patch(replicas, expected_replicas), "patch deployments/scale"
        try:
            request = Request("PATCH", path, what, right, writes=True, dry_run=dry_run, body=patch)
            return await self._connection.ask(request, Scale)
        except PermanentError as error:
            if not refused_with(error, 422):
                raise
            _check_count(what, (await self.read(namespace, deployment)).replicas, expected_replicas)
            raise


def _patch(replicas: int, expected_replicas: int) -> JsonValue:
    """The patch that holds its own precondition; a count of 0 is left out of the document, and cannot be tested."""
    if expected_replicas == 0:
        return [
            {"op": "test", "path": "/spec", "value": {}},
            {"op": "replace", "path": "/spec", "value": {"replicas": replicas}},
        ]
    return [
        {"op": "test", "path": "/spec/replicas", "value": expected_replicas},
        {"op": "replace", "path": "/spec/replicas", "value": replicas},
    ]


def _check_count(what: str, found: int, expected: int) -> None:
    if found != expected:
        raise PermanentError(f"{what} was not changed: it has {found} replicas, and {expected} were expected")
