"""Going back to an earlier revision, in a real cluster."""

from dataclasses import replace

import pytest
from waiting import until

from app.actions.kubernetes_rollout_undo import RolloutUndoAction
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.steps import KubernetesRolloutUndo

ACTION = RolloutUndoAction()
OLD, NEW, NEWEST = "example/app:1", "example/app:2", "example/app:3"


@pytest.fixture
def step(namespace):
    def make(**fields) -> KubernetesRolloutUndo:
        named = {"type": "kubernetes", "action": "rollout-undo", "namespace": namespace, "deployment": "web"}
        return KubernetesRolloutUndo(**{**named, **fields})

    return make


@pytest.fixture
async def released(world):
    """A deployment at its third revision."""
    await world.create(image=OLD)
    await world.release(NEW)
    await world.release(NEWEST)
    return world


async def done(step, scene):
    plan = await ACTION.prepare(step, scene)
    return plan, await ACTION.apply(step, plan, scene)


async def taken_back(plan, scene):
    back, rollback = KubernetesRolloutUndo(**plan.inverse.step), replace(scene, expected=plan.inverse.expected)
    return await done(back, rollback)


async def test_the_plan_says_both_revisions_and_changes_nothing(released, step, in_cluster):
    before = await released.deployment()
    plan = await ACTION.prepare(step(), in_cluster())
    assert plan.summary == f"Take {released.namespace}/web back from revision 3 ({NEWEST}) to revision 2 ({NEW})"
    assert (plan.before["revision"], plan.before["images"]) == (3, {"main": NEWEST})
    assert (plan.after["revision"], plan.after["images"]) == (2, {"main": NEW})
    assert plan.inverse.step["to_template"] == plan.before["template"] != plan.after["template"]
    assert await ACTION.prepare(step(), in_cluster()) == plan
    assert await released.deployment() == before


async def test_it_goes_one_back_and_forth_again_though_the_numbers_move(released, step, in_cluster):
    scene, before = in_cluster(), await released.deployment()
    plan, outcome = await done(step(), scene)
    assert (outcome.outcome, outcome.output["changed"], outcome.output["images"]) == ("succeeded", True, {"main": NEW})
    await released.settled()
    after = await released.deployment()
    assert after["spec"]["template"]["spec"]["containers"][0]["image"] == NEW
    assert after["metadata"]["annotations"]["deployment.kubernetes.io/revision"] == "4"
    _, back = await taken_back(plan, scene)
    assert back.output["changed"] is True
    assert (await released.deployment())["spec"] == before["spec"]


async def test_applied_twice_it_does_not_go_back_twice(released, step, in_cluster):
    scene = in_cluster()
    plan, _ = await done(step(), scene)
    await released.settled()
    assert (await ACTION.apply(step(), plan, scene)).output["changed"] is False
    assert await released.image() == NEW


async def test_to_a_revision_and_to_a_template(released, step, in_cluster):
    scene = in_cluster()
    newest = (await ACTION.prepare(step(), scene)).before["template"]
    await done(step(to_revision=1), scene)
    assert await released.image() == OLD
    await released.settled()
    await done(step(to_template=newest), scene)
    assert await released.image() == NEWEST


async def test_the_template_that_is_there_is_a_success_without_a_write(released, step, in_cluster):
    before = await released.deployment()
    plan, outcome = await done(step(to_revision=3), in_cluster())
    assert plan.summary == f"{released.namespace}/web is already at revision 3 ({NEWEST})"
    assert outcome.output["changed"] is False
    assert await released.deployment() == before


