"""The test cluster itself: pods come, get Ready and go, and its parts come back on the same data."""

import pytest
from kubernetes_asyncio import client
from waiting import until


def deployment(name: str, replicas: int = 2) -> dict:
    labels = {"app": name}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "main", "image": "example/app:1"}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"metadata": {"name": name}, "spec": spec}


async def test_pods_get_ready_unless_the_kubelet_does_not_let_them(admin, kubelet, namespace):
    apps, core = client.AppsV1Api(admin), client.CoreV1Api(admin)

    async def ready(count: int) -> bool:
        return (await apps.read_namespaced_deployment("web", namespace)).status.ready_replicas == count

    await apps.create_namespaced_deployment(namespace, deployment("web"))
    await until(lambda: ready(2))
    kubelet.makes_ready = False
    gone = (await core.list_namespaced_pod(namespace)).items[0].metadata.name
    await core.delete_namespaced_pod(gone, namespace)

    async def replaced() -> bool:
        pods = (await core.list_namespaced_pod(namespace)).items
        return len(pods) == 2 and all(pod.status.phase == "Running" and pod.metadata.name != gone for pod in pods)

    await until(replaced)
    assert await ready(1)
    kubelet.makes_ready = True
    await until(lambda: ready(2))


async def test_the_api_comes_back_with_its_data(admin, cluster, namespace):
    with cluster.without_api(), pytest.raises(OSError, match="refused"):
        cluster.ask("/readyz")
    assert (await client.CoreV1Api(admin).read_namespace(namespace)).status.phase == "Active"
