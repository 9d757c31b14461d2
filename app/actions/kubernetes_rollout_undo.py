"""Go back to an earlier revision of a deployment, as ``kubectl rollout undo`` does."""

from dataclasses import dataclass

from pydantic import JsonValue

from app.actions.scene import Scene
from app.clients.kubernetes import Deployment, ReplicaSet, Right
from app.core.errors import Drifted, PermanentError, TemporaryError
from app.core.model import JsonObject
from app.core.planning import Inverse, Outcome, Prepared
from app.core.steps import KubernetesRolloutUndo

NONE_KEPT = "the deployment keeps no earlier revisions (revisionHistoryLimit is 0)"


@dataclass(frozen=True, slots=True)
class Rollout:
    """A deployment and the revisions it keeps, the newest first; current is None while that one is not made yet."""

    deployment: Deployment
    revisions: tuple[ReplicaSet, ...]

    @property
    def current(self) -> ReplicaSet | None:
        """The revision whose template the deployment has."""
        template = self.deployment.spec.template
        return next((one for one in self.revisions if one.template() == template), None)

    def by_template(self, template_hash: str) -> ReplicaSet | None:
        """The revision with this ``pod-template-hash``."""
        return next((one for one in self.revisions if one.template_hash == template_hash), None)

    def kept(self) -> str:
        """The numbers of its revisions, for a message."""
        return ", ".join(str(one.revision) for one in reversed(self.revisions))


class RolloutUndoAction:
    """Prepare finds both templates and has the API try the change; apply makes it if the first is still in force."""

    async def prepare(self, step: KubernetesRolloutUndo, scene: Scene) -> Prepared:
        """From which revision to which.

        Raises PermanentError when there is nothing to go back to, the deployment is paused, a right is missing, the
        API would refuse the change, or a rollback finds another template; TemporaryError while the deployment's
        controller has not made the current revision yet.
        """
        await scene.clients.kubernetes.require_rights(*_rights(step))
        rollout = await _read(step, scene)
        current = rollout.current
        if current is None:
            raise TemporaryError(f"{rollout.deployment.what}: its controller has not made its newest revision yet")
        if scene.begun is not None:
            if current.template_hash in {_template(scene.begun.before), _template(scene.begun.after)}:
                return scene.begun
            _check_absolute(step, current, scene.begun)
        target = _target(step, rollout, current)
        _check_drift(scene.expected, current, target)
        if target is not current:
            await scene.clients.kubernetes.go_back(rollout.deployment, target, dry_run=True)
        return _plan(step, rollout, current, target)

    async def apply(self, step: KubernetesRolloutUndo, plan: Prepared, scene: Scene) -> Outcome:
        """Change the template; one that is already there is a success without a write."""
        before, after = _template(plan.before), _template(plan.after)
        rollout = await _read(step, scene)
        current, target = rollout.current, rollout.by_template(after)
        found = current.template_hash if current is not None else "a new one"
        if found not in {before, after}:
            what = rollout.deployment.what
            raise PermanentError(f"{what} was not changed: its template is {found}, and {before} was expected")
        if target is None:
            raise PermanentError(f"{rollout.deployment.what} was not changed: it no longer keeps the template {after}")
        if target is not current:
            await scene.clients.kubernetes.go_back(rollout.deployment, target)
        output: JsonObject = {"template": after, "images": dict(target.images()), "changed": target is not current}
        return Outcome(outcome="succeeded", output=output)


async def _read(step: KubernetesRolloutUndo, scene: Scene) -> Rollout:
    """The deployment and its revisions; raises PermanentError when it is paused."""
    kubernetes = scene.clients.kubernetes
    deployment = await kubernetes.read_deployment(step.namespace, step.deployment)
    if deployment.spec.paused:
        raise PermanentError(f"{deployment.what} is paused: a change of its template would not be rolled out")
    return Rollout(deployment, await kubernetes.read_replica_sets(deployment))


def _rights(step: KubernetesRolloutUndo) -> tuple[Right, ...]:
    return (
        Right("get", "deployments", "apps", step.namespace, step.deployment),
        Right("patch", "deployments", "apps", step.namespace, step.deployment),
        Right("list", "replicasets", "apps", step.namespace),
    )


def _target(step: KubernetesRolloutUndo, rollout: Rollout, current: ReplicaSet) -> ReplicaSet:
    """The revision to go to; raises PermanentError when it is not kept."""
    what = rollout.deployment.what
    if step.to_template is not None:
        found = rollout.by_template(step.to_template)
        missing = f"{what} no longer keeps the template {step.to_template}"
    elif step.to_revision is not None:
        found = next((one for one in rollout.revisions if one.revision == step.to_revision), None)
        missing = f"{what} has no revision {step.to_revision}: it keeps {rollout.kept()}"
    else:
        found = next((one for one in rollout.revisions if one is not current and one.revision), None)
        missing = f"{what} has nothing to go back to: it keeps revision {rollout.kept()} only"
    if found is None:
        raise PermanentError(missing)
    return found


def _plan(step: KubernetesRolloutUndo, rollout: Rollout, current: ReplicaSet, target: ReplicaSet) -> Prepared:
    named = f"{step.namespace}/{step.deployment}"
    fields = {"type": "kubernetes", "action": "rollout-undo", "namespace": step.namespace}
    back: JsonObject = {**fields, "deployment": step.deployment}
    summary = f"Take {named} back from {_shown(current)} to {_shown(target)}"
    inverse = Inverse(step={**back, "to_template": current.template_hash}, expected={"template": target.template_hash})
    reversible = rollout.deployment.spec.revision_history_limit > 0 or target is current
    return Prepared.of(
        summary if target is not current else f"{named} is already at {_shown(target)}",
        params={**back, "to_template": target.template_hash},
        before=_view(current),
        after=_view(target),
        inverse=inverse if reversible else None,
        manual_reason=None if reversible else NONE_KEPT,
    )


def _view(revision: ReplicaSet) -> JsonObject:
    images: JsonObject = dict(revision.images())
    return {"revision": revision.revision, "template": revision.template_hash, "images": images}


def _shown(revision: ReplicaSet) -> str:
    cause = f": {revision.change_cause}" if revision.change_cause else ""
    return f"revision {revision.revision} ({', '.join(revision.images().values())}{cause})"


def _template(value: JsonValue) -> str:
    assert isinstance(value, dict)
    return str(value["template"])


def _check_drift(expected: JsonValue, current: ReplicaSet, target: ReplicaSet) -> None:
    """A template that is already the wanted one is no drift: an earlier attempt took effect, its answer was lost."""
    if expected is None or current.template_hash in {_template(expected), target.template_hash}:
        return
    said = f"it has drifted: the template is {current.template_hash}"
    raise Drifted(f"{said}, and this execution left it at {_template(expected)}")


def _check_absolute(step: KubernetesRolloutUndo, current: ReplicaSet, begun: Prepared) -> None:
    """What an earlier attempt may have done has moved "the one before" and the numbers; a hash stays what it is."""
    if step.to_template is None:
        between = f"{_template(begun.before)} to {_template(begun.after)}"
        found = f"the template is {current.template_hash}"
        raise PermanentError(f"{found}: an earlier attempt was to go from {between}, and this is neither")
