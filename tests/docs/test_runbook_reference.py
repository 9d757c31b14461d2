"""The reference page: its examples are read and run, and its tables say what the models say."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
from building import Story, requested
from fakes import clients_towards, running_stand_ins
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from sshd import inventory
from waiting import until

from app.actions.runner import Claim, Runner
from app.clients.ssh import SshClient
from app.core.lifecycle import decide
from app.core.runbook import MetricCheck, Runbook, Trigger, read_runbook
from app.core.steps import (
    HttpStep,
    KubernetesCordon,
    KubernetesDrain,
    KubernetesRestart,
    KubernetesRolloutUndo,
    KubernetesScale,
    KubernetesUncordon,
    Retries,
    ShellStep,
    SlackStep,
    Step,
    StepFields,
)

PAGE = Path("docs/runbook-reference.md").read_text()
MODELS: dict[str, type[BaseModel]] = {
    "Runbook": Runbook,
    "Trigger": Trigger,
    "rollback_metric_check": MetricCheck,
    "Every step": StepFields,
    "retries": Retries,
    "http": HttpStep,
    "slack": SlackStep,
    "kubernetes scale": KubernetesScale,
    "kubernetes restart": KubernetesRestart,
    "kubernetes rollout-undo": KubernetesRolloutUndo,
    "kubernetes cordon": KubernetesCordon,
    "kubernetes uncordon": KubernetesUncordon,
    "kubernetes drain": KubernetesDrain,
    "shell": ShellStep,
}
UNITS = {"seconds": "seconds", "minutes": "minutes"}
NOW = datetime(2026, 1, 1, tzinfo=UTC)
CONTEXT = {
    "service_id": "payment-api",
    "metric_name": "cpu_usage_percent",
    "value": 97.5,
    "labels": {"region": "eu", "node": "worker-7"},
}


class Example(NamedTuple):
    """One fenced JSON text of the page."""

    section: str
    content: dict[str, Any]

    @property
    def runbook(self) -> dict[str, Any]:
        return self.content if "steps" in self.content else {"name": "example", "steps": [self.content]}

    @property
    def is_real(self) -> bool:
        """Whether it needs a cluster or a host; a deployment's scale is all that the stand-ins know."""
        steps = self.runbook["steps"]
        return any(step["type"] == "shell" or step.get("action", "scale") != "scale" for step in steps)

    def placed(self, namespace: str, node: str) -> "Example":
        """The same in the test's own part of the cluster."""
        text = json.dumps(self.content).replace('"production"', f'"{namespace}"').replace("worker-7", node)
        text = text.replace('"deployment": "payment-api"', '"deployment": "web"').replace(
            "{{ anomaly.labels.node }}", node
        )
        return Example(self.section, json.loads(text))


class Row(NamedTuple):
    """One line of a table of fields."""

    kind: str
    default: str


def sections() -> dict[str, str]:
    title, *parts = re.split(r"^## (.+)$", PAGE, flags=re.MULTILINE)
    return {"": title, **dict(zip(parts[::2], parts[1::2], strict=True))}


def examples() -> list[Example]:
    fenced = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    return [Example(name, json.loads(found[1])) for name, text in sections().items() for found in fenced.finditer(text)]


def rows(section: str) -> dict[str, Row]:
    """The section's fields; a default's words after a colon explain it."""
    lines = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+?) \|", sections()[section], re.MULTILINE)
    return {name: Row(kind, default.split(":")[0].replace("`", "")) for name, kind, default in lines}


def own_fields(model: type[BaseModel]) -> dict[str, FieldInfo]:
    """The fields that a model's own section tells: those of every step only where it has them otherwise."""
    common = StepFields.model_fields if issubclass(model, StepFields) and model is not StepFields else {}
    return {
        name: field
        for name, field in model.model_fields.items()
        if name != "type" and (name not in common or field.default != common[name].default)
    }


def said(field: FieldInfo) -> str:
    """A default as the page writes it."""
    if field.is_required():
        return "needed"
    match field.get_default(call_default_factory=True):
        case None:
            return "none"
        case Retries():
            return "one attempt"
        case bool(value):
            return str(value).lower()
        case float(value):
            return f"{value:g}"
        case "":
            return "empty"
        case ():
            return "[]"
        case value:
            return str(value)


def kinds(union: Any) -> Iterator[type[StepFields]]:
    """The models in a union of unions."""
    if isinstance(union, type):
        yield union
    for inner in get_args(union):
        yield from kinds(inner)


