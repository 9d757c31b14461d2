import pytest
from building import T0

from app.core.errors import TemporaryError

PATH = "/api/v1/anomalies"
EVENT = {"service_id": "payment-api", "metric_name": "cpu_usage_percent", "anomaly_score": 0.93, "zone": {"rack": 4}}


async def publish(web, body=None, **fields):
    return await web.call("POST", PATH, EVENT if body is None else body, roles=["publisher"], **fields)


async def test_one_event_is_published_under_its_service(web, world):
    answer = await publish(web)
    assert (answer.status, answer.body) == (202, {"anomaly_ids": ["id-1"]})
    ((anomaly, key),) = world.log.anomalies
    assert key == "payment-api"
    assert (anomaly.anomaly_id, anomaly.tenant_id, anomaly.timestamp) == ("id-1", "default", T0)
    assert (anomaly.anomaly_score, anomaly.model_extra) == (0.93, {"zone": {"rack": 4}})


async def test_the_callers_id_and_time_are_kept(web, world):
    answer = await publish(web, {**EVENT, "anomaly_id": "mine", "timestamp": 1767236400})
    assert answer.body == {"anomaly_ids": ["mine"]}
    assert world.log.anomalies[0][0].timestamp == T0


async def test_many_events_keep_their_order(web, world):
    events = [{**EVENT, "anomaly_id": f"a{number}"} for number in range(500)]
    answer = await publish(web, {"events": events})
    assert answer.body["anomaly_ids"] == [f"a{number}" for number in range(500)]
    assert len(world.log.anomalies) == 500


async def test_an_event_may_have_a_field_called_events(web, world):
    assert (await publish(web, {**EVENT, "events": [1, 2]})).status == 202
    assert len(world.log.anomalies) == 1
    answer = await publish(web, {"events": [1, 2], "metric_name": "m"})
    assert [one["path"] for one in answer.body["problems"]] == ["service_id"]


@pytest.mark.parametrize("events", [[], [EVENT] * 501, EVENT, "x", None])
async def test_a_batch_is_a_list_of_1_to_500(web, events):
    answer = await publish(web, {"events": events})
    assert (answer.status, answer.body["problems"][0]["path"]) == (400, "events")


async def test_all_or_none_are_taken_and_every_problem_is_told(web, world):
    wrong = [EVENT, {**EVENT, "anomaly_score": 1.5}, 5, {"service_id": "s"}]
    answer = await publish(web, {"events": wrong})
    assert answer.status == 400
    assert [one["path"] for one in answer.body["problems"]] == [
        "events[1].anomaly_score",
        "events[2]",
        "events[3].metric_name",
    ]
    assert world.log.anomalies == []


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"anomaly_score": "0.9"}, "anomaly_score"),
        ({"anomaly_score": -0.1}, "anomaly_score"),
        ({"service_id": ""}, "service_id"),
        ({"service_id": 5}, "service_id"),
        ({"timestamp": "yesterday"}, "timestamp"),
        ({"labels": {"a": 1}}, "labels.a"),
        ({"extra": "x" * 256 * 1024}, ""),
    ],
)
async def test_a_wrong_field_is_named(web, world, change, path):
    answer = await publish(web, {**EVENT, **change})
    assert answer.status == 400
    assert [one["path"] for one in answer.body["problems"]] == [path]
    assert world.log.anomalies == []


async def test_nan_is_refused(web):
    raw = b'{"service_id": "s", "metric_name": "m", "anomaly_score": NaN}'
    assert (await publish(web, raw=raw)).status == 400


async def test_an_event_belongs_to_the_callers_tenant(web, world):
    assert (await publish(web, {**EVENT, "tenant_id": None}, tenant="other")).status == 202
    assert (await publish(web, {**EVENT, "tenant_id": "other"}, tenant="other")).status == 202
    assert {anomaly.tenant_id for anomaly, _ in world.log.anomalies} == {"other"}
    answer = await publish(web, {"events": [EVENT, {**EVENT, "tenant_id": "other"}]})
    assert (answer.status, answer.body["detail"]) == (403, "events[1].tenant_id is not the token's tenant")
    assert (await publish(web, {**EVENT, "tenant_id": {}})).status == 403
    assert len(world.log.anomalies) == 2


async def test_a_broker_that_does_not_answer_is_told(web, world):
    world.log.error = TemporaryError("no")
    assert (await publish(web)).status == 503
