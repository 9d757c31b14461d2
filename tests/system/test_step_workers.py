"""Workers that carry out some kinds of steps only, beside whole ones that leave these to them."""

import signal
import subprocess
import sys

import pytest
from processes import Api, http_worker, incident

RUNBOOK = {
    "name": "two-kinds",
    "trigger": {"service_id": "s"},
    "steps": [
        {"type": "slack", "channel": "#ops", "message": "begins"},
        incident("{{ steps[0].status }}"),
    ],
}


@pytest.fixture
def environment(environment):
    return environment | {"RUNBOOKS_WORKER__ELSEWHERE": '["http"]'}


@pytest.fixture
def near(environment, tmp_path, unused_tcp_port_factory, session):
    """What starts a worker for http steps, in its own data folder, and its probes."""
    port = unused_tcp_port_factory()
    process = http_worker(environment, tmp_path, port)
    return process, Api(f"http://127.0.0.1:{port}", session)


async def test_each_does_its_own_kinds_and_a_killed_one_loses_nothing(worker, api, publish, near, stand_ins):
    await api.put_runbook(RUNBOOK)
    await publish("anomaly-events", {"anomaly_id": "a", "service_id": "s", "metric_name": "m"})
    http_worker, probes = near
    await http_worker.start()
    try:
        await http_worker.ready(probes)
        (item,) = await api.ended(1)
        assert (item["status"], [one["title"] for one in stand_ins.incidents.values()]) == ("succeeded", ["succeeded"])
        await http_worker.end(signal.SIGKILL)
        await publish("anomaly-events", {"anomaly_id": "b", "service_id": "s", "metric_name": "m"})
        await http_worker.start()
        items = await api.ended(2)
        assert {item["status"] for item in items} == {"succeeded"}
        assert len(stand_ins.incidents) == 2
        async with probes.session.get(f"{probes.url}/api/v1/runbooks") as answer:
            assert answer.status == 404
    finally:
        await http_worker.end(signal.SIGKILL)


def test_a_kind_that_another_group_carries_out_is_refused_at_the_start(worker, environment, tmp_path):
    own = environment | {"RUNBOOKS_WORKER__ELSEWHERE": "", "RUNBOOKS_DATA_DIR": str(tmp_path / "near")}
    command = [sys.executable, "-m", "app.cli", "worker", "--actions", "slack"]
    done = subprocess.run(command, env=own, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    group = environment["RUNBOOKS_KAFKA__GROUP_ID"]
    said = f"runbooks: the consumer group {group} reads step-commands.slack too, and such steps would be done twice"
    assert done.stderr.splitlines()[-1].startswith(said)
