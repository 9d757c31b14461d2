"""The way back through the real worker and Kafka, on a real control plane: done, drifted, failed, restarted, asked."""

import signal

import pytest
from kubernetes_asyncio import client
from processes import on_cluster
from waiting import until

from app.core.events import StepFinished, StepStarted, read_event

BACK = {"cordon": 3, "drain": 2, "rollout-undo": 1, "scale": 0}
"""The index of each step that is taken back, in the order of the way back."""


@pytest.fixture
def environment(environment, cluster):
    return environment | on_cluster(cluster)


@pytest.fixture
def runbook(released, fleet):
    """Every step that has an inverse, then one that waits: whoever says no takes all of it back."""
    web = {"namespace": released.namespace, "deployment": "web"}
    steps = [
        {"type": "kubernetes", "action": "scale", **web, "replicas": 3},
        {"type": "kubernetes", "action": "rollout-undo", **web},
        {"type": "kubernetes", "action": "drain", "node": fleet.node},
        {"type": "kubernetes", "action": "cordon", "node": fleet.other_node},
        {"type": "http", "url": "http://127.0.0.1:9/", "require_approval": True},
    ]
    return {"name": "there-and-back", "trigger": {"service_id": "s"}, "steps": steps, "on_halt": "rollback"}


@pytest.fixture
async def at_the_turn(worker, api, publish, runbook, released, fleet):
    """All is done, and the last step waits; gives what turns it round."""
    await api.put_runbook(runbook)
    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    waiting = await api.waiting()
    assert (await released.replicas(), await released.image()) == (3, "example/app:1")
    assert await fleet.unschedulable() == [True, True]
    path = f"/api/v1/executions/{waiting['execution_id']}"

    async def turn() -> None:
        status, body = await api.call("POST", f"{path}/approvals", {"decision": "reject"}, roles=["approver"])
        assert status == 200, body

    turn.path = path
    return turn


@pytest.fixture
async def rights(admin, cluster):
    """Take from the engine the right to change anything, and give it back."""
    rbac = client.RbacAuthorizationV1Api(admin)
    whole = await rbac.read_cluster_role("runbook-engine")
    asked = [
        {"verb": "patch", "group": "apps", "resource": "deployments", "subresource": "scale"},
        {"verb": "patch", "group": "", "resource": "nodes"},
    ]

    async def arrived(*, given: bool) -> bool:
        return all(cluster.allows("runbook-engine", one) is given for one in asked)

    class Rights:
        async def take(self) -> None:
            kept = admin.sanitize_for_serialization(whole.rules)
            for rule in kept:
                rule["verbs"] = [verb for verb in rule["verbs"] if verb != "patch"] or ["get"]
            await rbac.patch_cluster_role("runbook-engine", {"rules": kept})
            await until(lambda: arrived(given=False))

        async def give_back(self) -> None:
            rules = admin.sanitize_for_serialization(whole.rules)
            await rbac.patch_cluster_role("runbook-engine", {"rules": rules})
            await until(lambda: arrived(given=True))

    one = Rights()
    yield one
    await one.give_back()


async def is_as_before(released, fleet) -> bool:
    as_it_was = (await released.replicas(), await released.image()) == (2, "example/app:2")
    return as_it_was and await fleet.unschedulable() == [False, False]


def statuses(item):
    return [(step["index"], step["status"]) for step in item["rollback"]["steps"]]


async def test_done_every_inverse_puts_back_what_was(at_the_turn, api, released, fleet):
    await at_the_turn()
    (item,) = await api.ended(1)
    assert (item["status"], item["rollback"]["status"], item["rollback"]["cause"]) == ("rolled_back", "done", "halt")
    assert statuses(item) == [(index, "succeeded") for index in BACK.values()]
    assert await is_as_before(released, fleet)


async def test_drifted_what_somebody_changed_is_let_be_with_both_values(at_the_turn, api, admin, released, fleet):
    await released.change(replicas=4)
    await released.release("example/app:3")
    core = client.CoreV1Api(admin)
    for node in (fleet.node, fleet.other_node):  # another machine comes under the name, and is cordoned too
        await core.delete_node(node)
        await core.create_node({"metadata": {"name": node}, "spec": {"unschedulable": True}})
    await at_the_turn()
    (item,) = await api.ended(1)
    assert (item["status"], item["rollback"]["status"]) == ("rollback_failed", "failed")
    errors = [step["error"] for step in item["rollback"]["steps"]]
    assert statuses(item) == [(3, "drifted"), (2, "drifted"), (1, "drifted"), (0, "failed")], errors
    assert errors[3] == "left as it is: step 2, on the same target, was not taken back"
    assert all(error.startswith("it has drifted: ") for error in errors[:3]), errors
    assert (await released.replicas(), await released.image()) == (4, "example/app:3")
    assert await fleet.unschedulable() == [True, True]


