"""The scale action against a real API server; what it does to a stand-in is beside this file."""

from dataclasses import replace

import pytest
from waiting import until

from app.actions.kubernetes_scale import ScaleAction
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.steps import KubernetesScale

ACTION = ScaleAction()


@pytest.fixture
def step(namespace):
    def make(replicas: int = 5, deployment: str = "web") -> KubernetesScale:
        fields = {"namespace": namespace, "deployment": deployment, "replicas": replicas}
        return KubernetesScale(type="kubernetes", action="scale", **fields)

    return make


async def taken_back(plan, scene):
    back, rollback = KubernetesScale(**plan.inverse.step), replace(scene, expected=plan.inverse.expected)
    return await ACTION.apply(back, await ACTION.prepare(back, rollback), rollback)


@pytest.mark.parametrize("before", [3, 0])
async def test_a_deployment_is_scaled_and_scaled_back(world, step, in_cluster, before):
    await world.create(replicas=before)
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    outcome = await ACTION.apply(step(), plan, scene)
    assert (outcome.outcome, outcome.output) == ("succeeded", {"replicas": 5, "changed": True})
    assert await world.replicas() == 5
    assert (await ACTION.apply(step(), plan, scene)).output == {"replicas": 5, "changed": False}
    assert (await taken_back(plan, scene)).output == {"replicas": before, "changed": True}
    assert await world.replicas() == before


async def test_the_cluster_knows_who_scaled(world, step, in_cluster):
    await world.create(replicas=3)
    await ACTION.apply(step(), await ACTION.prepare(step(), in_cluster()), in_cluster())
    assert "infrasage-runbooks" in await world.writers()


async def test_a_plan_changes_nothing(world, step, in_cluster):
    await world.create(replicas=3)
    before = await world.deployment()
    plan = await ACTION.prepare(step(), in_cluster())
    assert plan.summary.endswith("/web from 3 to 5")
    assert await world.deployment() == before


async def test_the_plan_stays_the_same_while_pods_move(world, step, in_cluster):
    await world.create(replicas=3)
    plan = await ACTION.prepare(step(), in_cluster())
    await world.ready(3)
    assert await ACTION.prepare(step(), in_cluster()) == plan


@pytest.mark.parametrize("before", [3, 0])
async def test_a_count_changed_by_hand_after_the_plan_is_left_alone(world, step, in_cluster, before):
    await world.create(replicas=before)
    plan = await ACTION.prepare(step(), in_cluster())
    await world.change(replicas=8)
    with pytest.raises(PermanentError, match=f"it has 8 replicas, and {before} were expected"):
        await ACTION.apply(step(), plan, in_cluster())
    assert await world.replicas() == 8


async def test_what_the_api_would_refuse_is_known_before(world, step, in_cluster, forbid):
    await world.create(replicas=3)
    await forbid("deployments/scale", "object.spec.replicas <= 4", "four are enough")

    async def refused() -> str:  # a policy takes a moment to come into force
        try:
            await ACTION.prepare(step(5), in_cluster())
        except PermanentError as error:
            return str(error)
        return ""

    assert "four are enough" in await until(refused)
    assert (await ACTION.prepare(step(4), in_cluster())).after == {"replicas": 4}


@pytest.mark.parametrize(
    ("given", "missing"),
    [((), "get"), (("get",), "patch"), (("patch",), "get")],
)
async def test_a_missing_right_is_named_before_anything_is_done(world, step, in_cluster, grant, given, missing):
    await world.create(replicas=3)
    if given:
        await grant("deployments/scale", *given)
    named = f"the right to {missing} deployments/scale in namespace {world.namespace} is missing"
    with pytest.raises(PermanentError, match=named):
        await ACTION.prepare(step(), in_cluster("nobody"))


async def test_two_rights_are_enough(world, step, in_cluster, grant):
    await world.create(replicas=3)
    await grant("deployments/scale", "get", "patch", names=("web",))
    scene = in_cluster("nobody")
    await ACTION.apply(step(), await ACTION.prepare(step(), scene), scene)
    assert await world.replicas() == 5


async def test_an_unknown_token_and_a_missing_deployment_are_said(world, step, in_cluster):
    with pytest.raises(PermanentError, match="does not know who we are"):
        await ACTION.prepare(step(), in_cluster("stranger"))
    with pytest.raises(PermanentError, match=f"deployment {world.namespace}/none does not exist"):
        await ACTION.prepare(step(deployment="none"), in_cluster())


async def test_a_retry_after_a_lost_answer_keeps_the_count_that_was_there(world, step, in_cluster, lossy):
    await world.create(replicas=3)
    scene = in_cluster(kubeconfig=lossy.kubeconfig)
    begun = await ACTION.prepare(step(), scene)
    await scene.clients.kubernetes.read_scale(world.namespace, "web")
    lossy.loses_answers = True
    with pytest.raises(OutcomeUnknown, match="did not answer"):
        await scene.clients.kubernetes.set_scale(world.namespace, "web", replicas=5, expected_replicas=3)
    lossy.loses_answers = False
    await world.has_replicas(5)  # it had arrived
    again = replace(scene, begun=begun)
    plan = await ACTION.prepare(step(), again)
    assert (plan, plan.before) == (begun, {"replicas": 3})
    assert (await ACTION.apply(step(), plan, again)).output == {"replicas": 5, "changed": False}
    await taken_back(plan, scene)
    assert await world.replicas() == 3


async def test_a_retry_that_finds_a_third_count_plans_anew(world, step, in_cluster):
    await world.create(replicas=3)
    begun = await ACTION.prepare(step(), in_cluster())
    await world.change(replicas=4)
    plan = await ACTION.prepare(step(), replace(in_cluster(), begun=begun))
    assert (plan.before, plan.inverse.step["replicas"]) == ({"replicas": 4}, 4)


async def test_a_count_changed_by_hand_is_not_taken_back(world, step, in_cluster):
    await world.create(replicas=3)
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    await world.change(replicas=9)
    with pytest.raises(PermanentError, match="drifted: the count is 9, and this execution left it at 5"):
        await taken_back(plan, scene)


async def test_an_api_that_hangs_makes_a_read_temporary_and_a_write_unknown(world, step, in_cluster, cluster):
    await world.create(replicas=3)
    scene = in_cluster(timeout_s=0.5)
    plan = await ACTION.prepare(step(), scene)
    with cluster.frozen():
        with pytest.raises(TemporaryError, match="did not answer"):
            await ACTION.prepare(step(), scene)
        with pytest.raises(OutcomeUnknown, match="did not answer"):
            await scene.clients.kubernetes.set_scale(world.namespace, "web", replicas=5, expected_replicas=3)
    again = replace(in_cluster(), begun=plan)  # whether it took effect or not
    assert await ACTION.prepare(step(), again) == plan
    assert (await ACTION.apply(step(), plan, again)).outcome == "succeeded"
    assert await world.replicas() == 5


async def test_an_api_that_is_gone_is_temporary_and_nothing_was_sent(world, step, in_cluster, cluster):
    await world.create(replicas=3)
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    broken_first = r"cannot be reached|did not answer"
    with cluster.without_api(), pytest.raises(TemporaryError, match=broken_first):
        await ACTION.apply(step(), plan, scene)
    assert (await ACTION.apply(step(), plan, scene)).output == {"replicas": 5, "changed": True}
