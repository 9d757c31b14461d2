from dataclasses import replace

import pytest
from pydantic import TypeAdapter

from app.actions.kubernetes_scale import ScaleAction
from app.core.errors import PermanentError
from app.core.steps import KubernetesScale, Step

ACTION = ScaleAction()
NAMED = "production/payment-api"
STEP = TypeAdapter(Step)


def step(replicas=5, deployment="payment-api") -> KubernetesScale:
    fields = {"namespace": "production", "deployment": deployment, "replicas": replicas}
    return KubernetesScale(type="kubernetes", action="scale", **fields)


async def test_the_plan_says_from_what_to_what_and_back(scene, stand_ins):
    plan = await ACTION.prepare(step(), scene)
    assert plan.summary == "Scale production/payment-api from 3 to 5"
    assert (plan.before, plan.after, plan.manual_reason) == ({"replicas": 3}, {"replicas": 5}, None)
    assert plan.inverse.expected == {"replicas": 5}
    assert STEP.validate_python(plan.inverse.step) == step(3)
    assert stand_ins.scalings == []


async def test_the_same_world_gives_the_same_digest_and_another_count_another(scene, stand_ins):
    first = await ACTION.prepare(step(), scene)
    stand_ins.version += 40  # as when a controller writes the deployment's status
    assert await ACTION.prepare(step(), scene) == first
    stand_ins.replicas[NAMED] = 4
    assert (await ACTION.prepare(step(), scene)).digest != first.digest


async def test_a_number_that_was_rendered_is_the_same_plan(scene):
    assert await ACTION.prepare(step("5"), scene) == await ACTION.prepare(step(5), scene)


async def test_a_template_that_was_not_rendered_names_the_field(scene):
    with pytest.raises(PermanentError, match=r"^replicas renders to '\{\{ 5 \}\}', not to a whole number"):
        await ACTION.prepare(step("{{ 5 }}"), scene)


async def test_applying_scales(scene, stand_ins):
    outcome = await ACTION.apply(step(), await ACTION.prepare(step(), scene), scene)
    assert (outcome.outcome, outcome.output) == ("succeeded", {"replicas": 5, "changed": True})
    assert stand_ins.scalings == [(NAMED, 5)]


async def test_the_same_plan_applied_again_writes_nothing(scene, stand_ins):
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    outcome = await ACTION.apply(step(), plan, scene)
    assert (outcome.outcome, outcome.output) == ("succeeded", {"replicas": 5, "changed": False})
    assert stand_ins.scalings == [(NAMED, 5)]


async def test_a_count_that_is_already_there_is_no_change(scene, stand_ins):
    plan = await ACTION.prepare(step(3), scene)
    assert plan.summary == "production/payment-api is already at 3"
    outcome = await ACTION.apply(step(3), plan, scene)
    assert (outcome.outcome, outcome.output) == ("succeeded", {"replicas": 3, "changed": False})
    assert stand_ins.scalings == []


async def test_a_count_that_changed_since_the_plan_is_left_alone(scene, stand_ins):
    plan = await ACTION.prepare(step(), scene)
    stand_ins.replicas[NAMED] = 8
    with pytest.raises(PermanentError, match="it has 8 replicas, and 3 were expected"):
        await ACTION.apply(step(), plan, scene)
    assert stand_ins.scalings == []


async def taken_back(plan, scene):
    """What a rollback does with the inverse of a plan."""
    back, rollback = STEP.validate_python(plan.inverse.step), replace(scene, expected=plan.inverse.expected)
    return await ACTION.apply(back, await ACTION.prepare(back, rollback), rollback)


@pytest.mark.parametrize("before", [3, 0])
async def test_a_scaling_is_taken_back_to_the_original_count(scene, stand_ins, before):
    stand_ins.replicas[NAMED] = before
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    outcome = await taken_back(plan, scene)
    assert outcome.output == {"replicas": before, "changed": True}
    assert stand_ins.scalings == [(NAMED, 5), (NAMED, before)]


async def test_a_count_that_somebody_else_set_is_not_taken_back(scene, stand_ins):
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    stand_ins.replicas[NAMED] = 9
    with pytest.raises(PermanentError, match="drifted: the count is 9, and this execution left it at 5"):
        await taken_back(plan, scene)
    assert stand_ins.replicas == {NAMED: 9}


async def test_a_rollback_that_took_effect_before_is_no_drift(scene, stand_ins):
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    await taken_back(plan, scene)
    assert (await taken_back(plan, scene)).output == {"replicas": 3, "changed": False}
    assert len(stand_ins.scalings) == 2


async def test_a_deployment_that_is_not_there_is_found_out_when_planning(scene):
    with pytest.raises(PermanentError, match="deployment production/other does not exist"):
        await ACTION.prepare(step(deployment="other"), scene)
