import asyncio
from dataclasses import replace

import pytest
from fakes import RefusedLate
from waiting import until

from app.actions.kubernetes_restart import RestartAction
from app.core.errors import PermanentError, TemporaryError
from app.core.steps import KubernetesRestart

ACTION = RestartAction()


@pytest.fixture
def step(namespace):
    def make(**fields) -> KubernetesRestart:
        named = {"type": "kubernetes", "action": "restart", "namespace": namespace, "deployment": "web"}
        return KubernetesRestart(**{**named, "timeout_seconds": 60, **fields})

    return make


@pytest.fixture
def web(world, fleet):
    """Make the deployment, wait until its pods are Ready, and give their uids by name."""

    async def make(replicas: int = 3, **spec) -> dict[str, str]:
        await world.create(replicas=replicas, **spec)
        await world.ready(replicas)
        return await fleet.pods("web")

    return make


async def restarted(step, scene):
    return await ACTION.apply(step, await ACTION.prepare(step, scene), scene)


async def test_every_pod_is_replaced(web, world, fleet, step, in_cluster):
    before = await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    assert plan.summary == f"Restart {world.namespace}/web: delete 3 pods one at a time"
    assert {pod["name"]: pod["uid"] for pod in plan.before["pods"]} == before
    assert (plan.inverse, plan.manual_reason) == (None, "a restart cannot be undone")
    outcome = await ACTION.apply(step(), plan, scene)
    assert (outcome.outcome, outcome.output) == ("succeeded", {"replaced": sorted(before), "changed": True})
    after = await fleet.pods("web")
    assert len(after) == 3
    assert before.keys().isdisjoint(after)
    await world.ready(3)


async def test_a_plan_changes_nothing_and_is_the_same_again(web, fleet, world, step, in_cluster):
    await web()
    before = (await fleet.all(), await world.deployment())
    plan = await ACTION.prepare(step(), in_cluster())
    assert await ACTION.prepare(step(), in_cluster()) == plan
    assert (await fleet.all(), await world.deployment()) == before


async def test_the_next_pod_goes_when_the_one_before_has_a_ready_replacement(web, fleet, step, in_cluster):
    before = await web()
    fleet.kubelet.makes_ready = False
    restart = asyncio.create_task(restarted(step(), in_cluster()))

    async def one_replaced() -> bool:
        new = set(await fleet.pods("web")) - set(before)
        return bool(new) and (await fleet.pod(new.pop())).status.phase == "Running"

    await until(one_replaced)
    assert len(before.keys() & (await fleet.pods("web")).keys()) == 2
    fleet.kubelet.makes_ready = True
    assert (await restart).outcome == "succeeded"


async def test_pods_that_do_not_serve_do_not_keep_each_other_from_being_restarted(web, fleet, world, step, in_cluster):
    fleet.kubelet.makes_ready = False
    await world.create(replicas=2)
    await until(lambda: fleet.all_run(2))
    fleet.kubelet.unready.update((await fleet.pods("web")).values())
    fleet.kubelet.makes_ready = True
    assert (await restarted(step(), in_cluster())).outcome == "succeeded"
    await world.ready(2)


