import pytest

ALERT = {
    "status": "firing",
    "fingerprint": "f1",
    "startsAt": "2026-01-01T03:00:00.123456789Z",
    "endsAt": "0001-01-01T00:00:00Z",
    "generatorURL": "http://prometheus/graph",
    "labels": {"alertname": "HighCpu", "service": "payment-api", "severity": "page", "region": "eu"},
    "annotations": {"summary": "cpu is high", "value": "93.5"},
}


async def send(web, *alerts, **fields):
    body = {"version": "4", "status": "firing", "receiver": "runbooks", "alerts": list(alerts), **fields}
    return await web.call("POST", "/api/v1/webhooks/alertmanager", body, roles=["publisher"])


async def test_a_firing_alert_becomes_an_event(web, world):
    answer = await send(web, ALERT)
    assert answer.status == 202
    assert answer.body["ignored"] == 0
    ((anomaly, key),) = world.log.anomalies
    assert (anomaly.service_id, anomaly.metric_name, key) == ("payment-api", "HighCpu", "payment-api")
    assert (anomaly.anomaly_score, anomaly.value, anomaly.severity) == (1.0, 93.5, "page")
    assert anomaly.labels["region"] == "eu"
    assert anomaly.timestamp.isoformat() == "2026-01-01T03:00:00.123456+00:00"
    assert anomaly.model_extra["annotations"]["summary"] == "cpu is high"


async def test_the_same_alert_again_is_the_same_event(web):
    first, second = await send(web, ALERT), await send(web, ALERT)
    assert first.body["anomaly_ids"] == second.body["anomaly_ids"] == ["f1/2026-01-01T03:00:00.123456789Z"]
    again = await send(web, {**ALERT, "startsAt": "2026-01-02T03:00:00Z"})
    assert again.body["anomaly_ids"] != first.body["anomaly_ids"]


async def test_without_a_fingerprint_the_labels_tell_alerts_apart(web):
    alert = {name: value for name, value in ALERT.items() if name != "fingerprint"}
    other = {**alert, "labels": {**alert["labels"], "pod": "p2"}}
    answer = await send(web, alert, other, alert)
    first, second, third = answer.body["anomaly_ids"]
    assert first == third != second


@pytest.mark.parametrize(
    ("labels", "service", "metric"),
    [
        ({"service_id": "a", "service": "b", "job": "c", "metric_name": "m", "alertname": "n"}, "a", "m"),
        ({"service": "b", "job": "c", "alertname": "n"}, "b", "n"),
        ({"job": "c", "alertname": "n"}, "c", "n"),
    ],
)
async def test_service_and_metric_come_from_the_labels(web, world, labels, service, metric):
    await send(web, {**ALERT, "labels": labels})
    anomaly = world.log.anomalies[0][0]
    assert (anomaly.service_id, anomaly.metric_name) == (service, metric)


async def test_a_score_may_stand_in_a_label_or_an_annotation(web, world):
    labels = {**ALERT["labels"], "anomaly_score": "0.8"}
    await send(web, {**ALERT, "labels": labels}, {**ALERT, "annotations": {"anomaly_score": "0.6"}})
    assert [anomaly.anomaly_score for anomaly, _ in world.log.anomalies] == [0.8, 0.6]


async def test_resolved_alerts_are_counted_and_not_published(web, world):
    answer = await send(web, {**ALERT, "status": "resolved"}, ALERT)
    assert (answer.status, answer.body["ignored"], len(answer.body["anomaly_ids"])) == (202, 1, 1)
    only = await send(web, {**ALERT, "status": "resolved"}, status="resolved")
    assert (only.status, only.body) == (202, {"anomaly_ids": [], "ignored": 1, "problems": []})
    assert len(world.log.anomalies) == 1


def numbered(count, **fields):
    return [{**ALERT, "fingerprint": f"f{number}", **fields} for number in range(count)]


@pytest.mark.parametrize("count", [500, 501, 1700])
async def test_a_storm_is_taken_whole(web, world, count):
    answer = await send(web, *numbered(count))
    assert (answer.status, answer.body["ignored"], answer.body["problems"]) == (202, 0, [])
    ids = [f"f{number}/{ALERT['startsAt']}" for number in range(count)]
    assert answer.body["anomaly_ids"] == [anomaly.anomaly_id for anomaly, _ in world.log.anomalies] == ids


async def test_resolved_alerts_keep_no_firing_one_back_however_many_they_are(web, world):
    answer = await send(web, *numbered(500, status="resolved"), {**ALERT, "fingerprint": "new"})
    assert (answer.status, answer.body["ignored"]) == (202, 500)
    assert answer.body["anomaly_ids"] == [anomaly.anomaly_id for anomaly, _ in world.log.anomalies]
    assert len(world.log.anomalies) == 1


async def test_a_notification_larger_than_a_body_may_be_is_a_413(serve, world):
    answer = await send(await serve(world.parts(max_body_bytes=64 * 1024)), *numbered(500))
    assert (answer.status, world.log.anomalies) == (413, [])


async def test_in_a_storm_too_one_that_cannot_be_taken_keeps_none_back(web, world, caplog):
    bare = [{**one, "labels": {"alertname": "NoService"}} for one in numbered(600)]
    answer = await send(web, *bare, ALERT)
    assert (answer.status, answer.body["anomaly_ids"]) == (202, [f"f1/{ALERT['startsAt']}"])
    paths = [one["path"] for one in answer.body["problems"]]
    assert paths == [f"alerts[{place}].service_id" for place in range(50)]
    (record,) = [one for one in caplog.records if one.message == "alerts_refused"]
    assert (record.refused, len(record.problems)) == (600, 50)


async def test_one_that_cannot_be_taken_does_not_keep_the_others_back(web, world, caplog):
    bare = {**ALERT, "labels": {"alertname": "NoService"}}
    answer = await send(web, bare, ALERT)
    assert (answer.status, len(answer.body["anomaly_ids"])) == (202, 1)
    assert [one["path"] for one in answer.body["problems"]] == ["alerts[0].service_id"]
    assert "alerts_refused" in caplog.text


@pytest.mark.parametrize(
    "change",
    [{"labels": {}}, {"labels": None}, {"labels": {"job": "j", "alertname": "n", "anomaly_score": "NaN"}}],
)
async def test_when_none_can_be_taken_it_is_refused(web, world, change):
    assert (await send(web, {**ALERT, **change})).status == 400
    assert world.log.anomalies == []


@pytest.mark.parametrize("alerts", [None, {}, [], [5], "x"])
async def test_what_is_no_list_of_alerts_is_refused(web, alerts):
    body = {"alerts": alerts}
    answer = await web.call("POST", "/api/v1/webhooks/alertmanager", body, roles=["publisher"])
    assert (answer.status, answer.body["problems"][0]["path"][:6]) == (400, "alerts")


async def test_what_is_no_alert_is_named_and_keeps_none_back(web, world):
    answer = await send(web, 5, {"status": "firing"}, ALERT, {"labels": []}, {"labels": {"job": "j"}})
    assert (answer.status, len(world.log.anomalies)) == (202, 1)
    problems = [(one["path"], one["message"]) for one in answer.body["problems"]]
    assert problems[:3] == [(f"alerts[{place}]", "must be an object with labels") for place in (0, 1, 3)]
    assert problems[3][0] == "alerts[4].metric_name"


async def test_it_belongs_to_the_callers_tenant(web, world):
    body = {"alerts": [ALERT]}
    await web.call("POST", "/api/v1/webhooks/alertmanager", body, roles=["publisher"], tenant="other")
    assert world.log.anomalies[0][0].tenant_id == "other"