async def test_why_a_revision_was_made_goes_with_it_and_other_annotations_stay(world, step, in_cluster):
    await world.create()
    await world.release(NEW, cause="ticket 7")
    await world.annotate(owner="payments")
    plan, _ = await done(step(), in_cluster())
    assert "(example/app:2: ticket 7)" in plan.summary
    annotations = (await world.deployment())["metadata"]["annotations"]
    assert "kubernetes.io/change-cause" not in annotations
    assert annotations["owner"] == "payments"
    await world.settled()
    await taken_back(plan, in_cluster())
    assert (await world.deployment())["metadata"]["annotations"]["kubernetes.io/change-cause"] == "ticket 7"


async def test_what_cannot_be_gone_back_to_is_said(released, step, in_cluster, world):
    await world.create("single")
    for fields, said in (
        ({"to_revision": 9}, "has no revision 9: it keeps 1, 2, 3"),
        ({"to_template": "abc"}, "no longer keeps the template abc"),
        ({"deployment": "single"}, "has nothing to go back to: it keeps revision 1 only"),
        ({"deployment": "none"}, f"deployment {world.namespace}/none does not exist"),
    ):
        with pytest.raises(PermanentError, match=said):
            await ACTION.prepare(step(**fields), in_cluster())


async def test_a_paused_deployment_is_left_alone(released, step, in_cluster):
    plan = await ACTION.prepare(step(), in_cluster())
    await released.change(paused=True)
    for ask in (ACTION.prepare(step(), in_cluster()), ACTION.apply(step(), plan, in_cluster())):
        with pytest.raises(PermanentError, match="is paused"):
            await ask


async def test_without_a_history_the_plan_says_that_it_cannot_be_taken_back(world, kubelet, step, in_cluster):
    await world.create(revisionHistoryLimit=0)
    await world.ready(1)
    kubelet.makes_ready = False  # the old revision goes when the new one is rolled out
    await world.release(NEW)
    plan = await ACTION.prepare(step(), in_cluster())
    assert (plan.inverse, plan.manual_reason) == (
        None,
        "the deployment keeps no earlier revisions (revisionHistoryLimit is 0)",
    )


async def test_another_count_and_another_status_are_no_conflict(released, step, in_cluster):
    plan = await ACTION.prepare(step(), in_cluster())
    found = await in_cluster().clients.kubernetes.read_deployment(released.namespace, "web")
    revisions = await in_cluster().clients.kubernetes.read_replica_sets(found)
    await released.change(replicas=3)
    await released.ready(3)
    await in_cluster().clients.kubernetes.go_back(found, revisions[1])  # found has a stale resourceVersion by now
    assert (await released.deployment())["spec"]["replicas"] == 3
    assert await released.image() == NEW
    assert (await ACTION.apply(step(), plan, in_cluster())).output["changed"] is False


async def test_a_template_changed_by_hand_after_the_plan_is_left_alone(released, step, in_cluster):
    plan = await ACTION.prepare(step(), in_cluster())
    await released.release("example/app:4")
    with pytest.raises(PermanentError, match=f"its template is .*, and {plan.before['template']} was expected"):
        await ACTION.apply(step(), plan, in_cluster())
    assert await released.image() == "example/app:4"


async def test_a_template_changed_between_reading_and_writing_is_left_alone(released, in_cluster):
    kubernetes = in_cluster().clients.kubernetes
    found = await kubernetes.read_deployment(released.namespace, "web")
    revisions = await kubernetes.read_replica_sets(found)
    await released.release("example/app:4")
    with pytest.raises(PermanentError, match="somebody else has changed its template"):
        await kubernetes.go_back(found, revisions[1])
    assert await released.image() == "example/app:4"


async def test_a_deployment_of_the_same_name_is_another_one(released, in_cluster):
    kubernetes = in_cluster().clients.kubernetes
    found = await kubernetes.read_deployment(released.namespace, "web")
    revisions = await kubernetes.read_replica_sets(found)
    await released.delete()
    await released.create(image=NEWEST)
    with pytest.raises(PermanentError, match="was not changed"):
        await kubernetes.go_back(found, revisions[1])
    assert await released.image() == NEWEST


