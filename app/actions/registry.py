"""Which action carries out which step: one line a kind."""

from collections.abc import Mapping
from typing import Any, Protocol

from app.actions.http import HttpAction
from app.actions.kubernetes_cordon import CordonAction
from app.actions.kubernetes_drain import DrainAction
from app.actions.kubernetes_restart import RestartAction
from app.actions.kubernetes_rollout_undo import RolloutUndoAction
from app.actions.kubernetes_scale import ScaleAction
from app.actions.scene import Scene
from app.actions.shell import ShellAction
from app.actions.slack import SlackAction
from app.core.planning import Outcome, Prepared
from app.core.steps import (
    HttpStep,
    KubernetesCordon,
    KubernetesDrain,
    KubernetesRestart,
    KubernetesRolloutUndo,
    KubernetesScale,
    KubernetesUncordon,
    ShellStep,
    SlackStep,
    Step,
)


class Action(Protocol):
    """A kind of step; the step it is given is rendered, its secrets still by name."""

    async def prepare(self, step: Any, scene: Scene) -> Prepared:
        """Plan without changing anything; the same world gives the same digest. Raises ActionError."""

    async def apply(self, step: Any, plan: Prepared, scene: Scene) -> Outcome:
        """Act, with what was prepared as the precondition. Raises ActionError."""


ACTIONS: Mapping[type[Step], Action] = {
    HttpStep: HttpAction(),
    KubernetesCordon: CordonAction(unschedulable=True),
    KubernetesDrain: DrainAction(),
    KubernetesRestart: RestartAction(),
    KubernetesRolloutUndo: RolloutUndoAction(),
    KubernetesScale: ScaleAction(),
    KubernetesUncordon: CordonAction(unschedulable=False),
    ShellStep: ShellAction(),
    SlackStep: SlackAction(),
}


def action_for(step: Step) -> Action:
    """The action of a step."""
    return ACTIONS[type(step)]
