from dataclasses import replace

import pytest

from app.actions.kubernetes_cordon import CordonAction
from app.core.errors import Drifted, OutcomeUnknown, PermanentError
from app.core.steps import KubernetesCordon, KubernetesUncordon

CORDON, UNCORDON = CordonAction(unschedulable=True), CordonAction(unschedulable=False)


def cordon(node: str) -> KubernetesCordon:
    return KubernetesCordon(type="kubernetes", action="cordon", node=node)


def uncordon(node: str) -> KubernetesUncordon:
    return KubernetesUncordon(type="kubernetes", action="uncordon", node=node)


PAIRS = pytest.mark.parametrize(
    ("action", "back", "step", "wanted"),
    [(CORDON, UNCORDON, cordon, True), (UNCORDON, CORDON, uncordon, False)],
    ids=["cordon", "uncordon"],
)
MODELS = {"cordon": KubernetesCordon, "uncordon": KubernetesUncordon}


async def taken_back(back, plan, scene):
    """What a rollback does with the inverse of a plan."""
    step = MODELS[plan.inverse.step["action"]](**plan.inverse.step)
    rollback = replace(scene, expected=plan.inverse.expected)
    return await back.apply(step, await back.prepare(step, rollback), rollback)


@PAIRS
async def test_a_node_is_marked_and_marked_back(fleet, in_cluster, action, back, step, wanted):
    await fleet.mark(unschedulable=not wanted)
    scene, node = in_cluster(), step(fleet.node)
    plan = await action.prepare(node, scene)
    assert plan.summary == f"{node.action.capitalize()} {fleet.node}"
    outcome = await action.apply(node, plan, scene)
    assert (outcome.outcome, outcome.output) == ("succeeded", {"unschedulable": wanted, "changed": True})
    assert await fleet.cordoned() is wanted
    assert (await action.apply(node, plan, scene)).output == {"unschedulable": wanted, "changed": False}
    assert (await taken_back(back, plan, scene)).output == {"unschedulable": not wanted, "changed": True}
    assert await fleet.cordoned() is not wanted
    assert (await taken_back(back, plan, scene)).output == {"unschedulable": not wanted, "changed": False}


@PAIRS
async def test_a_node_that_is_marked_already_is_left_as_it_was(fleet, in_cluster, action, back, step, wanted):
    await fleet.mark(unschedulable=wanted)
    scene, node = in_cluster(), step(fleet.node)
    before = await fleet.node_object()
    plan = await action.prepare(node, scene)
    assert plan.summary == f"{fleet.node} is {node.action}ed already"
    assert (plan.inverse, plan.manual_reason) == (None, f"it was {node.action}ed before; it is left as it was")
    assert (await action.apply(node, plan, scene)).output == {"unschedulable": wanted, "changed": False}
    assert await fleet.node_object() == before


async def test_a_plan_changes_nothing_and_is_the_same_again(fleet, in_cluster):
    before = await fleet.node_object()
    plan = await CORDON.prepare(cordon(fleet.node), in_cluster())
    assert await CORDON.prepare(cordon(fleet.node), in_cluster()) == plan
    assert await fleet.node_object() == before


async def test_a_retry_keeps_the_way_back_of_an_attempt_whose_answer_was_lost(fleet, in_cluster):
    begun = await CORDON.prepare(cordon(fleet.node), in_cluster())
    await fleet.mark(unschedulable=True)
    again = replace(in_cluster(), begun=begun)
    plan = await CORDON.prepare(cordon(fleet.node), again)
    assert plan == begun
    assert (await CORDON.apply(cordon(fleet.node), plan, again)).outcome == "succeeded"
    await taken_back(UNCORDON, plan, in_cluster())
    assert await fleet.cordoned() is False


async def test_a_retry_that_must_do_what_the_first_attempt_need_not_plans_anew(fleet, in_cluster):
    await fleet.mark(unschedulable=True)
    begun = await CORDON.prepare(cordon(fleet.node), in_cluster())
    await fleet.mark(unschedulable=False)
    plan = await CORDON.prepare(cordon(fleet.node), replace(in_cluster(), begun=begun))
    assert plan.inverse is not None


async def test_another_node_of_the_same_name_is_left_alone(fleet, in_cluster):
    scene = in_cluster()
    plan = await CORDON.prepare(cordon(fleet.node), scene)
    await fleet.make_node_anew()
    drifted = f"{fleet.node} is another node now: its uid was {plan.before['uid']}, and is "
    with pytest.raises(PermanentError, match=drifted):
        await CORDON.apply(cordon(fleet.node), plan, scene)
    with pytest.raises(Drifted, match=f", and this execution marked {plan.before['uid']}"):
        await taken_back(UNCORDON, plan, scene)
    assert (await CORDON.prepare(cordon(fleet.node), replace(scene, begun=plan))).digest != plan.digest
    assert await fleet.cordoned() is False


async def test_the_api_judges_whether_the_node_is_still_as_it_was_read(fleet, in_cluster):
    nodes = in_cluster().clients.kubernetes.nodes
    read = await nodes.read(fleet.node)
    await fleet.mark(unschedulable=True)
    assert await nodes.mark(read, unschedulable=True) is False
    await fleet.make_node_anew()
    with pytest.raises(PermanentError, match="is another node now"):
        await nodes.mark(read, unschedulable=True)
    assert await fleet.cordoned() is False


async def test_a_missing_node_and_a_name_that_is_none_are_said(fleet, in_cluster):
    with pytest.raises(PermanentError, match=r"^node none does not exist$"):
        await CORDON.prepare(cordon("none"), in_cluster())
    with pytest.raises(PermanentError, match=r"node '\.\./pods' is not a Kubernetes name"):
        await CORDON.prepare(cordon("../pods"), in_cluster())


async def test_missing_rights_are_named(fleet, in_cluster):
    missing = "the right to get nodes is missing; the right to patch nodes is missing"
    with pytest.raises(PermanentError, match=missing):
        await CORDON.prepare(cordon(fleet.node), in_cluster("nobody"))


async def test_no_answer_to_the_cordon_is_unknown_and_the_retry_finds_it(fleet, in_cluster, cluster):
    scene = in_cluster(timeout_s=0.5)
    plan = await CORDON.prepare(cordon(fleet.node), scene)
    nodes = scene.clients.kubernetes.nodes
    read = await nodes.read(fleet.node)
    with cluster.frozen(), pytest.raises(OutcomeUnknown, match="did not answer about node"):
        await nodes.mark(read, unschedulable=True)
    again = replace(in_cluster(), begun=plan)
    outcome = await CORDON.apply(cordon(fleet.node), await CORDON.prepare(cordon(fleet.node), again), again)
    assert outcome.outcome == "succeeded"
    assert await fleet.cordoned() is True
