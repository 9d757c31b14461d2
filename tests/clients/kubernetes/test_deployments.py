"""How deployments and their revisions are read and written; going back in a real cluster is the action's test."""

import pytest
from aiohttp import web

from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError

UID = "d-1"
TEMPLATE = {
    "metadata": {"labels": {"app": "a"}},
    "spec": {"containers": [{"name": "main", "image": "a:1", "newer": 1}]},
}


def metadata(name: str, uid: str, **fields) -> dict:
    return {"name": name, "namespace": "n", "uid": uid, "resourceVersion": "7", **fields}


def a_deployment(**spec) -> dict:
    return {
        "kind": "Deployment",
        "metadata": metadata("a", UID),
        "spec": {"selector": {"matchLabels": {"app": "a"}}, "template": TEMPLATE, **spec},
    }


def a_replica_set(number: str | None, owner: str = UID) -> dict:
    labels = {"app": "a", "pod-template-hash": f"h{number}"}
    annotations = {} if number is None else {"deployment.kubernetes.io/revision": number}
    owners = [{"kind": "Deployment", "name": "a", "uid": owner, "controller": True}]
    template = {**TEMPLATE, "metadata": {"labels": labels}}
    about = metadata(f"a-{number}", f"r-{number}", labels=labels, annotations=annotations, ownerReferences=owners)
    return {"metadata": about, "spec": {"template": template}}


def a_list(*items: dict, following: str = "") -> dict:
    return {"kind": "ReplicaSetList", "metadata": {"continue": following}, "items": list(items)}


@pytest.fixture
async def api(aiohttp_server, connect):
    """A client, the answers that its API gives to each method and kind of object, and what was asked of it."""

    class Api:
        def __init__(self) -> None:
            self.answers: dict[str, list] = {}
            self.queries: list[dict[str, str]] = []

        async def handle(self, request: web.Request) -> web.StreamResponse:
            self.queries.append(dict(request.query))
            kind = "replicasets" if request.path.endswith("/replicasets") else "deployments"
            answer = self.answers[f"{request.method} {kind}"].pop(0)
            return web.json_response(answer) if isinstance(answer, dict) else answer

    running, application = Api(), web.Application()
    application.router.add_route("*", "/{path:.*}", running.handle)
    server = await aiohttp_server(application)
    running.client = connect(str(server.make_url("")).rstrip("/"), timeout_s=2.0)
    return running


async def test_revisions_come_from_all_pages_newest_first_and_only_our_own(api):
    expressions = [{"key": "tier", "operator": "In", "values": ["x", "y"]}, {"key": "old", "operator": "DoesNotExist"}]
    selector = {"matchLabels": {"app": "a"}, "matchExpressions": expressions}
    first = a_list(a_replica_set("9"), a_replica_set("11", owner="other"), a_replica_set(None), following="token")
    api.answers = {
        "GET deployments": [a_deployment(selector=selector)],
        "GET replicasets": [first, a_list(a_replica_set("10"))],
    }
    found = await api.client.read_replica_sets(await api.client.read_deployment("n", "a"))
    assert [(one.revision, one.template_hash) for one in found] == [(10, "h10"), (9, "h9"), (0, "hNone")]
    asked = {"labelSelector": "app=a,tier in (x,y),!old", "limit": "250"}
    assert api.queries[1:] == [asked, {**asked, "continue": "token"}]


async def test_a_template_keeps_what_we_do_not_know_and_loses_only_the_hash(api):
    api.answers = {"GET deployments": [a_deployment()], "GET replicasets": [a_list(a_replica_set("1"))]}
    (found,) = await api.client.read_replica_sets(await api.client.read_deployment("n", "a"))
    assert found.template() == TEMPLATE
    assert found.images() == {"main": "a:1"}


async def test_a_list_that_grew_too_old_is_read_again_later(api):
    gone = web.json_response({"message": "The provided continue parameter is too old"}, status=410)
    api.answers = {"GET deployments": [a_deployment()], "GET replicasets": [a_list(following="token"), gone]}
    with pytest.raises(TemporaryError, match=r"the replica sets of deployment n/a: .* too old"):
        await api.client.read_replica_sets(await api.client.read_deployment("n", "a"))


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"kind": "Deployment"},
        {**a_deployment(), "kind": "Status"},
        a_deployment(template="text"),
        a_deployment(selector=None),
        {**a_deployment(), "metadata": {"name": "a", "resourceVersion": "7"}},
    ],
)
async def test_what_is_no_deployment_is_not_taken_for_one(api, answer):
    api.answers = {"GET deployments": [answer]}
    with pytest.raises(TemporaryError, match="answer about deployment n/a is not a Deployment"):
        await api.client.read_deployment("n", "a")


async def test_a_revision_without_containers_is_none(api):
    odd = a_replica_set("1")
    odd["spec"]["template"] = {"spec": {}}
    api.answers = {"GET deployments": [a_deployment()], "GET replicasets": [a_list(odd)]}
    with pytest.raises(TemporaryError, match="is not a ReplicaSetList"):
        await api.client.read_replica_sets(await api.client.read_deployment("n", "a"))


async def test_a_selector_that_cannot_be_asked_for_is_refused(api):
    selector = {"matchExpressions": [{"key": "a", "operator": "Near"}]}
    api.answers = {"GET deployments": [a_deployment(selector=selector)]}
    with pytest.raises(TemporaryError, match="operator: Input should be 'In'"):
        await api.client.read_deployment("n", "a")


@pytest.mark.parametrize(
    ("answer", "kind", "said", "delay_s"),
    [
        (lambda: {"kind": "Status"}, OutcomeUnknown, "is not a Deployment", None),
        (lambda: web.Response(body=b"\xff"), OutcomeUnknown, "is not a Deployment", None),
        (lambda: web.json_response({"message": "late"}, status=504), OutcomeUnknown, "late", None),
        (lambda: web.json_response({"message": "busy"}, status=503), TemporaryError, "busy", None),
        (lambda: web.json_response({}, status=429, headers={"Retry-After": "3"}), TemporaryError, "Too Many", 3.0),
        (lambda: web.json_response({"message": "bad image"}, status=422), PermanentError, "bad image", None),
    ],
)
async def test_what_comes_of_going_back_is_translated(api, answer, kind, said, delay_s):
    api.answers = {
        "GET deployments": [a_deployment(), a_deployment()],
        "GET replicasets": [a_list(a_replica_set("1"))],
        "PATCH deployments": [answer()],
    }
    found = await api.client.read_deployment("n", "a")
    (target,) = await api.client.read_replica_sets(found)
    with pytest.raises(kind, match=said) as caught:
        await api.client.go_back(found, target)
    assert getattr(caught.value, "delay_s", None) == delay_s
