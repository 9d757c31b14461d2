import asyncio
from dataclasses import replace

import pytest
from fakes import RefusedLate
from fleet import MIRROR
from waiting import until

from app.actions.kubernetes_cordon import CordonAction
from app.actions.kubernetes_drain import DrainAction
from app.clients.kubernetes import Held
from app.clients.kubernetes.pods import Pods
from app.core.errors import PermanentError, TemporaryError
from app.core.steps import KubernetesDrain, KubernetesUncordon

ACTION = DrainAction()


@pytest.fixture
def step(fleet):
    def make(**fields) -> KubernetesDrain:
        return KubernetesDrain(
            **{"type": "kubernetes", "action": "drain", "node": fleet.node, "timeout_seconds": 60, **fields}
        )

    return make


@pytest.fixture
def web(world, fleet):
    """Make a deployment on the node, wait until its pods are Ready, and give their uids by name."""

    async def make(replicas: int = 2, **spec) -> dict[str, str]:
        await world.create(replicas=replicas, **spec)
        await world.ready(replicas)
        return await fleet.pods("web")

    return make


@pytest.fixture
def named(namespace):
    """Pods as they are told of."""
    return lambda names: [f"{namespace}/{name}" for name in sorted(names)]


async def drained(step, scene):
    return await ACTION.apply(step, await ACTION.prepare(step, scene), scene)


async def test_a_node_is_drained_and_can_be_opened_again(web, world, fleet, step, in_cluster, named):
    before = await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    assert plan.summary == f"Drain {fleet.node}: cordon it, evict 2 pods"
    assert [pod["name"] for pod in plan.before["pods"]] == named(before)
    assert plan.manual_reason == "the pods that were evicted do not move back"
    outcome = await ACTION.apply(step(), plan, scene)
    assert outcome.outcome == "succeeded"
    assert outcome.output == {
        "evicted": named(before),
        "evicted_count": 2,
        "left": [],
        "left_count": 0,
        "cordoned": True,
    }
    assert await fleet.cordoned()
    await world.ready(2)
    assert await fleet.nodes_of_pods() == {fleet.other_node}
    uncordon, back = KubernetesUncordon(**plan.inverse.step), replace(scene, expected=plan.inverse.expected)
    action = CordonAction(unschedulable=False)
    await action.apply(uncordon, await action.prepare(uncordon, back), back)
    assert not await fleet.cordoned()


async def test_a_plan_changes_nothing_and_is_the_same_again(web, fleet, step, in_cluster):
    await web()
    before = (await fleet.all(), await fleet.node_object())
    plan = await ACTION.prepare(step(), in_cluster())
    assert await ACTION.prepare(step(), in_cluster()) == plan
    assert (await fleet.all(), await fleet.node_object()) == before


async def test_pods_of_daemon_sets_and_mirror_pods_stay(web, fleet, step, in_cluster):
    await web(1)
    await fleet.add_daemons()
    mirror = await fleet.add_pod("static", annotations=MIRROR)
    stay = [uid for name, uid in (await fleet.pods()).items() if name.startswith("agent")]
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    assert plan.summary.endswith("evict 1 pod; 1 daemon set pod and 1 mirror pod stay")
    assert (await ACTION.apply(step(), plan, scene)).outcome == "succeeded"
    assert {mirror, *stay} <= set((await fleet.pods()).values())


async def test_a_node_without_pods_is_cordoned(fleet, step, in_cluster):
    plan = await ACTION.prepare(step(), in_cluster())
    assert plan.summary == f"Drain {fleet.node}: cordon it, there is no pod to evict"
    assert (await ACTION.apply(step(), plan, in_cluster())).outcome == "succeeded"
    assert await fleet.cordoned()


async def test_pods_that_would_be_lost_forbid_it_and_are_named(fleet, step, in_cluster, namespace):
    for number in range(11):
        await fleet.add_pod(f"alone-{number:02}")
    await fleet.add_pod("data", volumes=({"name": "cache", "emptyDir": {}},))
    shown = ", ".join(f"{namespace}/alone-{number:02}" for number in range(10))
    with pytest.raises(PermanentError) as caught:
        await ACTION.prepare(step(), in_cluster())
    assert str(caught.value) == (
        f"{fleet.node} cannot be drained: nothing would bring back 12 pods ({shown} and 2 more); force evicts them; "
        f"emptyDir volumes would be lost with 1 pod ({namespace}/data); delete_emptydir_data evicts them"
    )
    with pytest.raises(PermanentError, match=r"drained: emptyDir volumes would be lost with 1 pod"):
        await ACTION.prepare(step(force=True), in_cluster())
    outcome = await drained(step(force=True, delete_emptydir_data=True), in_cluster())
    assert (outcome.outcome, outcome.output["evicted_count"]) == ("succeeded", 12)
    assert await fleet.pods() == {}


