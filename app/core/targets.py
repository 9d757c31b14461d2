"""What an execution will act on, as far as it is known before it begins: ``deployment/production/payment-api``."""

from collections.abc import Iterator, Mapping
from typing import Any

from app.core.errors import TemplateError
from app.core.runbook import Runbook
from app.core.steps import DeploymentFields, NodeFields, ShellStep, Step
from app.core.templating import render


def targets_of(runbook: Runbook, variables: Mapping[str, Any]) -> tuple[str, ...]:
    """The deployments, nodes and hosts of all steps, each once and sorted.

    variables: what is known at the request, so without ``steps``: a name that an earlier step's output will give is not
    among the targets.
    """
    return tuple(sorted({target for step in runbook.steps for target in _of(step, variables)}))


def _of(step: Step, variables: Mapping[str, Any]) -> Iterator[str]:
    named = _named(step)
    if named is None:
        return
    try:
        yield "/".join(str(render(part, variables)) for part in named)
    except TemplateError:
        return


def _named(step: Step) -> tuple[str, ...] | None:
    """The kind of the target and what names it; None where a step has none that two could be in the way of."""
    match step:
        case DeploymentFields():
            return "deployment", step.namespace, step.deployment
        case NodeFields():
            return "node", step.node
        case ShellStep():
            return "host", step.host
        case _:
            return None
