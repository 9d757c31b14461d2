"""Cordon a node and evict its pods."""

from collections.abc import Sequence

from pydantic import JsonValue

from app.actions.drain_rules import Load, check_allowed, sorted_out
from app.actions.draining import Draining
from app.actions.few_at_once import few_at_once
from app.actions.pod_texts import count
from app.actions.scene import Scene
from app.clients.kubernetes import Held, KubernetesClient, Node, Pod, Right
from app.core.planning import Inverse, Outcome, Prepared
from app.core.steps import KubernetesDrain

RIGHTS = (Right("get", "nodes"), Right("patch", "nodes"), Right("list", "pods"), Right("create", "pods/eviction"))
NOT_BACK = "the pods that were evicted do not move back"
WAS_CORDONED = "it was cordoned before and stays so, and the pods that were evicted do not move back"


class DrainAction:
    """Prepare tells which pods would go and asks, for each, whether it may; apply evicts until none is left."""

    async def prepare(self, step: KubernetesDrain, scene: Scene) -> Prepared:
        """What is evicted, what stays and what is held back now; raises PermanentError naming pods that forbid it."""
        kubernetes = scene.clients.kubernetes
        await kubernetes.require_rights(*RIGHTS)
        node = await kubernetes.nodes.read(step.node)
        if scene.begun is not None and _uid(scene.begun) == node.uid:
            return scene.begun
        load = sorted_out(await kubernetes.pods.of_node(step.node), step)
        check_allowed(step.node, load)
        await kubernetes.nodes.mark(node, unschedulable=True, dry_run=True)
        return _plan(step, node, load, await _held_now(kubernetes, [pod for pod in load.due if not pod.leaving], step))

    async def apply(self, step: KubernetesDrain, plan: Prepared, scene: Scene) -> Outcome:
        """Drain it within timeout_seconds; if that fails, a node that this step cordoned is uncordoned again."""
        return await Draining(step, plan, scene).run()


async def _held_now(kubernetes: KubernetesClient, pods: Sequence[Pod], step: KubernetesDrain) -> list[tuple[Pod, Held]]:
    """The pods whose eviction the API would refuse at this moment, and what it says; nothing is evicted."""

    async def tried(pod: Pod) -> tuple[Pod, Held | str]:
        return pod, await kubernetes.pods.evict(pod, grace_period_s=step.grace_period_seconds, dry_run=True)

    return [(pod, answer) for pod, answer in await few_at_once(tried, pods) if isinstance(answer, Held)]


def _plan(step: KubernetesDrain, node: Node, load: Load, held: list[tuple[Pod, Held]]) -> Prepared:
    before: dict[str, JsonValue] = {
        "unschedulable": node.unschedulable,
        "uid": node.uid,
        "pods": [{"name": pod.named, "uid": pod.uid} for pod in load.due],
    }
    after: dict[str, JsonValue] = {
        "unschedulable": True,
        "uid": node.uid,
        "stay": {"daemon_set_pods": len(load.daemons), "mirror_pods": len(load.mirrors)},
        "held_now": [{"name": pod.named, "why": one.why} for pod, one in held],
    }
    back: dict[str, JsonValue] = {"type": "kubernetes", "action": "uncordon", "node": node.name}
    expected = {"unschedulable": True, "uid": node.uid}
    return Prepared.of(
        _summary(node, load, held),
        params=step.model_dump(
            mode="json",
            include={"type", "action", "node", "force", "delete_emptydir_data", "grace_period_seconds"},
        ),
        before=before,
        after=after,
        inverse=None if node.unschedulable else Inverse(step=back, expected=expected),
        manual_reason=WAS_CORDONED if node.unschedulable else NOT_BACK,
    )


def _summary(node: Node, load: Load, held: list[tuple[Pod, Held]]) -> str:
    evict = f"evict {count(len(load.due))}" if load.due else "there is no pod to evict"
    parts = [f"Drain {node.name}: {'it is cordoned already' if node.unschedulable else 'cordon it'}, {evict}"]
    stay = [(load.daemons, "daemon set pod"), (load.mirrors, "mirror pod")]
    told = [count(len(pods), noun) for pods, noun in stay if pods]
    if told:
        parts.append(f"{' and '.join(told)} stay")
    if held:
        pod, first = held[0]
        parts.append(f"held back now: {count(len(held))}, the first is {pod.named}: {first.why}")
    return "; ".join(parts)


def _uid(plan: Prepared) -> JsonValue:
    return plan.before["uid"] if isinstance(plan.before, dict) else None
