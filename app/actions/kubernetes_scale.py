"""Set a deployment's replica count."""

from pydantic import JsonValue

from app.actions.scene import Scene
from app.clients.kubernetes import Right
from app.core.errors import Drifted, PermanentError
from app.core.planning import Inverse, Outcome, Prepared
from app.core.steps import KubernetesScale


class ScaleAction:
    """Prepare reads the count and has the API try the change; apply changes it only if it is still that."""

    async def prepare(self, step: KubernetesScale, scene: Scene) -> Prepared:
        """From what to what.

        Raises PermanentError when a right is missing, when the API would refuse the change, or when a rollback finds
        that somebody else changed the count.
        """
        wanted, kubernetes = _replicas(step), scene.clients.kubernetes
        await kubernetes.require_rights(_right("get", step), _right("patch", step))
        found = (await kubernetes.read_scale(step.namespace, step.deployment)).replicas
        if scene.begun is not None and found in {_count(scene.begun.before), _count(scene.begun.after)}:
            return scene.begun
        _check_drift(scene.expected, found, wanted)
        if found != wanted:
            await kubernetes.set_scale(
                step.namespace, step.deployment, replicas=wanted, expected_replicas=found, dry_run=True
            )
        return _plan(step, found, wanted)

    async def apply(self, step: KubernetesScale, plan: Prepared, scene: Scene) -> Outcome:
        """Change it; a count that is already there is a success without a write."""
        wanted, before = _replicas(step), _count(plan.before)
        kubernetes = scene.clients.kubernetes
        if (await kubernetes.read_scale(step.namespace, step.deployment)).replicas == wanted:
            return Outcome(outcome="succeeded", output={"replicas": wanted, "changed": False})
        done = await kubernetes.set_scale(step.namespace, step.deployment, replicas=wanted, expected_replicas=before)
        return Outcome(outcome="succeeded", output={"replicas": done.replicas, "changed": True})


def _plan(step: KubernetesScale, found: int, wanted: int) -> Prepared:
    named = f"{step.namespace}/{step.deployment}"
    summary = f"Scale {named} from {found} to {wanted}" if found != wanted else f"{named} is already at {wanted}"
    back = {"type": "kubernetes", "action": "scale", "namespace": step.namespace, "deployment": step.deployment}
    return Prepared.of(
        summary,
        params={**back, "replicas": wanted},
        before={"replicas": found},
        after={"replicas": wanted},
        inverse=Inverse(step={**back, "replicas": found}, expected={"replicas": wanted}),
    )


def _right(verb: str, step: KubernetesScale) -> Right:
    return Right(verb, "deployments/scale", "apps", step.namespace, step.deployment)


def _replicas(step: KubernetesScale) -> int:
    if not isinstance(step.replicas, int):
        raise PermanentError(f"replicas renders to {step.replicas!r}, not to a whole number")
    return step.replicas


def _count(value: JsonValue) -> int:
    assert isinstance(value, dict)
    count = value["replicas"]
    assert isinstance(count, int)
    return count


def _check_drift(expected: JsonValue, found: int, wanted: int) -> None:
    """A count that is already the wanted one is no drift: an earlier attempt took effect and its answer was lost."""
    if expected is not None and found not in {_count(expected), wanted}:
        raise Drifted(f"it has drifted: the count is {found}, and this execution left it at {_count(expected)}")
