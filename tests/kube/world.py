"""What a test's namespace holds, made and changed by hand: by the person who owns it, not by us."""

from kubernetes_asyncio import client
from waiting import until


class World:
    """The deployments of a test's namespace, as their owner sees and changes them."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._apps = client.AppsV1Api(api)
        self.namespace = namespace

    async def create(self, name: str = "web", *, replicas: int = 1, image: str = "example/app:1", **spec) -> None:
        """Make a deployment, and wait until its controller has seen it."""
        labels = {"app": name}
        pods = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": image}]}}
        whole = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": pods, **spec}
        await self._apps.create_namespaced_deployment(self.namespace, {"metadata": {"name": name}, "spec": whole})
        await self.settled(name)

    async def change(self, name: str = "web", *, cause: str | None = None, settles: bool = True, **spec) -> None:
        """Change it by hand, and wait until its controller has seen that."""
        metadata = {} if cause is None else {"annotations": {"kubernetes.io/change-cause": cause}}
        body = {"metadata": metadata, "spec": spec}
        await self._apps.patch_namespaced_deployment(name, self.namespace, body)
        if settles:
            await self.settled(name)

    async def release(self, image: str, **how) -> None:
        """Roll out another image of "web"."""
        await self.change(template={"spec": {"containers": [{"name": "main", "image": image}]}}, **how)

    async def annotate(self, **annotations: str) -> None:
        body = {"metadata": {"annotations": annotations}}
        await self._apps.patch_namespaced_deployment("web", self.namespace, body)

    async def delete(self) -> None:
        """Delete "web", and wait until it is gone."""
        await self._apps.delete_namespaced_deployment("web", self.namespace)

        async def gone() -> bool:
            return not (await self._apps.list_namespaced_deployment(self.namespace)).items

        await until(gone)

    async def settled(self, name: str = "web") -> None:
        """The controller has seen the latest change, and numbered its revision."""

        async def seen() -> bool:
            found = await self._apps.read_namespaced_deployment(name, self.namespace)
            return found.status.observed_generation == found.metadata.generation

        await until(seen)

    async def deployment(self, name: str = "web") -> dict:
        """All that it asks for and says of itself: everything but its status."""
        found = await self._apps.read_namespaced_deployment(name, self.namespace)
        whole = self._apps.api_client.sanitize_for_serialization(found)
        kept = {
            key: value for key, value in whole["metadata"].items() if key not in {"managedFields", "resourceVersion"}
        }
        return {"metadata": kept, "spec": whole["spec"]}

    async def ready(self, count: int, name: str = "web") -> None:
        """Wait until that many of its pods are Ready."""

        async def counted() -> bool:
            found = await self._apps.read_namespaced_deployment(name, self.namespace)
            return found.status.ready_replicas == count

        await until(counted)

    async def has_replicas(self, count: int) -> None:
        """Wait until that many are asked for."""

        async def counted() -> bool:
            return await self.replicas() == count

        await until(counted)

    async def has_image(self, image: str) -> None:
        """Wait until that one is asked for."""

        async def seen() -> bool:
            return await self.image() == image

        await until(seen)

    async def writers(self) -> set[str]:
        """Who has written to "web", as the API names them."""
        found = await self._apps.read_namespaced_deployment("web", self.namespace)
        return {entry.manager for entry in found.metadata.managed_fields}

    async def replicas(self, name: str = "web") -> int:
        return (await self.deployment(name))["spec"]["replicas"]

    async def image(self, name: str = "web") -> str:
        return (await self.deployment(name))["spec"]["template"]["spec"]["containers"][0]["image"]
