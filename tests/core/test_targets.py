"""What an execution will act on, as far as its request tells."""

import pytest
from building import T0, Story, http, requested, scale, slack

from app.core.anomaly import anomaly_of


@pytest.mark.parametrize(
    ("step", "targets"),
    [
        (scale(), ("deployment/n/d",)),
        (scale(deployment="{{ anomaly.service_id }}-{{ context.zone }}"), ("deployment/n/pay-a",)),
        (scale(deployment="{{ steps[0].output.name }}"), ()),
        (scale(deployment="{{ anomaly.nothing }}"), ()),
        ({"type": "kubernetes", "action": "drain", "node": "n1"}, ("node/n1",)),
        ({"type": "shell", "host": "h1", "command": "true"}, ("host/h1",)),
        (http(), ()),
        (slack(), ()),
    ],
)
def test_of_each_kind_of_step(step, targets):
    anomaly = anomaly_of({"service_id": "pay", "metric_name": "m"}, anomaly_id="a", received_at=T0)
    request = requested(step, context={"zone": "a"}).model_copy(update={"anomaly": anomaly})
    assert Story(request).state.targets == targets


def test_each_once_and_none_of_a_dry_run():
    steps = [{"type": "shell", "host": "h1", "command": "true"}, scale(), scale()]
    assert Story(requested(*steps)).state.targets == ("deployment/n/d", "host/h1")
    assert Story(requested(*steps, dry_run=True)).state.targets == ()
