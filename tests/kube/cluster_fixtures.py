"""Fixtures of the test cluster, for all tests: a session's cluster, a test's namespace, nodes and clients."""

import uuid
from collections.abc import AsyncIterator, Iterator

import pytest
from cluster import Cluster
from fleet import Fleet
from kubelet import Kubelet
from kubernetes_asyncio import client, config
from lossy import LossyLine
from waiting import until
from world import World

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
        given = {"kubeconfig": cluster.kubeconfig, "context": user, **options}
        opened.append(KubernetesClient(**given))
        return opened[-1]

    yield connect
    for one in opened:
        await one.close()


@pytest.fixture
async def lossy(cluster, tmp_path) -> AsyncIterator[LossyLine]:
    """A line to the API; its kubeconfig is that of a client whose answers can be lost."""
    async with LossyLine().towards(cluster.port) as line:
        line.kubeconfig = tmp_path / "lossy-kubeconfig"
        line.kubeconfig.write_text(cluster.kubeconfig.read_text().replace(cluster.url, line.url))
        yield line


@pytest.fixture
def world(admin, namespace) -> World:
    """Deployments to act on."""
    return World(admin, namespace)


@pytest.fixture
def fleet(admin, kubelet) -> Fleet:
    """Nodes and pods to act on, in the test cluster."""
    return Fleet(admin, kubelet)


@pytest.fixture
async def released(world, fleet):
    """The deployment "web": two pods that are Ready, at its second revision."""
    await world.create(replicas=2)
    await world.release("example/app:2")
    await world.ready(2)
    await until(lambda: fleet.all_run(2))
    return world


@pytest.fixture
def in_cluster(with_client, kubernetes_as):
    """The scene of an action in the real cluster, as one of its users: `in_cluster("nobody")`."""
    return lambda user="runbook-engine", **options: with_client(kubernetes=kubernetes_as(user, **options))


@pytest.fixture
async def grant(admin, cluster, namespace):
    """Give nobody a right in the test's namespace: `await grant("deployments/scale", "get")`."""
    rbac = client.RbacAuthorizationV1Api(admin)

    async def give(resource: str, *verbs: str, group: str = "apps", names: tuple[str, ...] = ()) -> None:
        rule = {"apiGroups": [group], "resources": [resource], "verbs": list(verbs), "resourceNames": list(names)}
        named = {"metadata": {"name": f"grant-{uuid.uuid4().hex[:8]}"}}
        role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": named["metadata"]["name"]}
        user = {"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "nobody"}
        await rbac.create_namespaced_role(namespace, {**named, "rules": [rule]})
        await rbac.create_namespaced_role_binding(namespace, {**named, "roleRef": role, "subjects": [user]})
        kind, _, part = resource.partition("/")
        attributes = {"namespace": namespace, "group": group, "resource": kind, "subresource": part, "verb": verbs[0]}
        await until(lambda: arrived({**attributes, "name": names[0] if names else ""}))

    async def arrived(attributes: dict[str, str]) -> bool:
        return cluster.allows("nobody", attributes)

    return give


@pytest.fixture
async def forbid(admin, namespace):
    """Have the API refuse what does not fit, in the test's namespace: `await forbid("deployments", cel, message)`."""
    admission = client.AdmissionregistrationV1Api(admin)
    name = f"forbid-{namespace}"

    async def refuse(resource: str, expression: str, message: str) -> None:
        rule = {"apiGroups": ["apps"], "apiVersions": ["v1"], "operations": ["UPDATE"], "resources": [resource]}
        own = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}}}
        validation = {"expression": expression, "message": message}
        policy = {"matchConstraints": {"resourceRules": [rule], **own}, "validations": [validation]}
        binding = {"policyName": name, "validationActions": ["Deny"]}
        await admission.create_validating_admission_policy({"metadata": {"name": name}, "spec": policy})
        await admission.create_validating_admission_policy_binding({"metadata": {"name": name}, "spec": binding})

    yield refuse
    await admission.delete_validating_admission_policy_binding(name)
    await admission.delete_validating_admission_policy(name)