async def test_a_pod_that_has_ended_needs_no_leave(fleet, step, in_cluster):
    await fleet.add_pod("done", volumes=({"name": "cache", "emptyDir": {}},))
    await fleet.finish("done")
    assert (await drained(step(), in_cluster())).output["evicted_count"] == 1


async def test_in_a_namespace_that_is_being_deleted_nothing_can_be_evicted_and_pods_are_waited_for(
    fleet, step, in_cluster, monkeypatch
):
    looked = []
    of_node = Pods.of_node

    async def watched(pods, node):
        looked.append(await of_node(pods, node))
        return looked[-1]

    async def has_taken_stock_and_looked_again() -> bool:
        return len(looked) > 1

    async with fleet.closing_namespace("slow") as namespace:
        kubernetes = in_cluster().clients.kubernetes

        async def is_leaving() -> bool:
            return all(pod.leaving for pod in await kubernetes.pods.of_node(fleet.node))

        await until(is_leaving)
        (pod,) = await kubernetes.pods.of_node(fleet.node)
        assert "because it is being terminated" in (await kubernetes.pods.evict(pod)).why
        scene, the_step = in_cluster(), step()
        plan = await ACTION.prepare(the_step, scene)
        monkeypatch.setattr(Pods, "of_node", watched)
        applied = asyncio.create_task(ACTION.apply(the_step, plan, scene))
        await until(has_taken_stock_and_looked_again)
        assert not applied.done()
    assert (await applied).output["evicted"] == [f"{namespace}/slow"]


