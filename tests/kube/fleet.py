"""The nodes and the pods of a test, as their owner sees and changes them."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any

from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException
from waiting import until

MIRROR = {"kubernetes.io/config.mirror": "of a static pod"}


class Fleet:
    """The pods of a test's namespace, and the two nodes that carry them; pods are placed on the first that is open."""

    def __init__(self, api: client.ApiClient, kubelet) -> None:
        self._api = api
        self._core = client.CoreV1Api(api)
        self._policy = client.PolicyV1Api(api)
        self.kubelet = kubelet
        self.namespace = kubelet.namespace
        self.node, self.other_node = kubelet.nodes

    async def pods(self, app: str | None = None) -> dict[str, str]:
        """The uid of each pod that is not going, by name."""
        selector = {} if app is None else {"label_selector": f"app={app}"}
        found = (await self._core.list_namespaced_pod(self.namespace, **selector)).items
        return {pod.metadata.name: pod.metadata.uid for pod in found if pod.metadata.deletion_timestamp is None}

    async def all(self) -> list[dict]:
        """Every pod, whole."""
        found = (await self._core.list_namespaced_pod(self.namespace)).items
        return self._api.sanitize_for_serialization(sorted(found, key=lambda pod: pod.metadata.name))

    async def all_run(self, count: int) -> bool:
        """Whether there are that many pods, all running, Ready or not."""
        phases = [pod["status"]["phase"] for pod in await self.all()]
        return phases == ["Running"] * count

    async def pod(self, name: str) -> Any:
        return await self._core.read_namespaced_pod(name, self.namespace)

    async def unschedulable(self) -> list[bool]:
        """Whether each of the two nodes is cordoned."""
        found = [await self._core.read_node(name) for name in (self.node, self.other_node)]
        return [bool(node.spec.unschedulable) for node in found]

    async def nodes_of_pods(self) -> set[str]:
        """Where the pods are."""
        return {pod["spec"].get("nodeName") for pod in await self.all()}

    async def runs_on(self, nodes: set[str]) -> bool:
        """Whether each pod has a node, and these are all of them: what a rollout adds has none for a while."""
        return await self.nodes_of_pods() == nodes

    async def add_pod(self, name: str, *, volumes: tuple = (), annotations: dict | None = None, **labels: str) -> str:
        """A pod that nothing would bring back, running on the node; its uid."""
        metadata = {"name": name, "labels": labels, "annotations": annotations or {}}
        spec = {"containers": [{"name": "main", "image": "example/app:1"}], "volumes": list(volumes)}
        body = {"metadata": metadata, "spec": {**spec, "nodeName": self.node}}
        await self._core.create_namespaced_pod(self.namespace, body)
        await self.phase(name, "Running")
        return (await self.pod(name)).metadata.uid

    @contextlib.asynccontextmanager
    async def closing_namespace(self, pod: str) -> AsyncIterator[str]:
        """A namespace that is being deleted, with a pod on the node that takes its time to go."""
        name = f"{self.namespace}-closing"
        spec = {"containers": [{"name": "main", "image": "example/app:1"}], "nodeName": self.node}
        await self._core.create_namespace({"metadata": {"name": name}})
        await self._core.create_namespaced_pod(name, {"metadata": {"name": pod}, "spec": spec})
        await self._core.delete_namespace(name)
        yield name
        with contextlib.suppress(ApiException):  # it may have gone by itself
            await self._core.delete_namespaced_pod(pod, name, grace_period_seconds=0)

    async def phase(self, name: str, phase: str) -> None:
        async def reached() -> bool:
            return (await self.pod(name)).status.phase == phase

        await until(reached)

    async def finish(self, name: str) -> None:
        """All containers of a pod have ended well."""
        await self._core.patch_namespaced_pod_status(name, self.namespace, {"status": {"phase": "Succeeded"}})

    async def delete(self, name: str) -> None:
        """Somebody else deletes a pod, and it goes."""
        await self._core.delete_namespaced_pod(name, self.namespace, grace_period_seconds=0)

    async def remove_deployment(self, name: str = "web") -> None:
        """Delete a deployment with its pods, and wait until all of it is gone."""
        apps = client.AppsV1Api(self._api)
        await apps.delete_namespaced_deployment(name, self.namespace, propagation_policy="Foreground")

        async def gone() -> bool:
            return not (await apps.list_namespaced_deployment(self.namespace)).items

        await until(gone)

    async def add_daemons(self, name: str = "agent") -> None:
        """A daemon set, with a pod running on each node."""
        labels = {"app": name}
        pods = {"containers": [{"name": "main", "image": "example/agent:1"}], "tolerations": [{"operator": "Exists"}]}
        template = {"metadata": {"labels": labels}, "spec": pods}  # nodes without a real kubelet are tainted not-ready
        spec = {"selector": {"matchLabels": labels}, "template": template}
        await client.AppsV1Api(self._api).create_namespaced_daemon_set(
            self.namespace, {"metadata": {"name": name}, "spec": spec}
        )

        async def running() -> bool:
            found = await self._core.list_namespaced_pod(self.namespace, label_selector=f"app={name}")
            return {pod.spec.node_name for pod in found.items if pod.status.phase == "Running"} >= set(
                self.kubelet.nodes
            )

        await until(running)

    async def add_budget(self, app: str, *, max_unavailable: int = 0) -> None:
        """A disruption budget that is in force."""
        spec = {"maxUnavailable": max_unavailable, "selector": {"matchLabels": {"app": app}}}
        await self._policy.create_namespaced_pod_disruption_budget(
            self.namespace, {"metadata": {"name": f"{app}-budget"}, "spec": spec}
        )

        async def in_force() -> bool:
            found = await self._policy.read_namespaced_pod_disruption_budget(f"{app}-budget", self.namespace)
            return bool(found.status and found.status.observed_generation and found.status.current_healthy)

        await until(in_force)

    async def allow(self, app: str, max_unavailable: int) -> None:
        """Change a disruption budget."""
        patch = {"spec": {"maxUnavailable": max_unavailable}}
        await self._policy.patch_namespaced_pod_disruption_budget(f"{app}-budget", self.namespace, patch)

    async def node_object(self, name: str | None = None) -> dict:
        """All that a node asks for and says of itself."""
        return self._api.sanitize_for_serialization(await self._core.read_node(name or self.node))

    async def cordoned(self) -> bool:
        return (await self.node_object())["spec"].get("unschedulable", False)

    async def mark(self, *, unschedulable: bool) -> None:
        """Cordon or uncordon the node by hand."""
        await self._core.patch_node(self.node, {"spec": {"unschedulable": unschedulable}})

    async def make_node_anew(self) -> None:
        """Another machine under the same name."""
        await self._core.delete_node(self.node)
        await self._core.create_node({"metadata": {"name": self.node}})