async def test_failed_without_the_right_each_says_so_and_a_person_takes_it_back_later(
    at_the_turn, api, rights, released, fleet
):
    await rights.take()
    await at_the_turn()
    (item,) = await api.ended(1)
    assert (item["status"], item["rollback"]["status"]) == ("rollback_failed", "failed")
    assert item["reason"].endswith("; step 4, 3, 2, 1 was not taken back")
    errors = [step["error"] for step in item["rollback"]["steps"]]
    assert all("the right to patch " in error for error in errors[:3]), errors
    assert await fleet.unschedulable() == [True, True]

    await rights.give_back()
    status, asked = await api.call(
        "POST", f"{at_the_turn.path}/rollback", {"comment": "now it may"}, roles=["operator"]
    )
    assert (status, asked["rollback"]["requested_by"]) == (202, "tester")
    (item,) = await api.ended(1)
    assert (item["status"], item["rollback"]["status"], item["rollback"]["cause"]) == ("rolled_back", "done", "person")
    assert statuses(item) == [(index, "succeeded") for index in BACK.values()]
    assert await is_as_before(released, fleet)


async def test_without_the_api_server_it_is_tried_again_once_that_is_back(at_the_turn, api, cluster, released, fleet):
    with cluster.without_api():
        await at_the_turn()

        async def tried():
            steps = (await api.get(at_the_turn.path))["rollback"]["steps"]
            return steps and steps[0]["error"]

        assert "cannot be reached" in await until(tried)
    (item,) = await api.ended(1)
    assert statuses(item) == [(index, "succeeded") for index in BACK.values()], [
        step["error"] for step in item["rollback"]["steps"]
    ]
    assert await is_as_before(released, fleet)


@pytest.fixture
def seen_back(read_topic):
    """Whether the log holds an event of a kind about taking back a step."""

    async def seen(kind, index: int):
        events = [read_event(record.value) for record in await read_topic("execution-events")]
        return any(isinstance(one, kind) and (one.phase, one.step) == ("rollback", index) for one in events)

    return seen


async def test_restarted_a_worker_killed_on_the_way_back_finishes_it(
    at_the_turn, worker, api, read_topic, seen_back, released, fleet
):
    await at_the_turn()
    for kind, action in ((StepStarted, "cordon"), (StepFinished, "drain"), (StepStarted, "scale")):
        await until(lambda kind=kind, action=action: seen_back(kind, BACK[action]), 90)
        await worker.end(signal.SIGKILL)
        await worker.start()
        await worker.ready(api)
    (item,) = await api.ended(1, timeout_s=90)
    assert (item["status"], item["rollback"]["status"]) == ("rolled_back", "done")
    assert statuses(item) == [(index, "succeeded") for index in BACK.values()]
    assert await is_as_before(released, fleet)
    events = [read_event(record.value) for record in await read_topic("execution-events")]
    started = [one.command_id for one in events if isinstance(one, StepStarted)]
    assert len(started) == len(set(started))


async def test_the_product_pages_example_ends_with_the_count_it_began_with(worker, api, publish, released):
    """Its third step fails; the first is a message, which nobody can take back."""
    steps = [
        {"type": "slack", "message": "Scaling", "channel": "#alerts"},
        {
            "type": "kubernetes",
            "action": "scale",
            "namespace": released.namespace,
            "deployment": "web",
            "replicas": 5,
            "require_approval": True,
        },
        {"type": "http", "method": "POST", "url": "$PAGERDUTY_URL/incidents", "body": {}},
    ]
    await api.put_runbook({"name": "page", "trigger": {"service_id": "s"}, "steps": steps, "rollback_on_failure": True})
    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    await api.approve()
    (item,) = await api.ended(1)
    assert (item["status"], item["rollback"]["status"]) == ("rolled_back", "partial")
    assert statuses(item) == [(1, "succeeded"), (0, "manual")]
    assert item["steps"][1]["summary"].endswith("from 2 to 5")
    assert await released.replicas() == 2


async def test_a_person_takes_back_what_succeeded_and_it_asks_where_the_step_had_to(
    worker, api, publish, runbook, released, fleet
):
    scale = {**runbook["steps"][0], "require_approval": True}
    await api.put_runbook({**runbook, "steps": [scale, runbook["steps"][3]]})
    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    await api.approve()
    (item,) = await api.ended(1)
    assert (item["status"], await released.replicas()) == ("succeeded", 3)
    path = f"/api/v1/executions/{item['execution_id']}"
    assert (await api.call("POST", f"{path}/rollback", roles=["operator"]))[0] == 202
    waiting = await api.waiting()
    assert statuses(waiting) == [(1, "succeeded"), (0, "awaiting_approval")]
    (listed,) = (await api.get("/api/v1/approvals?all=true"))["items"]
    assert (listed["summary"], listed["step"]) == (f"Scale {released.namespace}/web from 3 to 2", 0)
    assert listed["why_not"] == "tester asked for this rollback and may not approve it"
    await api.approve(sub="ann")
    (item,) = await api.ended(1)
    assert (item["status"], item["approvers"]) == ("rolled_back", ["tester", "ann"])
    assert await released.replicas() == 2
    assert await fleet.unschedulable() == [False, False]