async def test_a_pod_that_must_not_go_and_came_after_the_plan_stops_it(web, fleet, step, in_cluster):
    before = await web(1)
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await fleet.add_pod("alone")
    outcome = await ACTION.apply(step(), plan, scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", False)
    assert outcome.error.message.endswith("force evicts them; it is uncordoned again")
    assert before.items() <= (await fleet.pods()).items()
    assert not await fleet.cordoned()


async def test_a_budget_that_holds_a_pod_back_is_told_and_waited_for(web, fleet, step, in_cluster):
    before = await web()
    await fleet.add_budget("web")
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    assert "; held back now: 2 pods, the first is " in plan.summary
    assert plan.summary.endswith("The disruption budget web-budget needs 2 healthy pods and has 2 currently")
    assert [one["name"].partition("/")[2] for one in plan.after["held_now"]] == sorted(before)
    assert await fleet.pods() == before
    applied = asyncio.create_task(ACTION.apply(step(), plan, scene))
    await until(fleet.cordoned)
    await fleet.allow("web", 1)
    assert (await applied).outcome == "succeeded"
    assert before.keys().isdisjoint(await fleet.pods())


async def test_a_budget_that_holds_to_the_end_fails_it_and_the_node_is_opened_again(
    web, fleet, step, in_cluster, named
):
    before = await web()
    await fleet.add_budget("web")
    await fleet.add_pod("done")
    await fleet.finish("done")
    outcome = await drained(step(timeout_seconds=1.5), in_cluster())
    assert (outcome.outcome, outcome.error.temporary) == ("failed", True)
    why = "The disruption budget web-budget needs 2 healthy pods and has 2 currently"
    first, second = named(before)
    assert outcome.error.message == (
        f"{fleet.node} was not drained within 1.5 s; 1 of 3 pods are gone; held back: {first} ({why}), "
        f"{second} ({why}); it is uncordoned again"
    )
    assert outcome.output["evicted"] == named(["done"])
    assert outcome.output["left"] == [{"pod": first, "why": why}, {"pod": second, "why": why}]
    assert outcome.output["cordoned"] is False
    assert not await fleet.cordoned()
    assert await fleet.pods() == before


async def test_a_node_that_was_cordoned_before_stays_so_whatever_happens(web, fleet, step, in_cluster):
    await web()
    await fleet.add_budget("web")
    await fleet.mark(unschedulable=True)
    plan = await ACTION.prepare(step(), in_cluster())
    assert plan.summary.startswith(f"Drain {fleet.node}: it is cordoned already, evict 2 pods")
    assert plan.inverse is None
    assert plan.manual_reason.startswith("it was cordoned before and stays so")
    outcome = await ACTION.apply(step(timeout_seconds=1), plan, in_cluster())
    assert outcome.outcome == "failed"
    assert outcome.error.message.endswith("it was cordoned by somebody else and stays so")
    assert await fleet.cordoned()
    await fleet.allow("web", 2)
    assert (await ACTION.apply(step(), plan, in_cluster())).outcome == "succeeded"
    assert await fleet.cordoned()


async def test_a_node_that_somebody_cordons_after_the_plan_is_not_opened(web, fleet, step, in_cluster):
    await web()
    await fleet.add_budget("web")
    scene, brief = in_cluster(), step(timeout_seconds=1)
    plan = await ACTION.prepare(brief, scene)
    await fleet.mark(unschedulable=True)
    assert (await ACTION.apply(brief, plan, scene)).outcome == "failed"
    assert await fleet.cordoned()


async def test_a_retry_knows_that_the_cordon_is_its_own(web, fleet, step, in_cluster):
    """The worker is lost after it has cordoned: the cordon stands, and nobody told how it went."""
    before = await web()
    await fleet.add_budget("web")
    scene, brief = in_cluster(), step(timeout_seconds=1)
    begun = await ACTION.prepare(brief, scene)
    applied = asyncio.create_task(ACTION.apply(step(), begun, scene))
    await until(fleet.cordoned)
    applied.cancel()
    with pytest.raises(asyncio.CancelledError):
        await applied
    again = replace(scene, begun=begun)
    assert await ACTION.prepare(brief, again) == begun
    assert (await ACTION.apply(brief, begun, again)).error.message.endswith("it is uncordoned again")
    await fleet.allow("web", 2)
    assert (await ACTION.apply(step(), begun, again)).outcome == "succeeded"
    assert before.keys().isdisjoint(await fleet.pods())


async def test_applied_twice_it_drains_once(web, fleet, world, step, in_cluster):
    await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await ACTION.apply(step(), plan, scene)
    await world.ready(2)
    after = await fleet.pods()
    assert (await ACTION.apply(step(), plan, scene)).output["evicted_count"] == 0
    assert await fleet.pods() == after


async def test_a_pod_that_was_replaced_after_the_plan_goes_too(web, fleet, world, step, in_cluster):
    before = await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await fleet.delete(min(before))
    await world.ready(2)
    assert (await ACTION.apply(step(), plan, scene)).outcome == "succeeded"
    await world.ready(2)
    assert await fleet.nodes_of_pods() == {fleet.other_node}


async def test_a_pod_that_does_not_go_ends_it_in_time_with_its_own_grace(web, fleet, step, in_cluster):
    before = await web(1)
    scene, brief = in_cluster(), step(timeout_seconds=1, grace_period_seconds=7)
    plan = await ACTION.prepare(brief, scene)
    fleet.kubelet.paused = True
    outcome = await ACTION.apply(brief, plan, scene)
    assert outcome.outcome == "failed"
    assert [one["why"] for one in outcome.output["left"]] == ["it is shutting down"]
    assert (await fleet.pod(*before)).metadata.deletion_grace_period_seconds == 7


async def test_another_node_of_the_same_name_is_not_drained(fleet, step, in_cluster):
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    await fleet.make_node_anew()
    outcome = await ACTION.apply(step(), plan, scene)
    assert outcome.outcome == "failed"
    assert f"{fleet.node} is another node now" in outcome.error.message
    assert outcome.error.message.endswith("it was not cordoned")
    assert await ACTION.prepare(step(), replace(scene, begun=plan)) != plan


async def test_a_missing_node_and_missing_rights_are_said(step, in_cluster, grant):
    with pytest.raises(PermanentError, match="node none does not exist"):
        await ACTION.prepare(step(node="none"), in_cluster())
    await grant("pods", "list", group="")
    with pytest.raises(PermanentError) as caught:
        await ACTION.prepare(step(), in_cluster("nobody"))
    needed = ("get nodes", "patch nodes", "list pods", "create pods/eviction")  # in all namespaces, not in one
    assert str(caught.value) == "; ".join(f"the right to {one} is missing" for one in needed)


async def test_an_api_that_is_lost_in_the_middle_is_told_and_leaves_the_cordon(web, fleet, step, in_cluster, cluster):
    await web()
    await fleet.add_budget("web")
    scene = in_cluster()
    begun = await ACTION.prepare(step(), scene)
    applied = asyncio.create_task(ACTION.apply(step(timeout_seconds=1.5), begun, scene))
    await until(fleet.cordoned)
    with cluster.without_api():
        outcome = await applied
    assert outcome.outcome in {"failed", "unknown"}  # unknown where an eviction was on its way at that very moment
    if outcome.outcome == "failed":
        assert outcome.error.temporary
        assert "the Kubernetes API cannot be reached" in outcome.error.message
        assert outcome.error.message.endswith("it is still cordoned")
        assert outcome.output["cordoned"] is True
    await fleet.allow("web", 2)
    again = replace(scene, begun=begun)
    assert (await ACTION.apply(step(), await ACTION.prepare(step(), again), again)).outcome == "succeeded"


class Told:
    """Evictions are answered with what a test says, and counted."""

    def __init__(self, inner, answer) -> None:
        self._inner = inner
        self._answer = answer
        self.asked = 0

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def evict(self, pod, **options):
        self.asked += 1
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer


@pytest.mark.parametrize("answer", [Held("not yet", 3600.0), TemporaryError("not yet", 3600.0)])
async def test_the_api_is_not_asked_again_before_it_said(web, step, in_cluster, answer):
    await web(1)
    scene, brief = in_cluster(), step(timeout_seconds=1)
    plan = await ACTION.prepare(brief, scene)
    scene.clients.kubernetes.pods = told = Told(scene.clients.kubernetes.pods, answer)
    outcome = await ACTION.apply(brief, plan, scene)
    assert (outcome.outcome, outcome.output["left"][0]["why"], told.asked) == ("failed", "not yet", 1)


async def test_a_right_that_is_lost_in_the_middle_ends_it_at_once(web, fleet, step, in_cluster):
    await web()
    scene = in_cluster()
    plan = await ACTION.prepare(step(), scene)
    scene.clients.kubernetes.pods = Told(scene.clients.kubernetes.pods, PermanentError("the right is missing"))
    outcome = await ACTION.apply(step(), plan, scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", False)
    assert outcome.error.message.startswith("the right is missing; 0 of 2 pods are gone; ")
    assert not await fleet.cordoned()


@pytest.mark.parametrize(("part", "said"), [("pods", "(not yet)"), ("nodes", "it was not cordoned")])
@pytest.mark.parametrize("error", [TemporaryError("not yet"), PermanentError("not yet")])
async def test_what_is_asked_as_the_time_ends_is_heard(web, fleet, step, in_cluster, part, said, error):
    await web(1)
    scene, brief = in_cluster(), step(timeout_seconds=2)
    plan = await ACTION.prepare(brief, scene)
    kubernetes = scene.clients.kubernetes
    setattr(kubernetes, part, RefusedLate(getattr(kubernetes, part), brief.timeout_seconds, error))
    outcome = await ACTION.apply(brief, plan, scene)
    assert (outcome.outcome, outcome.error.temporary) == ("failed", isinstance(error, TemporaryError))
    assert said in outcome.error.message
    assert not await fleet.cordoned()


class Unanswered:
    """The API stops answering at the moment of a write."""

    def __init__(self, inner, frozen) -> None:
        self._inner = inner
        self._frozen = frozen

    def __getattr__(self, name):
        return getattr(self._inner, name)

    async def evict(self, pod, **options):
        self._frozen.__enter__()
        return await self._inner.evict(pod, **options)

    async def mark(self, node, **options):
        self._frozen.__enter__()
        return await self._inner.mark(node, **options)


@pytest.mark.parametrize(("part", "said"), [("pods", "was not answered"), ("nodes", "nobody knows whether")])
async def test_a_write_that_is_not_answered_is_unknown_and_the_retry_goes_on(
    web, fleet, step, in_cluster, cluster, part, said
):
    before = await web(1)
    scene, brief = in_cluster(timeout_s=1.5), step(timeout_seconds=5)
    begun = await ACTION.prepare(brief, in_cluster())
    frozen = cluster.frozen()
    kubernetes = scene.clients.kubernetes
    setattr(kubernetes, part, Unanswered(getattr(kubernetes, part), frozen))
    outcome = await ACTION.apply(brief, begun, scene)
    frozen.__exit__(None, None, None)
    assert outcome.outcome == "unknown"
    assert said in str(outcome)
    again = replace(in_cluster(), begun=begun)
    plan = await ACTION.prepare(step(), again)
    assert plan == begun
    assert (await ACTION.apply(step(), plan, again)).outcome == "succeeded"
    assert before.keys().isdisjoint(await fleet.pods())
    assert await fleet.cordoned()