async def test_without_a_kubelet_it_ends_in_time_and_leaves_the_others_alone(web, fleet, step, in_cluster):
    before = await web()
    scene, brief = in_cluster(), step(timeout_seconds=1.5)
    plan = await ACTION.prepare(brief, scene)
    fleet.kubelet.paused = True
    outcome = await ACTION.apply(brief, plan, scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", True)
    assert outcome.error.message == (
        "not all pods were replaced within 1.5 s; 1 of 3 pods deleted, 1 of these without a Ready replacement"
    )
    first, *others = sorted(before)
    assert outcome.output == {"deleted": [first], "without_replacement": 1, "left": others}
    assert before.keys() & (await fleet.pods("web")).keys() == set(others)


async def test_a_retry_goes_on_with_the_pods_that_are_left(web, fleet, step, in_cluster):
    before = await web()
    scene, brief = in_cluster(), step(timeout_seconds=1.5)
    begun = await ACTION.prepare(brief, scene)
    fleet.kubelet.paused = True
    await ACTION.apply(brief, begun, scene)
    fleet.kubelet.paused = False
    again = replace(scene, begun=begun)
    plan = await ACTION.prepare(step(), again)
    assert plan == begun

    async def first_replaced() -> bool:
        return len(await fleet.pods("web")) == 3

    await until(first_replaced)
    replacement = (await fleet.pods("web")).keys() - before.keys()
    assert (await ACTION.apply(step(), plan, again)).outcome == "succeeded"
    after = await fleet.pods("web")
    assert replacement <= after.keys()
    assert before.keys().isdisjoint(after)


async def test_applied_twice_it_restarts_once(web, fleet, step, in_cluster):
    await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    after = await fleet.pods("web")
    assert (await ACTION.apply(step(), plan, scene)).outcome == "succeeded"
    assert await fleet.pods("web") == after


async def test_a_pod_that_somebody_else_replaced_is_not_replaced_again(web, fleet, world, step, in_cluster):
    before = await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await fleet.delete(min(before))
    await world.ready(3)
    new = (await fleet.pods("web")).keys() - before.keys()
    assert (await ACTION.apply(step(), plan, scene)).outcome == "succeeded"
    assert new <= (await fleet.pods("web")).keys()


async def test_pods_of_others_with_the_same_labels_and_pods_that_ended_are_spared(web, fleet, step, in_cluster):
    ended = min(await web())
    await fleet.finish(ended)
    stranger = await fleet.add_pod("stranger", app="web")

    async def brought_back() -> bool:
        return len(await fleet.pods("web")) == 5

    await until(brought_back)
    await restarted(step(), in_cluster())
    after = await fleet.pods("web")
    assert after["stranger"] == stranger
    assert ended in after


@pytest.mark.parametrize("strategy", ["delete", "rollout"])
async def test_with_no_pods_there_is_nothing_to_restart(world, step, in_cluster, strategy):
    await world.create(replicas=0)
    before = await world.deployment()
    scene = in_cluster()
    plan = await ACTION.prepare(step(strategy=strategy), scene)
    assert plan.summary == f"{world.namespace}/web has no pods to restart"
    outcome = await ACTION.apply(step(strategy=strategy), plan, scene)
    assert (outcome.outcome, outcome.output["changed"]) == ("succeeded", False)
    assert await world.deployment() == before


@pytest.mark.parametrize("strategy", ["delete", "rollout"])
async def test_a_paused_deployment_a_missing_one_and_missing_rights_are_said(world, step, in_cluster, strategy):
    await world.create(paused=True)
    with pytest.raises(PermanentError, match="web is paused"):
        await ACTION.prepare(step(strategy=strategy), in_cluster())
    with pytest.raises(PermanentError, match=r"/none does not exist$"):
        await ACTION.prepare(step(strategy=strategy, deployment="none"), in_cluster())
    needed = {"delete": "delete pods", "rollout": "patch deployments"}[strategy]
    with pytest.raises(PermanentError, match=f"the right to {needed} in namespace {world.namespace} is missing"):
        await ACTION.prepare(step(strategy=strategy), in_cluster("nobody"))


@pytest.mark.parametrize("strategy", ["delete", "rollout"])
async def test_a_deployment_made_anew_is_planned_anew_and_not_touched_by_the_old_plan(
    world, fleet, web, step, in_cluster, strategy
):
    await web(1)
    scene, restart = in_cluster(), step(strategy=strategy)
    begun = await ACTION.prepare(restart, scene)
    await fleet.remove_deployment()
    await web(1)
    before = await fleet.pods("web")
    assert await ACTION.prepare(restart, replace(scene, begun=begun)) != begun
    outcome = await ACTION.apply(restart, begun, scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", False)
    assert "another" in outcome.error.message
    assert await fleet.pods("web") == before


async def test_an_api_that_is_lost_in_the_middle_is_waited_for_in_vain(web, fleet, step, in_cluster, cluster):
    before = await web(2)
    scene = in_cluster()
    begun = await ACTION.prepare(step(), scene)
    fleet.kubelet.makes_ready = False
    applied = asyncio.create_task(ACTION.apply(step(timeout_seconds=2), begun, scene))

    async def one_deleted() -> bool:
        return len(before.keys() & (await fleet.pods("web")).keys()) == 1

    await until(one_deleted)
    with cluster.without_api():
        outcome = await applied
    assert (outcome.outcome, outcome.error.temporary) == ("failed", True)
    assert "cannot be reached" in outcome.error.message
    assert (outcome.output["deleted"], outcome.output["left"]) == ([min(before)], [max(before)])


@pytest.mark.parametrize("strategy", ["delete", "rollout"])
async def test_an_api_that_does_not_answer_for_a_while_is_waited_for(web, fleet, step, in_cluster, cluster, strategy):
    before = await web(2)
    scene, restart = in_cluster(timeout_s=0.3), step(strategy=strategy)
    begun = await ACTION.prepare(restart, scene)
    with cluster.frozen():
        outcome = await ACTION.apply(step(strategy=strategy, timeout_seconds=0.5), begun, scene)
        applied = asyncio.create_task(ACTION.apply(restart, begun, replace(scene, begun=begun)))
        await asyncio.sleep(0)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", True)
    assert "did not answer" in outcome.error.message
    assert (await applied).outcome == "succeeded"
    assert before.keys().isdisjoint(await fleet.pods("web"))


@pytest.mark.parametrize(("strategy", "part"), [("delete", "pods"), ("rollout", "rollouts")])
@pytest.mark.parametrize("error", [TemporaryError("not yet"), PermanentError("not yet")])
async def test_what_is_asked_as_the_time_ends_is_heard(web, fleet, step, in_cluster, strategy, part, error):
    before = await web(2)
    scene, brief = in_cluster(), step(strategy=strategy, timeout_seconds=2)
    begun = await ACTION.prepare(brief, scene)
    kubernetes = scene.clients.kubernetes
    setattr(kubernetes, part, RefusedLate(getattr(kubernetes, part), brief.timeout_seconds, error))
    outcome = await ACTION.apply(brief, begun, scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", isinstance(error, TemporaryError))
    assert before == await fleet.pods("web")


class Unanswered:
    """The API stops answering at the moment of a write."""

    def __init__(self, inner, frozen) -> None:
        self._inner = inner
        self._frozen = frozen

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def delete(self, pod, **options):
        self._frozen.__enter__()
        return await self._inner.delete(pod, **options)

    async def restart(self, found, mark):
        self._frozen.__enter__()
        return await self._inner.restart(found, mark)


@pytest.mark.parametrize(("strategy", "part"), [("delete", "pods"), ("rollout", "rollouts")])
async def test_a_write_that_is_not_answered_is_unknown_and_the_retry_goes_on(
    web, fleet, step, in_cluster, cluster, strategy, part
):
    before = await web(2)
    scene, brief = in_cluster(timeout_s=0.3), step(strategy=strategy, timeout_seconds=1)
    begun = await ACTION.prepare(brief, scene)
    frozen = cluster.frozen()
    kubernetes = scene.clients.kubernetes
    setattr(kubernetes, part, Unanswered(getattr(kubernetes, part), frozen))
    outcome = await ACTION.apply(brief, begun, scene)
    frozen.__exit__(None, None, None)
    assert outcome.outcome == "unknown"
    assert "was not answered" in outcome.error.message
    again, restart = replace(in_cluster(), begun=begun), step(strategy=strategy)
    plan = await ACTION.prepare(restart, again)
    assert plan == begun
    assert (await ACTION.apply(restart, plan, again)).outcome == "succeeded"
    assert before.keys().isdisjoint(await fleet.pods("web"))


async def test_a_rollout_replaces_every_pod_by_the_deployments_own_rules(web, world, fleet, step, in_cluster):
    before = await web()
    scene, rolling = in_cluster(), step(strategy="rollout")
    plan = await ACTION.prepare(rolling, scene)
    assert plan.summary == f"Restart {world.namespace}/web: roll out 3 pods anew"
    assert (await fleet.pods("web"), plan.before["restarted_at"]) == (before, None)
    outcome = await ACTION.apply(rolling, plan, scene)
    assert outcome.outcome == "succeeded"
    assert outcome.output == {"wanted": 3, "updated": 3, "available": 3, "changed": True}
    after = await fleet.pods("web")
    assert before.keys().isdisjoint(after)
    assert (await ACTION.apply(rolling, plan, scene)).outcome == "succeeded"
    assert await fleet.pods("web") == after
    assert (await restarted(rolling, replace(scene, command_id="execution/7/3/apply/1"))).outcome == "succeeded"
    assert after.keys().isdisjoint(await fleet.pods("web"))


async def test_a_rollout_that_does_not_get_ready_ends_in_time_and_says_how_far_it_is(web, fleet, step, in_cluster):
    await web(2)
    fleet.kubelet.makes_ready = False
    outcome = await restarted(step(strategy="rollout", timeout_seconds=1.5), in_cluster())
    assert (outcome.outcome, outcome.error.temporary) == ("failed", True)
    assert outcome.error.message.startswith("the rollout was not complete within 1.5 s; 1 of 2 pods are new")


async def test_a_rollout_whose_deployment_gives_up_fails_at_once(web, fleet, step, in_cluster):
    await web(1, progressDeadlineSeconds=1)
    fleet.kubelet.makes_ready = False
    outcome = await restarted(step(strategy="rollout"), in_cluster())
    assert (outcome.outcome, outcome.error.temporary) == ("failed", False)
    assert "progressDeadlineSeconds are over" in outcome.error.message


async def test_a_restart_by_somebody_else_since_the_plan_is_not_doubled(web, world, step, in_cluster):
    await web(1)
    scene, rolling = in_cluster(), step(strategy="rollout")
    plan = await ACTION.prepare(rolling, scene)
    annotations = {"kubectl.kubernetes.io/restartedAt": "2026-01-01T00:00:00Z"}
    await world.change(template={"metadata": {"annotations": annotations}})
    outcome = await ACTION.apply(rolling, plan, scene)
    assert outcome.outcome == "failed"
    assert "restartedAt was None, and is 2026-01-01T00:00:00Z" in outcome.error.message


async def test_more_pods_than_one_by_one_makes_sense_for_are_refused(web, world, fleet, step, in_cluster, monkeypatch):
    monkeypatch.setattr("app.actions.kubernetes_restart.MAX_PODS", 1)
    await web(2)
    with pytest.raises(PermanentError, match="has 2 pods: more than 1 are not deleted one at a time"):
        await ACTION.prepare(step(), in_cluster())


async def test_what_the_api_would_refuse_is_known_before(web, step, in_cluster, forbid):
    await web(1)
    await forbid("deployments", "false", "nothing is changed today")

    async def refused() -> str:
        """A policy is in force a moment after it was made."""
        try:
            await ACTION.prepare(step(strategy="rollout"), in_cluster())
        except PermanentError as error:
            return str(error)
        return ""

    assert "nothing is changed today" in await until(refused)
