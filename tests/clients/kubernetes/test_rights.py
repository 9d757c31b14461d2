import pytest
from aiohttp import web

from app.clients.kubernetes import Right
from app.core.errors import PermanentError, TemporaryError

GET_NODES = Right("get", "nodes")


def scale_right(verb: str, namespace: str, name: str = "web") -> Right:
    return Right(verb, "deployments/scale", "apps", namespace, name)


async def test_the_manifest_gives_all_that_the_steps_need(kubernetes_as, namespace):
    names = {"group": "apps", "namespace": namespace}
    rights = [Right(verb, what, **names) for what in ("deployments", "deployments/scale") for verb in ("get", "patch")]
    pods = [Right(verb, "pods") for verb in ("list", "delete")]
    nodes = [Right(verb, "nodes", name="any") for verb in ("get", "patch")]
    evict, replica_sets = Right("create", "pods/eviction", namespace=namespace), Right("list", "replicasets", **names)
    await kubernetes_as("runbook-engine").require_rights(*rights, *pods, *nodes, evict, replica_sets)


@pytest.mark.parametrize(
    "right",
    [
        Right("get", "secrets"),
        Right("list", "configmaps"),
        Right("delete", "deployments", "apps"),
        Right("update", "nodes"),
        Right("create", "pods"),
        Right("create", "pods/exec"),
    ],
)
async def test_the_manifest_gives_nothing_else(kubernetes_as, cluster, right):
    with pytest.raises(PermanentError, match="is missing"):
        await kubernetes_as("runbook-engine").require_rights(right)


async def test_every_missing_right_is_named(kubernetes_as, namespace, grant):
    await grant("deployments/scale", "get")
    rights = [scale_right("get", namespace), scale_right("patch", namespace), GET_NODES]
    missing = (
        f"the right to patch deployments/scale in namespace {namespace} is missing; the right to get nodes is miss"
    )
    with pytest.raises(PermanentError, match=f"^{missing}ing$"):
        await kubernetes_as("nobody").require_rights(*rights)


async def test_a_right_for_one_object_is_one_for_that_object_only(kubernetes_as, namespace, grant):
    await grant("deployments/scale", "get", names=("web",))
    nobody = kubernetes_as("nobody")
    await nobody.require_rights(scale_right("get", namespace))
    with pytest.raises(PermanentError, match="is missing"):
        await nobody.require_rights(scale_right("get", namespace, "other"))


async def test_a_right_that_is_given_counts_at_once(kubernetes_as, namespace, grant):
    nobody, right = kubernetes_as("nobody"), scale_right("get", namespace)
    with pytest.raises(PermanentError):
        await nobody.require_rights(right)
    await grant("deployments/scale", "get")
    await nobody.require_rights(right)


async def test_an_unknown_token_is_said_to_be(kubernetes_as, cluster):
    with pytest.raises(PermanentError, match="renew the credentials"):
        await kubernetes_as("stranger").require_rights(GET_NODES)


@pytest.fixture
def reviewing(aiohttp_server, connect):
    """An API whose answers to reviews, by verb, a test gives and counts."""

    async def start(answers, monotonic):
        async def review(request: web.Request) -> web.Response:
            asked.append((await request.json())["spec"]["resourceAttributes"]["verb"])
            code, allowed = answers[asked[-1]]
            return web.json_response({"kind": "SelfSubjectAccessReview", "status": {"allowed": allowed}}, status=code)

        asked: list[str] = []
        application = web.Application()
        application.router.add_post("/{path:.*}", review)
        server = await aiohttp_server(application)
        return connect(str(server.make_url("")).rstrip("/"), monotonic=monotonic), asked

    return start


async def test_a_right_that_we_had_is_asked_for_again_after_30_seconds(reviewing):
    now = 1000.0
    client, asked = await reviewing({"get": (201, True), "patch": (201, False)}, lambda: now)
    for _ in range(2):
        await client.require_rights(GET_NODES)
    assert asked == ["get"]
    now += 30.0
    await client.require_rights(GET_NODES)
    assert asked == ["get", "get"]


async def test_a_review_that_fails_is_no_missing_right(reviewing):
    client, _ = await reviewing({"get": (201, False), "patch": (500, False)}, lambda: 0.0)
    with pytest.raises(TemporaryError, match="failed with 500"):
        await client.require_rights(GET_NODES, Right("patch", "nodes"))
