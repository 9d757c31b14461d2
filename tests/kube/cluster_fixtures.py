"""Fixtures of the test cluster, for all tests: a session's cluster, a test's namespace, nodes and clients."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from cluster import Cluster
from kubelet import Kubelet
from kubernetes_asyncio import client, config

from app.clients.kubernetes import KubernetesClient


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A real control plane; a test that stops a part of it starts it again."""
    running = Cluster()
    try:
        running.start()
        yield running
    finally:
        running.remove()


@pytest.fixture
async def admin(cluster) -> AsyncIterator[client.ApiClient]:
    """The library's own client, with every right: how tests set up, and look at, the world."""
    configuration = client.Configuration()
    await config.load_kube_config(str(cluster.kubeconfig), "admin", configuration)
    async with client.ApiClient(configuration) as api:
        api.rest_client.pool_manager._trust_env = False
        yield api


@pytest.fixture
async def kubelet(admin) -> AsyncIterator[Kubelet]:
    """The nodes of this test, which carry the pods of its namespace."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    await client.CoreV1Api(admin).create_namespace({"metadata": {"name": namespace}})
    async with Kubelet(admin, namespace).running() as running:
        yield running


@pytest.fixture
def namespace(kubelet) -> str:
    """A namespace of this test's own."""
    return kubelet.namespace


@pytest.fixture
async def kubernetes_as(cluster):
    """Our client, as one of the kubeconfig's users: `kubernetes_as("nobody", timeout_s=1.0)`."""
    opened: list[KubernetesClient] = []

    def connect(user: str = "runbook-engine", **options) -> KubernetesClient:
        opened.append(KubernetesClient(kubeconfig=cluster.kubeconfig, context=user, **options))
        return opened[-1]

    yield connect
    for one in opened:
        await one.close()
