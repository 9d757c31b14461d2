"""Mark a node as unschedulable, or as schedulable again: each is the other's way back."""

from pydantic import JsonValue

from app.actions.scene import Scene
from app.clients.kubernetes import Node, Right, check_same
from app.core.errors import Drifted
from app.core.planning import Inverse, Outcome, Prepared
from app.core.steps import KubernetesCordon, KubernetesUncordon

RIGHTS = (Right("get", "nodes"), Right("patch", "nodes"))
WORDS = {True: "cordon", False: "uncordon"}


class CordonAction:
    """Prepare reads the node; apply marks it only if it is still the same and still as it was."""

    def __init__(self, *, unschedulable: bool) -> None:
        """Cordon, or uncordon."""
        self._wanted = unschedulable

    async def prepare(self, step: KubernetesCordon | KubernetesUncordon, scene: Scene) -> Prepared:
        """Whether it has to be marked.

        Raises PermanentError when the API would refuse it, Drifted when a rollback finds another node of that name.
        """
        kubernetes = scene.clients.kubernetes
        await kubernetes.require_rights(*RIGHTS)
        node = await kubernetes.nodes.read(step.node)
        if scene.expected is not None and node.uid != (left := _uid(scene.expected)):
            raise Drifted(f"it has drifted: {node.name} is the node {node.uid}, and this execution marked {left}")
        plan = _gone_on_with(scene.begun, self._plan(node), node)
        if plan is not scene.begun:
            await kubernetes.nodes.mark(node, unschedulable=self._wanted, dry_run=True)
        return plan

    async def apply(self, step: KubernetesCordon | KubernetesUncordon, plan: Prepared, scene: Scene) -> Outcome:
        """Mark it; a node that is marked already is a success without a write."""
        nodes = scene.clients.kubernetes.nodes
        node = await nodes.read(step.node)
        check_same(node, _uid(plan.before))
        changed = await nodes.mark(node, unschedulable=self._wanted)
        return Outcome(outcome="succeeded", output={"unschedulable": self._wanted, "changed": changed})

    def _plan(self, node: Node) -> Prepared:
        does, undoes = WORDS[self._wanted], WORDS[not self._wanted]
        named: dict[str, JsonValue] = {"type": "kubernetes", "node": node.name}
        after = {"unschedulable": self._wanted, "uid": node.uid}
        changes = node.unschedulable != self._wanted
        return Prepared.of(
            f"{does.capitalize()} {node.name}" if changes else f"{node.name} is {does}ed already",
            params={**named, "action": does},
            before={"unschedulable": node.unschedulable, "uid": node.uid},
            after=after,
            inverse=Inverse(step={**named, "action": undoes}, expected=after) if changes else None,
            manual_reason=None if changes else f"it was {does}ed before; it is left as it was",
        )


def _gone_on_with(begun: Prepared | None, plan: Prepared, node: Node) -> Prepared:
    """The plan that was begun, for it knows how the node was before; not if it left the node alone and now must not."""
    if begun is None or _uid(begun.before) != node.uid or (begun.inverse is None and plan.inverse is not None):
        return plan
    return begun


def _uid(told: JsonValue) -> str:
    assert isinstance(told, dict)
    return str(told["uid"])