EXAMPLES = examples()
KINDS = list(kinds(Step))


def test_every_fence_is_an_example_and_every_kind_of_step_has_one_in_its_section():
    assert PAGE.count("```") == 2 * len(EXAMPLES)
    shown = {(example.section, type(read_runbook(example.runbook).steps[0])) for example in EXAMPLES}
    assert {(name, model) for name, model in MODELS.items() if model in KINDS} <= shown
    assert set(KINDS) <= set(MODELS.values())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda one: one.section or "first")
def test_every_example_is_taken_as_it_is_written(example):
    assert read_runbook(example.runbook).steps


@pytest.mark.parametrize("section", MODELS)
def test_the_tables_hold_the_fields_and_their_defaults(section):
    told = rows(section)
    if section == "Every step":
        assert told.pop("type").default == "needed"
    fields = own_fields(MODELS[section])
    assert {name: row.default for name, row in told.items()} == {name: said(field) for name, field in fields.items()}
    for name, row in told.items():
        unit = UNITS.get(name.rpartition("_")[2])
        assert unit is None or row.kind.startswith(unit), f"{name} tells no unit"


@pytest.mark.parametrize("section", MODELS)
def test_every_field_stands_in_an_example(section):
    used = {key for example in EXAMPLES for key in _keys(example.content)}
    unseen = set(own_fields(MODELS[section])) - used - {"tenant", "dry_run", "service_id", "to_template", "force"}
    assert unseen == set()


def _keys(value: Any) -> set[str]:
    match value:
        case dict():
            return set(value).union(*map(_keys, value.values()))
        case list():
            return set().union(*map(_keys, value))
        case _:
            return set()


async def assert_is_planned(example: Example, clients, folder: Path) -> None:
    """The example is planned, step by step, by the real runner; no secret's value is in what is kept of it."""
    runbook = read_runbook(example.runbook)
    wanted = requested(dry_run=True, context=CONTEXT).model_copy(update={"runbook": runbook})
    for name in (name for step in runbook.steps for name in step.secret_names()):
        (folder / "secrets" / "default" / name).write_text(f"the value of {name}")
    story = Story(wanted)
    runner = Runner(clients, "me", 15.0, 5.0, lambda: NOW, lambda: 0.0)

    async def record(event):
        story.tell(event)

    while due := decide(story.state):
        await runner.run(due[0], Claim(until=60.0, held=lambda: True), record)
    assert {step.status for step in story.state.steps} == {"planned"}, story.state
    assert "the value of" not in story.state.model_dump_json()


@pytest.mark.parametrize(
    "example", [one for one in EXAMPLES if not one.is_real], ids=lambda one: one.section or "first"
)
async def test_the_examples_are_planned_and_change_nothing(example, tmp_path):
    async with running_stand_ins() as stand_ins, clients_towards(stand_ins, tmp_path) as clients:
        await assert_is_planned(example, clients, tmp_path)
        assert (stand_ins.messages, stand_ins.scalings, stand_ins.incidents) == ([], [], {})


async def test_those_of_clusters_and_hosts_are_planned_on_real_ones_and_change_nothing(
    tmp_path, world, fleet, kubernetes_as, sshd
):
    await world.create(replicas=2)
    for number in (2, 3, 4):
        await world.release(f"example/app:{number}")
    await world.ready(2)
    await until(lambda: fleet.all_run(2))
    ssh = SshClient(inventory(tmp_path, prod_host_01=sshd.entry()), {})
    before = await everything(world, fleet)
    async with running_stand_ins() as stand_ins, clients_towards(stand_ins, tmp_path) as towards:
        clients = replace(towards, kubernetes=kubernetes_as(), ssh=ssh)
        for example in (one for one in EXAMPLES if one.is_real):
            await assert_is_planned(example.placed(world.namespace, fleet.node), clients, tmp_path)
    await ssh.close()
    assert await everything(world, fleet) == before


async def everything(world, fleet) -> list[Any]:
    """What could have been changed: the deployment, its pods, and the nodes but for their signs of life."""
    return [await world.deployment(), await fleet.all(), await fleet.unschedulable()]


def test_every_kind_of_step_is_among_what_is_run():
    assert {type(step) for example in EXAMPLES for step in read_runbook(example.runbook).steps} == set(KINDS)