async def test_a_revision_that_the_controller_has_not_made_yet_is_temporary(released, step, in_cluster, cluster):
    plan = await ACTION.prepare(step(), in_cluster())
    with cluster.frozen("kube-controller-manager"):
        await released.release("example/app:4", settles=False)
        with pytest.raises(TemporaryError, match="its controller has not made its newest revision yet"):
            await ACTION.prepare(step(), in_cluster())
        with pytest.raises(PermanentError, match="its template is a new one"):
            await ACTION.apply(step(), plan, in_cluster())


@pytest.mark.parametrize(
    ("given", "missing"),
    [
        ((("replicasets", "list"),), "get deployments"),
        ((("deployments", "get"), ("replicasets", "list")), "patch deployments"),
        ((("deployments", "get", "patch"),), "list replicasets"),
    ],
)
async def test_a_missing_right_is_named_before_anything_is_done(released, step, in_cluster, grant, given, missing):
    for resource, *verbs in given:
        await grant(resource, *verbs)
    with pytest.raises(PermanentError, match=f"the right to {missing} in namespace {released.namespace} is missing"):
        await ACTION.prepare(step(), in_cluster("nobody"))


async def test_what_the_api_would_refuse_is_known_before(released, step, in_cluster, forbid):
    rule = f"object.spec.template.spec.containers[0].image != '{NEW}'"
    await forbid("deployments", rule, "that release is withdrawn")

    async def refused() -> str:  # a policy takes a moment to come into force
        try:
            await ACTION.prepare(step(), in_cluster())
        except PermanentError as error:
            return str(error)
        return ""

    assert "that release is withdrawn" in await until(refused)


async def test_a_retry_after_a_lost_answer_goes_on_with_the_same_plan(released, step, in_cluster, lossy):
    """The one before the current is another one by now: a fresh plan would undo the undo."""
    scene = in_cluster(kubeconfig=lossy.kubeconfig)
    kubernetes = scene.clients.kubernetes
    begun = await ACTION.prepare(step(), scene)
    found = await kubernetes.read_deployment(released.namespace, "web")
    target = (await kubernetes.read_replica_sets(found))[1]
    lossy.loses_answers = True
    with pytest.raises(OutcomeUnknown, match="did not answer"):
        await kubernetes.go_back(found, target)
    lossy.loses_answers = False
    await released.has_image(NEW)  # it had arrived
    again = replace(scene, begun=begun)
    assert await ACTION.prepare(step(), again) == begun
    assert (await ACTION.apply(step(), begun, again)).output["changed"] is False
    await released.settled()
    await taken_back(begun, scene)
    assert await released.image() == NEWEST


async def test_a_retry_that_finds_a_third_template_goes_on_only_to_a_template(released, step, in_cluster):
    scene = in_cluster()
    begun, _ = await done(step(), scene)
    await released.release("example/app:4")
    again = replace(scene, begun=begun)
    with pytest.raises(PermanentError, match="and this is neither"):
        await ACTION.prepare(step(), again)
    plan = await ACTION.prepare(step(to_template=begun.after["template"]), again)
    assert (plan.before["images"], plan.after["images"]) == ({"main": "example/app:4"}, {"main": NEW})


async def test_a_template_changed_by_hand_is_not_taken_back(released, step, in_cluster):
    plan, _ = await done(step(), in_cluster())
    await released.release("example/app:4")
    with pytest.raises(PermanentError, match=f"it has drifted: .* left it at {plan.after['template']}"):
        await taken_back(plan, in_cluster())
    assert await released.image() == "example/app:4"


async def test_a_rollback_that_took_effect_before_is_no_drift(released, step, in_cluster):
    scene = in_cluster()
    plan, _ = await done(step(), scene)
    await released.settled()
    await taken_back(plan, scene)
    await released.settled()
    _, again = await taken_back(plan, scene)
    assert again.output["changed"] is False
    assert await released.image() == NEWEST
