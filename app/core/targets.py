"""What an execution will act on, as far as it is known before it begins: ``deployment/production/payment-api``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from app.core.errors import TemplateError
from app.core.runbook import Runbook
from app.core.steps import DeploymentFields, NodeFields, ShellStep, Step
from app.core.templating import render

Named = tuple[str, ...]
"""The kind of a target and what names it: templates, not rendered yet."""


def named_targets(runbook: Runbook) -> tuple[Named, ...]:
    """What the steps of a runbook act on; a step that has no target two could be in the way of gives none."""
    return tuple(named for step in runbook.steps if (named := _named(step)) is not None)


def targets_of(named: Iterable[Named], variables: Mapping[str, Any]) -> tuple[str, ...]:
    """These deployments, nodes and hosts, each once and sorted.

    variables: what is known at the request, so without ``steps``: a name that an earlier step's output will give is not
    among the targets.
    """
    return tuple(sorted({target for one in named for target in _rendered(one, variables)}))


def _rendered(named: Named, variables: Mapping[str, Any]) -> Iterator[str]:
    try:
        yield "/".join(str(render(part, variables)) for part in named)
    except TemplateError:
        return


def _named(step: Step) -> Named | None:
    match step:
        case DeploymentFields():
            return "deployment", step.namespace, step.deployment
        case NodeFields():
            return "node", step.node
        case ShellStep():
            return "host", step.host
        case _:
            return None
