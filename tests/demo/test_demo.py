"""The demo's files: the product page's runbook, led to the stand-ins, and the anomaly that starts it."""

import json
from dataclasses import replace
from pathlib import Path

from fakes import clients_towards

from app.actions.registry import action_for
from app.actions.scene import Scene
from app.core.anomaly import Anomaly
from app.core.runbook import read_runbook

PAGE = Path("runbooks/scale-out-payment-api.json")
DEMO = Path("examples/demo/runbooks/scale-out-payment-api.json")
ANOMALY = Path("examples/demo/anomaly.json")


def test_the_demos_runbook_is_the_product_pages_but_for_the_address():
    page, demo = json.loads(PAGE.read_text()), json.loads(DEMO.read_text())
    assert page["steps"][1] == demo["steps"][1]
    assert page["steps"][2]["url"] == "https://api.pagerduty.com/incidents"
    assert page["steps"][2] | {"url": "$PAGERDUTY_URL/incidents"} == demo["steps"][2]
    assert {**page, "steps": page["steps"][0]} == {**demo, "steps": demo["steps"][0]}


def test_both_can_be_read():
    for path in (PAGE, DEMO):
        assert read_runbook(json.loads(path.read_text())).name == "scale-out-payment-api"


def test_the_demos_anomaly_is_one_that_the_trigger_wants():
    trigger = read_runbook(json.loads(DEMO.read_text())).trigger
    anomaly = Anomaly.model_validate({**json.loads(ANOMALY.read_text()), "anomaly_id": "a", "timestamp": 0})
    assert (anomaly.service_id, anomaly.metric_name) == (trigger.service_id, trigger.metric_name)
    assert anomaly.anomaly_score > 0.7


async def test_its_steps_run_on_the_stand_ins(stand_ins, tmp_path):
    steps = read_runbook(json.loads(DEMO.read_text())).steps
    async with clients_towards(stand_ins, tmp_path) as clients:
        scene = Scene(tenant="default", command_id="", expected=None, clients=clients)
        outcomes = []
        for index, step in enumerate(steps):
            named = replace(scene, command_id=f"execution/1/{index}/apply/1")
            plan = await action_for(step).prepare(step, named)
            outcomes.append(await action_for(step).apply(step, plan, named))
    assert [one.outcome for one in outcomes] == ["succeeded"] * 3
    assert stand_ins.messages[0]["text"] == steps[0].message
    assert stand_ins.replicas == {"production/payment-api": 5}
    assert list(stand_ins.incidents) == ["execution/1/2/apply/1"]
