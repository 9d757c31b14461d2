"""Pods of an API that says what a test makes it say; the real one is met in tests/actions."""

import pytest
from aiohttp import web

from app.clients.kubernetes import Held, Pod
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError


def pod(name: str = "a", namespace: str = "production") -> dict:
    return {
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}", "resourceVersion": "1"},
        "spec": {},
    }


POD = Pod.model_validate(pod())


def refusal(status: int, body: object, **headers: str):
    return lambda: web.json_response(body, status=status, headers=headers)


def over_budget(*causes: object) -> dict:
    return {"kind": "Status", "message": "it would violate the budget", "details": {"causes": list(causes)}}


async def test_a_list_is_read_to_its_last_page(aiohttp_server, connect):
    asked = []

    async def answer(request: web.Request) -> web.Response:
        asked.append(dict(request.query))
        following = {None: "2", "2": "3", "3": ""}[request.query.get("continue")]
        return web.json_response(
            {"kind": "PodList", "metadata": {"continue": following}, "items": [pod(f"p{len(asked)}")]}
        )

    application = web.Application()
    application.router.add_get("/api/v1/pods", answer)
    server = await aiohttp_server(application)
    found = await connect(str(server.make_url("")).rstrip("/")).pods.of_node("n")
    assert [one.named for one in found] == ["production/p1", "production/p2", "production/p3"]
    assert {one["fieldSelector"] for one in asked} == {"spec.nodeName=n"}
    assert {one["limit"] for one in asked} == {"500"}


async def test_a_list_that_is_too_old_to_go_on_is_begun_again_later(answering):
    client = await answering(refusal(410, {"kind": "Status", "message": "expired"}))
    with pytest.raises(TemporaryError, match="the pods of node n: expired"):
        await client.pods.of_node("n")


@pytest.mark.parametrize("status", [404, 409])
async def test_a_pod_that_is_gone_or_another_now_needs_nothing(answering, status):
    client = await answering(refusal(status, {"kind": "Status", "message": "not this one"}))
    assert await client.pods.evict(POD) == "gone"
    assert await client.pods.delete(POD) is False


@pytest.mark.parametrize(
    ("body", "headers", "held"),
    [
        (over_budget({"reason": "DisruptionBudget", "message": "x needs 2"}), {}, Held("x needs 2", None)),
        (over_budget(), {"Retry-After": "10"}, Held("pod production/a: it would violate the budget", 10.0)),
        (
            over_budget({"reason": "Other", "message": "y"}, 7),
            {},
            Held("pod production/a: it would violate the budget", None),
        ),
        ({"details": None, "message": "busy"}, {}, Held("pod production/a: busy", None)),
        ([], {}, Held("pod production/a: Too Many Requests", None)),
    ],
)
async def test_what_holds_an_eviction_back_is_kept(answering, body, headers, held):
    client = await answering(refusal(429, body, **headers))
    assert await client.pods.evict(POD) == held
    with pytest.raises(TemporaryError):
        await client.pods.delete(POD)


async def test_other_refusals_are_raised(answering):
    client = await answering(refusal(403, {"kind": "Status", "message": "no"}))
    with pytest.raises(PermanentError, match="the right to create pods/eviction is missing for pod production/a: no"):
        await client.pods.evict(POD)
    with pytest.raises(PermanentError, match="the right to delete pods is missing"):
        await client.pods.delete(POD)


async def test_an_answer_that_is_none_leaves_it_open(answering):
    client = await answering(lambda: web.Response(body=b"{}", content_type="application/json"))
    with pytest.raises(OutcomeUnknown):
        await client.pods.evict(POD)
    with pytest.raises(OutcomeUnknown):
        await client.pods.delete(POD)
    with pytest.raises(TemporaryError):
        await client.pods.evict(POD, dry_run=True)
    with pytest.raises(TemporaryError):
        await client.pods.of_node("n")


async def test_a_name_that_would_be_another_path_is_refused(connect):
    client = connect("http://127.0.0.1:9")
    with pytest.raises(PermanentError, match="not a Kubernetes name"):
        await client.pods.evict(Pod.model_validate(pod("../b")))
    with pytest.raises(PermanentError, match="not a Kubernetes name"):
        await client.pods.of_node("a,b=c")
