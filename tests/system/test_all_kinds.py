"""Every kind of step through the real worker and Kafka, on a real Kubernetes control plane and a real sshd."""

import tempfile
from pathlib import Path

import pytest
from processes import on_cluster
from sshd import inventory
from waiting import until


@pytest.fixture
def user():
    return "runbook-engine"


@pytest.fixture
def environment(environment, cluster, sshd, tmp_path, user):
    hosts = {"RUNBOOKS_SSH__INVENTORY": str(inventory(tmp_path, prod_host_01=sshd.entry()))}
    return environment | on_cluster(cluster, user) | hosts


@pytest.fixture
def marker():
    """A file on the host that the account may make."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        yield folder / "done"


def kube(action, **fields):
    return {"type": "kubernetes", "action": action, **fields}


@pytest.fixture
def steps(released, fleet, marker):
    """One of every kind and action, in an order in which each has something to do."""
    web = {"namespace": released.namespace, "deployment": "web"}
    return [
        {"type": "slack", "channel": "#ops", "message": "{{ anomaly.service_id }} begins"},
        {
            "type": "http",
            "method": "POST",
            "url": "$PAGERDUTY_URL/incidents",
            "headers": {"Authorization": "Token $PAGERDUTY_API_TOKEN"},
            "body": {"title": "{{ anomaly.service_id }}"},
        },
        {"type": "shell", "host": "prod-host-01", "command": f"echo {{{{ steps[1].output.status }}}} > {marker}"},
        kube("scale", **web, replicas=3),
        kube("restart", **web),
        kube("rollout-undo", **web),
        kube("cordon", node=fleet.other_node),
        kube("uncordon", node=fleet.other_node),
        kube("drain", node=fleet.node),
    ]


async def everything(world, fleet, stand_ins, marker):
    """What the steps could change anywhere."""
    cluster = [await world.deployment(), await fleet.all(), await fleet.unschedulable()]
    return [*cluster, len(stand_ins.messages), len(stand_ins.incidents), marker.exists()]


async def test_dry_and_then_for_real(worker, api, publish, steps, released, fleet, stand_ins, marker):
    await api.put_runbook({"name": "all", "trigger": {"service_id": "s"}, "steps": steps})
    before = await everything(released, fleet, stand_ins, marker)
    body = {"runbook_name": "all", "dry_run": True, "context": {"service_id": "s"}}
    status, dry = await api.call("POST", "/api/v1/runbooks/execute", body)
    assert (status, dry["status"]) == (200, "succeeded"), dry
    where, node, other = f"{released.namespace}/web", fleet.node, fleet.other_node
    summaries = [step["summary"] for step in dry["plan"]]
    assert summaries[3:] == [
        f"Scale {where} from 2 to 3",
        f"Restart {where}: delete 2 pods one at a time",
        summaries[5],
        f"Cordon {other}",
        summaries[7],
        f"Drain {node}: cordon it, evict 2 pods",
    ]
    assert [step["reversible"] for step in dry["plan"]] == [False, False, False, True, False, True, True, False, True]
    assert all(step["inverse"] or step["manual_reason"] for step in dry["plan"][:7])
    assert dry["plan"][3]["inverse"]["replicas"] == 2
    assert await everything(released, fleet, stand_ins, marker) == before

    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    items = await api.ended(2, timeout_s=120)
    real = next(item for item in items if not item["dry_run"])
    assert [(step["status"], step["error"]) for step in real["steps"]] == [("succeeded", None)] * 9
    assert marker.read_text() == "201\n"
    assert real["steps"][2]["output"]["exit_status"] == 0
    assert (await released.replicas(), await released.image()) == (3, "example/app:1")
    assert await fleet.unschedulable() == [True, False]
    await until(lambda: fleet.runs_on({other}))


async def test_a_failing_last_step_takes_back_what_can_be(
    worker, api, publish, steps, released, fleet, stand_ins, marker
):
    undo = {
        "type": "shell",
        "host": "prod-host-01",
        "command": f'test "{{{{ steps[2].output.exit_status }}}}" = 0 && rm {marker}',
    }
    broken = {"type": "shell", "host": "prod-host-01", "command": "exit 3"}
    shell = {**steps[2], "rollback": undo}
    chosen = [steps[0], steps[1], shell, *steps[3:7], broken]
    runbook = {"name": "back", "trigger": {"service_id": "s"}, "steps": chosen, "rollback_on_failure": True}
    await api.put_runbook(runbook)
    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    (item,) = await api.ended(1, timeout_s=120)
    assert item["status"] == "rolled_back", item
    assert item["reason"] == "step 8 failed: the command exited with status 3"
    back = [(step["index"], step["status"]) for step in item["rollback"]["steps"]]
    assert back == [
        (6, "succeeded"),
        (5, "succeeded"),
        (4, "manual"),
        (3, "succeeded"),
        (2, "succeeded"),
        (1, "manual"),
        (0, "manual"),
    ]
    assert item["rollback"]["status"] == "partial"
    assert (await released.replicas(), await released.image()) == (2, "example/app:2")
    assert await fleet.unschedulable() == [False, False]
    assert not marker.exists()


async def test_what_somebody_changed_meanwhile_is_let_be(worker, api, publish, released, steps):
    """Between the scale and the failure somebody else sets the count: recorded as drifted, with both numbers."""
    waits = {"type": "http", "url": "http://127.0.0.1:9/", "require_approval": True}
    runbook = {"name": "drift", "trigger": {"service_id": "s"}, "steps": [steps[3], waits], "on_halt": "rollback"}
    await api.put_runbook(runbook)
    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    waiting = await api.waiting()
    await released.change(replicas=4)
    path = f"/api/v1/executions/{waiting['execution_id']}/approvals"
    assert (await api.call("POST", path, {"decision": "reject"}, roles=["approver"]))[0] == 200
    (item,) = await api.ended(1)
    (step,) = item["rollback"]["steps"]
    assert (item["status"], step["status"]) == ("rollback_failed", "drifted")
    assert step["error"] == "it has drifted: the count is 4, and this execution left it at 3"
    assert await released.replicas() == 4


@pytest.mark.parametrize("user", ["nobody"])
async def test_a_dry_run_names_every_missing_thing_at_once(worker, api, steps, released, fleet, stand_ins, marker):
    missing = [
        *steps[3:],
        {**steps[2], "host": "prod-host-1"},
        {**steps[2], "environment": {"TOKEN": "$NO_SUCH"}},
        {**steps[1], "headers": {"X": "$NEITHER"}},
    ]
    await api.put_runbook({"name": "missing", "steps": missing})
    before = await everything(released, fleet, stand_ins, marker)
    body = {"runbook_name": "missing", "dry_run": True, "context": {"service_id": "s"}}
    status, plan = await api.call("POST", "/api/v1/runbooks/execute", body)
    assert (status, plan["status"]) == (200, "failed")
    errors = [step["error"] for step in plan["plan"]]
    assert all("the right to " in error for error in errors[:6]), errors
    assert "patch deployments/scale" in errors[0] or "get deployments/scale" in errors[0]
    assert "prod-host-01" in errors[6]
    assert "$NO_SUCH is missing" in errors[7]
    assert "$NEITHER is missing" in errors[8]
    assert await everything(released, fleet, stand_ins, marker) == before
