"""A client that traces its calls is linked to what it started, where traces are exported."""

import pytest

from app.core.spans import read_traceparent

GIVEN = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
ALERT = {"alerts": [{"status": "firing", "labels": {"service": "s", "alertname": "m"}}]}
STARTING = {
    "/api/v1/runbooks/execute": {"runbook_name": "scale-out-payment-api"},
    "/api/v1/anomalies": {"service_id": "s", "metric_name": "m"},
    "/api/v1/webhooks/alertmanager": ALERT,
}


@pytest.mark.parametrize("path", STARTING)
@pytest.mark.parametrize("traced", [True, False])
async def test_whoever_asks_is_told_of_in_the_records_headers(world, serve, path, traced):
    web = await serve(world.parts(traced=traced))
    answer = await web.call("POST", path, STARTING[path], headers={"traceparent": GIVEN})
    assert answer.status == 202, answer
    assert world.log.came_from == [read_traceparent(GIVEN) if traced else None]


async def test_what_is_no_span_is_not_passed_on(world, serve):
    web = await serve(world.parts(traced=True))
    for given in ({}, {"traceparent": "00-nonsense"}):
        assert (
            await web.call("POST", "/api/v1/anomalies", {"service_id": "s", "metric_name": "m"}, headers=given)
        ).status
    assert world.log.came_from == [None, None]
