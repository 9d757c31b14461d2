from typing import Annotated, get_args, get_origin

import pytest

from app.actions.http import HttpAction
from app.actions.kubernetes_cordon import CordonAction
from app.actions.kubernetes_drain import DrainAction
from app.actions.kubernetes_restart import RestartAction
from app.actions.kubernetes_rollout_undo import RolloutUndoAction
from app.actions.kubernetes_scale import ScaleAction
from app.actions.registry import ACTIONS, action_for
from app.actions.shell import ShellAction
from app.actions.slack import SlackAction
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

DEPLOYMENT = {"type": "kubernetes", "namespace": "a", "deployment": "b"}
NODE = {"type": "kubernetes", "node": "a"}


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (HttpStep(type="http", url="https://example.com"), HttpAction),
        (ShellStep(type="shell", host="a", command="b"), ShellAction),
        (SlackStep(type="slack", channel="#a", message="b"), SlackAction),
        (KubernetesScale(**DEPLOYMENT, action="scale", replicas=1), ScaleAction),
        (KubernetesRestart(**DEPLOYMENT, action="restart"), RestartAction),
        (KubernetesCordon(**NODE, action="cordon"), CordonAction),
        (KubernetesUncordon(**NODE, action="uncordon"), CordonAction),
        (KubernetesDrain(**NODE, action="drain"), DrainAction),
        (KubernetesRolloutUndo(**DEPLOYMENT, action="rollout-undo"), RolloutUndoAction),
    ],
)
def test_each_step_has_its_action(step, kind):
    assert isinstance(action_for(step), kind)


def kinds_in(union):
    """The models in a union of models and of unions."""
    inner = get_args(get_args(union)[0] if get_origin(union) is Annotated else union)
    return {kind for one in inner for kind in ({one} if isinstance(one, type) else kinds_in(one))}


def test_no_kind_of_step_is_without_an_action():
    assert set(ACTIONS) == kinds_in(Step)
