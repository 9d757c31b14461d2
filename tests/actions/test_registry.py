from typing import get_args

import pytest

from app.actions.http import HttpAction
from app.actions.kubernetes_scale import ScaleAction
from app.actions.registry import ACTIONS, action_for
from app.actions.shell import ShellAction
from app.actions.slack import SlackAction
from app.core.steps import HttpStep, KubernetesScale, ShellStep, SlackStep, Step


@pytest.mark.parametrize(
    ("step", "kind"),
    [
        (HttpStep(type="http", url="https://example.com"), HttpAction),
        (ShellStep(type="shell", host="a", command="b"), ShellAction),
        (SlackStep(type="slack", channel="#a", message="b"), SlackAction),
        (KubernetesScale(type="kubernetes", action="scale", namespace="a", deployment="b", replicas=1), ScaleAction),
    ],
)
def test_each_step_has_its_action(step, kind):
    assert isinstance(action_for(step), kind)


def test_no_kind_of_step_is_without_an_action():
    assert set(ACTIONS) == set(get_args(get_args(Step)[0]))
