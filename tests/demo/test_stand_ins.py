"""The stand-ins refuse what the real ones refuse, and say at every turn that they are none."""

import aiohttp
import pytest

NAMED = "production/payment-api"
SCALE = "/kubernetes/apis/apps/v1/namespaces/production/deployments/payment-api/scale"
SLACK = {"Authorization": "Bearer xoxb-stand-in"}
KUBERNETES = {"Authorization": "Bearer kubernetes-stand-in"}
PAGERDUTY = {"Authorization": "Token pagerduty-stand-in"}


@pytest.fixture
async def call(stand_ins):
    """One request; its status and JSON. Every answer must carry the label."""
    async with aiohttp.ClientSession(stand_ins.url) as session:

        async def send(method, path, headers=None, **content):
            async with session.request(method, path, headers=headers, **content) as answer:
                assert answer.headers["X-Stand-In"] == "infrasage-demo"
                is_json = answer.content_type == "application/json"
                return answer.status, await answer.json() if is_json else await answer.text()

        yield send


@pytest.mark.parametrize("path", ["/", "/slack/api/", "/pagerduty/other", "/kubernetes/api"])
async def test_what_is_not_stood_in_for_is_labelled_too(call, path):
    assert (await call("GET", path))[0] in {404, 405}


async def test_every_line_says_that_it_is_a_stand_in(stand_ins, call):
    lines = []
    stand_ins.say = lines.append
    await call("POST", "/slack/api/chat.postMessage", SLACK, json={"channel": "#a", "text": "b"})
    await call("POST", "/slack/api/chat.update", SLACK, json={"channel": "C0DEMO", "ts": "1.000100", "text": "c"})
    await call("PATCH", SCALE, KUBERNETES, json=[{"op": "replace", "path": "/spec/replicas", "value": 4}])
    await call("POST", "/pagerduty/incidents", PAGERDUTY, json={"title": "d"})
    assert len(lines) == 4
    assert all("stand-in" in line for line in lines)


async def test_slack(call, stand_ins):
    assert (await call("POST", "/slack/api/auth.test", SLACK))[1]["ok"]
    assert (await call("POST", "/slack/api/auth.test"))[1] == {"ok": False, "error": "invalid_auth"}
    assert (await call("POST", "/slack/api/files.list", SLACK))[1] == {"ok": False, "error": "unknown_method"}
    posted = await call("POST", "/slack/api/chat.postMessage", SLACK, data={"channel": "#a", "text": "b"})
    assert posted == (200, {"ok": True, "channel": "C0DEMO", "ts": "1.000100"})
    assert stand_ins.messages == [{"channel": "#a", "text": "b"}]


async def test_kubernetes_needs_a_token_and_a_deployment(call):
    assert (await call("GET", SCALE))[0] == 401
    assert (await call("PATCH", SCALE, json=[]))[0] == 401
    assert (await call("GET", SCALE.replace("payment-api", "other"), KUBERNETES))[0] == 404
    deployment = await call("GET", SCALE.removesuffix("/scale"), KUBERNETES)
    assert (deployment[0], deployment[1]["kind"], deployment[1]["spec"]) == (200, "Deployment", {"replicas": 3})


@pytest.mark.parametrize(
    "patch",
    [
        [{"op": "test", "path": "/spec/replicas", "value": 4}, {"op": "replace", "path": "/spec/replicas", "value": 5}],
        [{"op": "replace", "path": "/spec/replicas", "value": -1}],
        [{"op": "replace", "path": "/metadata/name", "value": "x"}],
        [{"op": "replace", "path": "/spec/replicas", "value": "many"}],
    ],
)
async def test_a_patch_that_does_not_hold_changes_nothing(call, stand_ins, patch):
    assert (await call("PATCH", SCALE, KUBERNETES, json=patch))[0] == 422
    assert stand_ins.replicas == {NAMED: 3}


async def test_a_dry_run_changes_nothing(call, stand_ins):
    patch = [{"op": "replace", "path": "/spec/replicas", "value": 5}]
    status, body = await call("PATCH", SCALE + "?dryRun=All", KUBERNETES, json=patch)
    assert (status, body["spec"], stand_ins.replicas, stand_ins.scalings) == (200, {"replicas": 5}, {NAMED: 3}, [])


async def test_a_count_of_nothing_is_left_out_and_cannot_be_tested(call, stand_ins):
    stand_ins.replicas[NAMED] = 0
    assert (await call("GET", SCALE, KUBERNETES))[1]["spec"] == {}
    patch = [{"op": "test", "path": "/spec/replicas", "value": 0}]
    assert (await call("PATCH", SCALE, KUBERNETES, json=patch))[0] == 422


async def test_a_stale_version_is_a_conflict(call, stand_ins):
    merge = {"metadata": {"resourceVersion": "1"}, "spec": {"replicas": 4}}
    assert (await call("PATCH", SCALE, KUBERNETES, json=merge))[0] == 200
    assert (await call("PATCH", SCALE, KUBERNETES, json=merge))[0] == 409
    assert stand_ins.scalings == [(NAMED, 4)]


async def test_pagerduty_needs_its_token_and_makes_one_incident_a_key(call, stand_ins):
    assert (await call("POST", "/pagerduty/incidents", json={"title": "a"}))[0] == 401
    keyed = PAGERDUTY | {"Idempotency-Key": "k"}
    first = await call("POST", "/pagerduty/incidents", keyed, json={"title": "a"})
    again = await call("POST", "/pagerduty/incidents", keyed, json={"title": "a"})
    other = await call("POST", "/pagerduty/incidents", PAGERDUTY, json={"title": "a"})
    assert first == again == (201, {"incident": {"id": "Q1", "title": "a"}})
    assert other[1]["incident"]["id"] == "Q2"
    assert len(stand_ins.incidents) == 2
