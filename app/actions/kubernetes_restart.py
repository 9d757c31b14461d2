"""Restart a deployment's pods: delete them one at a time, or let the deployment roll them out anew."""

from pydantic import JsonValue

from app.actions.few_at_once import few_at_once
from app.actions.pod_texts import count
from app.actions.replacing import Replacing, deployed
from app.actions.rolling import Rolling
from app.actions.scene import Scene
from app.clients.kubernetes import Right
from app.core.errors import PermanentError
from app.core.model import JsonObject
from app.core.planning import Outcome, Prepared
from app.core.steps import KubernetesRestart

MANUAL = "a restart cannot be undone"
MAX_PODS = 200  # one at a time, more would take hours; and the plan names each


class RestartAction:
    """Prepare tells which pods go; apply replaces these and no others, however often it is begun."""

    async def prepare(self, step: KubernetesRestart, scene: Scene) -> Prepared:
        """What will be restarted; raises PermanentError for a paused deployment, or when the API would refuse it."""
        await scene.clients.kubernetes.require_rights(*_rights(step))
        plan = await (_by_rollout if step.strategy == "rollout" else _by_deletion)(step, scene)
        return scene.begun if scene.begun is not None and _uid(scene.begun) == _uid(plan) else plan

    async def apply(self, step: KubernetesRestart, plan: Prepared, scene: Scene) -> Outcome:
        """Restart them within timeout_seconds; the output tells how far it came."""
        running = Rolling if step.strategy == "rollout" else Replacing
        return await running(step, plan, scene.clients.kubernetes).run()


async def _by_deletion(step: KubernetesRestart, scene: Scene) -> Prepared:
    deployment, found = await deployed(scene.clients.kubernetes, step)
    _check_running(step, paused=deployment.spec.paused)
    pods = sorted((pod for pod in found if not pod.leaving), key=lambda pod: pod.metadata.name)
    if len(pods) > MAX_PODS:
        raise PermanentError(
            f"{_named(step)} has {len(pods)} pods: more than {MAX_PODS} are not deleted one at a time; use the "
            "strategy rollout"
        )
    await few_at_once(lambda pod: scene.clients.kubernetes.pods.delete(pod, dry_run=True), pods)
    told: list[JsonValue] = [{"name": pod.metadata.name, "uid": pod.uid} for pod in pods]
    does = f"delete {count(len(pods))} one at a time" if len(pods) != 1 else "delete its 1 pod"
    return _plan(step, does if pods else None, {"uid": deployment.metadata.uid, "pods": told})


async def _by_rollout(step: KubernetesRestart, scene: Scene) -> Prepared:
    """Marked with the step that restarts them, so that this step, however often it is applied, restarts them once."""
    rollouts = scene.clients.kubernetes.rollouts
    rollout = await rollouts.read(step.namespace, step.deployment)
    _check_running(step, paused=rollout.spec.paused)
    if rollout.spec.replicas:
        await rollouts.restart(rollout, _mark(scene), dry_run=True)
    does = f"roll out {count(rollout.spec.replicas)} anew" if rollout.spec.replicas else None
    before: JsonObject = {"uid": rollout.metadata.uid, "restarted_at": rollout.restarted_at}
    return _plan(step, does, before, {"restarted_at": _mark(scene)})


def _mark(scene: Scene) -> str:
    """The same for every attempt, and for the plan that was approved; another for the step that takes it back."""
    place, phase, _attempt = scene.command_id.rsplit("/", 2)
    return f"{place}/rollback" if phase == "rollback" else place


def _plan(step: KubernetesRestart, does: str | None, before: JsonObject, after: JsonValue = None) -> Prepared:
    return Prepared.of(
        f"Restart {_named(step)}: {does}" if does else f"{_named(step)} has no pods to restart",
        params=step.model_dump(mode="json", include={"type", "action", "namespace", "deployment", "strategy"}),
        before=before,
        after=after,
        manual_reason=MANUAL if does else "there was nothing to restart",
    )


def _rights(step: KubernetesRestart) -> tuple[Right, ...]:
    namespace = step.namespace
    if step.strategy == "rollout":
        return tuple(Right(verb, "deployments", "apps", namespace, step.deployment) for verb in ("get", "patch"))
    return (
        Right("get", "deployments", "apps", namespace, step.deployment),
        Right("list", "replicasets", "apps", namespace),
        Right("list", "pods", namespace=namespace),
        Right("delete", "pods", namespace=namespace),
    )


def _check_running(step: KubernetesRestart, *, paused: bool) -> None:
    if paused:
        raise PermanentError(f"{_named(step)} is paused: it has to be resumed before it is restarted")


def _named(step: KubernetesRestart) -> str:
    return f"{step.namespace}/{step.deployment}"


def _uid(plan: Prepared) -> JsonValue:
    return plan.before["uid"] if isinstance(plan.before, dict) else None
