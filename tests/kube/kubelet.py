"""What stands in for the nodes of the test cluster: it places pods, says that they run, and lets them go."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import aiohttp
from kubernetes_asyncio import client
from kubernetes_asyncio.client.exceptions import ApiException

POLL_S = 0.05
NAMES_NODE = "metadata.name"


class Kubelet:
    """Two nodes of one test, and the pods of one namespace on them.

    paused: it does nothing at all. makes_ready: whether a pod that runs gets Ready. unready: the uids of pods that
    never do.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._core = client.CoreV1Api(api)
        self.namespace = namespace
        self.nodes = (f"{namespace}-1", f"{namespace}-2")
        self.paused = False
        self.makes_ready = True
        self.unready: set[str] = set()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator["Kubelet"]:
        for name in self.nodes:
            await self._core.create_node({"metadata": {"name": name}})
        running = asyncio.create_task(self._run())
        try:
            yield self
        finally:
            running.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await running
            await self._forget()

    async def _forget(self) -> None:
        """In a namespace that is being deleted nothing can be made; the API needs some seconds to empty it."""
        await self._core.delete_namespace(self.namespace)
        await self._core.delete_collection_namespaced_pod(self.namespace, grace_period_seconds=0)
        for name in self.nodes:
            await self._core.delete_node(name)

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(ApiException, aiohttp.ClientError, TimeoutError):  # changed meanwhile, or API away
                if not self.paused:
                    await self._look_once()
            await asyncio.sleep(POLL_S)

    async def _look_once(self) -> None:
        pods = (await self._core.list_namespaced_pod(self.namespace, _request_timeout=5)).items
        for pod in pods:
            if pod.metadata.deletion_timestamp is not None:
                await self._core.delete_namespaced_pod(pod.metadata.name, self.namespace, grace_period_seconds=0)
            elif pod.spec.node_name is None:
                await self._place(pod)
            elif not _is_as_wanted(pod, ready=self._makes_ready(pod)):
                await self._core.patch_namespaced_pod_status(
                    pod.metadata.name, self.namespace, _running(pod, ready=self._makes_ready(pod))
                )

    def _makes_ready(self, pod: Any) -> bool:
        return self.makes_ready and pod.metadata.uid not in self.unready

    async def _place(self, pod: Any) -> None:
        """Bind a pod to the node that it names, or to one of ours that takes pods."""
        node = _named_node(pod) or await self._open_node()
        if node not in self.nodes:
            return
        named = {"name": pod.metadata.name, "namespace": self.namespace}
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": named, "target": target}
        await self._core.create_namespaced_binding(self.namespace, binding, _preload_content=False)

    async def _open_node(self) -> str | None:
        for name in self.nodes:
            if not (await self._core.read_node(name)).spec.unschedulable:
                return name
        return None


def _named_node(pod: Any) -> str | None:
    """The node that a daemon set's pod is for."""
    affinity = pod.spec.affinity and pod.spec.affinity.node_affinity
    required = affinity and affinity.required_during_scheduling_ignored_during_execution
    for term in (required and required.node_selector_terms) or ():
        for field in term.match_fields or ():
            if field.key == NAMES_NODE:
                return str(field.values[0])
    return None


def _is_as_wanted(pod: Any, *, ready: bool) -> bool:
    """A pod that is Ready stays so, and one that has ended has ended."""
    if pod.status.phase in {"Succeeded", "Failed"}:
        return True
    is_ready = any(one.type == "Ready" and one.status == "True" for one in pod.status.conditions or ())
    return pod.status.phase == "Running" and (is_ready or not ready)


def _running(pod: Any, *, ready: bool) -> dict[str, Any]:
    said = {"status": "True" if ready else "False", "lastTransitionTime": datetime.now(UTC).isoformat()}
    conditions = [{"type": kind, **said} for kind in ("Ready", "ContainersReady")]
    containers = [
        {
            "name": one.name,
            "image": one.image,
            "imageID": one.image,
            "ready": ready,
            "restartCount": 0,
            "state": {"running": {}},
        }
        for one in pod.spec.containers
    ]
    return {"status": {"phase": "Running", "conditions": conditions, "containerStatuses": containers}}
