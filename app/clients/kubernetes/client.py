"""One cluster, as the actions see it: each kind of object has its module, and all share one connection."""

import time
from collections.abc import Callable
from pathlib import Path

from app.clients.kubernetes.connection import Connection
from app.clients.kubernetes.deployments import Deployment, Deployments, ReplicaSet
from app.clients.kubernetes.nodes import Nodes
from app.clients.kubernetes.pods import Pods
from app.clients.kubernetes.rights import Right, Rights
from app.clients.kubernetes.rollouts import Rollouts
from app.clients.kubernetes.scales import Scale, Scales


class KubernetesClient:
    """One cluster; off when neither a kubeconfig nor in_cluster is given."""

    def __init__(
        self,
        *,
        kubeconfig: Path | None = None,
        context: str | None = None,
        in_cluster: bool = False,
        timeout_s: float = 10.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing connects yet; timeout_s bounds every request."""
        self._connection = Connection(
            kubeconfig=kubeconfig, context=context, in_cluster=in_cluster, timeout_s=timeout_s
        )
        self._rights = Rights(self._connection, monotonic)
        self._deployments = Deployments(self._connection)
        self._scales = Scales(self._connection)
        self.nodes = Nodes(self._connection)
        self.pods = Pods(self._connection)
        self.rollouts = Rollouts(self._connection)

    async def close(self) -> None:
        """Close the session."""
        await self._connection.close()

    async def require_rights(self, *rights: Right) -> None:
        """Return when we have them all; raises PermanentError naming those that are missing, or TemporaryError."""
        await self._rights.require(*rights)

    async def read_scale(self, namespace: str, deployment: str) -> Scale:
        """A deployment's scale; raises as Scales.read."""
        return await self._scales.read(namespace, deployment)

    async def set_scale(
        self, namespace: str, deployment: str, *, replicas: int, expected_replicas: int, dry_run: bool = False
    ) -> Scale:
        """Set a deployment's replica count if it still is expected_replicas; raises as Scales.set."""
        return await self._scales.set(
            namespace, deployment, replicas=replicas, expected_replicas=expected_replicas, dry_run=dry_run
        )

    async def read_deployment(self, namespace: str, deployment: str) -> Deployment:
        """A deployment; raises as Deployments.read."""
        return await self._deployments.read(namespace, deployment)

    async def read_replica_sets(self, deployment: Deployment) -> tuple[ReplicaSet, ...]:
        """A deployment's revisions, the newest first; raises as Deployments.replica_sets."""
        return await self._deployments.replica_sets(deployment)

    async def go_back(self, found: Deployment, to: ReplicaSet, *, dry_run: bool = False) -> Deployment:
        """Give a deployment the template of one of its revisions; raises as Deployments.go_back."""
        return await self._deployments.go_back(found, to, dry_run=dry_run)
