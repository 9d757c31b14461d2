"""Approvals through the real worker and Kafka, clicked in the tests' Slack."""

import json
import signal
from pathlib import Path

import pytest
from aiokafka import AIOKafkaConsumer
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.partitioner import murmur2
from processes import DEMO_RUNBOOK
from slack_server import SlackServer
from waiting import until

from app.actions.approval_message import APPROVE, REASON_BLOCK, REASON_INPUT, REJECT
from app.core.ids import execution_id_for_anomaly
from app.streams.topics import read_topics

COMMANDS = "step-commands.slack"
USERS = {"users": [{"team": "T1", "user": "U1", "subject": "ann", "roles": ["approver"]}]}
SCALE = {**DEMO_RUNBOOK["steps"][1], "approval_channel": "#ops"}
GUARDED = {"name": "guarded", "trigger": {"service_id": "s"}, "steps": [SCALE]}
ANOMALY = {"service_id": "s", "metric_name": "m", "anomaly_score": 0.93}


@pytest.fixture(params=["http"])
def mode(request):
    return request.param


@pytest.fixture
async def slack(api):
    async with SlackServer(request_url=f"{api.url}/slack/interactions") as server:
        yield server
    assert server.violations == []


@pytest.fixture
def environment(environment, slack, mode, tmp_path):
    users = tmp_path / "slack-users.json"
    users.write_text(json.dumps(USERS))
    given = {
        "RUNBOOKS_SLACK__BOT_TOKEN": slack.bot_token,
        "RUNBOOKS_SLACK__BASE_URL": slack.base_url,
        "RUNBOOKS_SLACK__USERS_FILE": str(users),
    }
    if mode == "socket":
        slack.request_url = None
        return environment | given | {"RUNBOOKS_SLACK__APP_TOKEN": slack.app_token}
    return environment | given | {"RUNBOOKS_SLACK__SIGNING_SECRET": slack.signing_secret}


async def asked(slack, count=1):
    """The messages in #ops, once there are so many."""

    async def there():
        found = slack.posted("#ops")
        return found if len(found) >= count else None

    return await until(there)


async def reads(message, text):
    async def it_does():
        return text in message.text

    await until(it_does)
    assert message.buttons == []


@pytest.mark.parametrize("mode", ["http", "socket"], indirect=True)
async def test_from_the_anomaly_to_the_click_to_the_change(worker, api, publish, slack, stand_ins):
    await api.put_runbook(GUARDED)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})
    (message,) = await asked(slack)
    assert "Service: s | Score: 0.93 | Step 1 of 1" in message.text
    assert "Action: Scale production/payment-api from 3 to 5" in message.text
    assert stand_ins.replicas == {"production/payment-api": 3}
    if slack.request_url is None:
        await slack.connected(1)
    assert (await slack.person("U1").click(message, APPROVE)).error is None
    (item,) = await api.ended(1)
    assert (item["status"], item["approvers"]) == ("succeeded", ["ann"])
    vote = item["steps"][0]["approval"]["votes"][0]
    assert (vote["by"], vote["source"], vote["decision"]) == ("ann", "slack", "approve")
    assert stand_ins.replicas == {"production/payment-api": 5}
    await reads(message, "✅ approved by ann")
    assert len(slack.posted("#ops")) == 1


async def test_a_world_that_moved_is_asked_about_again(worker, api, publish, slack, stand_ins):
    await api.put_runbook(GUARDED)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})
    (first,) = await asked(slack)
    stand_ins.replicas["production/payment-api"] = 4
    await slack.person("U1").click(first, APPROVE)
    _, second = await asked(slack, 2)
    assert (
        "The plan has changed since it was approved: it was “Scale production/payment-api from 3 to 5”" in second.text
    )
    await reads(first, "↻ the plan changed, and it was asked again")
    assert stand_ins.replicas == {"production/payment-api": 4}
    await slack.person("U1").click(second, APPROVE)
    (item,) = await api.ended(1)
    assert item["status"] == "succeeded"
    assert [one["state"] for one in item["steps"][0]["superseded_approvals"]] == ["superseded"]
    assert stand_ins.replicas == {"production/payment-api": 5}
    assert stand_ins.scalings == [("production/payment-api", 5)]


BLOCKING = {"type": "slack", "channel": "#blocked", "message": "Well?", "require_approval": True}
BLOCKER = {"name": "blocker", "trigger": {"service_id": "b"}, "steps": [BLOCKING]}


def in_one_partition():
    """The anomalies of a blocker and of a guarded runbook whose commands stand in one partition, in this order."""
    topics = read_topics(Path("topics.yaml"), "any")
    count = next(topic.partitions for topic in topics if topic.name == COMMANDS)

    def place(number, name):
        execution = execution_id_for_anomaly("default", f"{name}-{number}", name)
        return (murmur2(execution.encode()) & 0x7FFFFFFF) % count

    same = next(number for number in range(1000) if place(number, "guarded") == place(0, "blocker"))
    blocker = {**ANOMALY, "service_id": "b", "anomaly_id": "blocker-0"}
    return blocker, {**ANOMALY, "anomaly_id": f"guarded-{same}"}


async def all_acknowledged(broker, group):
    """Whether the group has committed all commands to Slack that there are."""
    admin = AIOKafkaAdminClient(bootstrap_servers=broker)
    consumer = AIOKafkaConsumer(bootstrap_servers=broker)
    await admin.start()
    await consumer.start()
    try:
        committed = await admin.list_consumer_group_offsets(group)
        places = [place for place in committed if place.topic == COMMANDS]
        ends = await consumer.end_offsets(places)
        return bool(places) and all(committed[place].offset == end for place, end in ends.items() if end)
    finally:
        await consumer.stop()
        await admin.close()


async def test_killed_while_it_waits_the_request_is_neither_lost_nor_asked_again(
    worker, api, publish, slack, stand_ins, broker, environment
):
    await api.put_runbook(GUARDED)
    await api.put_runbook(BLOCKER)
    blocker, guarded = in_one_partition()
    slack.faults.hang("chat.postMessage", times=1, status=503)  # nothing behind it in its partition is committed
    await publish("anomaly-events", blocker)

    async def hangs():
        return slack.calls["chat.postMessage"]

    await until(hangs)
    await publish("anomaly-events", guarded)
    (message,) = await asked(slack)

    async def known():
        approval = (await waits(api))["steps"][0]["approval"]
        return approval if approval["notices"][0]["state"] == "posted" else None

    before = await until(known)
    await worker.end(signal.SIGKILL)
    group = environment["RUNBOOKS_KAFKA__GROUP_ID"]
    assert not await all_acknowledged(broker, group)
    await worker.start()
    await worker.ready(api)
    assert (await waits(api))["steps"][0]["approval"] == before

    async def past_the_lease():
        return await all_acknowledged(broker, group)

    await until(past_the_lease, 60.0)
    assert (len(slack.posted("#ops")), len(slack.posted("#blocked"))) == (1, 1)
    person = slack.person("U1")
    await person.click(message, REJECT)

    async def opened():
        return person.views

    (view,) = await until(opened)
    await person.submit(view, {f"{REASON_BLOCK}/{REASON_INPUT}": "not now"})
    (item,) = await api.ended(1, "service_id=s")
    assert (item["status"], item["reason"]) == ("halted", "rejected by ann: not now")
    assert stand_ins.replicas == {"production/payment-api": 3}
    await reads(message, "❌ rejected by ann: not now")
    assert len(slack.posted("#ops")) == 1


async def waits(api):
    """The guarded execution, once it waits."""

    async def found():
        return await api.history("status=awaiting_approval&service_id=s")

    return (await until(found))[0]


async def test_a_post_that_is_on_its_way_when_the_execution_is_cancelled_loses_its_buttons(worker, api, publish, slack):
    fault = slack.faults.hang("chat.postMessage", times=1)
    await api.put_runbook(GUARDED)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})

    async def hangs():
        return slack.calls["chat.postMessage"]

    await until(hangs)
    status, _ = await api.call("POST", f"/api/v1/executions/{(await api.waiting())['execution_id']}/cancel", {})
    assert status == 202
    (item,) = await api.ended(1)
    assert item["status"] == "cancelled"
    fault.release()
    (message,) = await asked(slack)
    await reads(message, "⏹ the execution was cancelled by tester")
    assert len(slack.posted("#ops")) == 1


async def test_silence_is_no_and_a_cancelled_request_is_withdrawn(worker, api, publish, slack, stand_ins):
    await api.put_runbook({**GUARDED, "steps": [{**SCALE, "approval_timeout_minutes": 0.05}]})
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})
    (item,) = await api.ended(1)
    assert (item["status"], item["reason"]) == ("halted", "nobody approved it in time")
    for message in slack.posted("#ops"):
        await reads(message, "⌛ nobody approved it in time")

    await api.put_runbook(GUARDED)
    count = len(slack.posted("#ops"))
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "b"})
    message = (await asked(slack, count + 1))[-1]
    waiting = await api.waiting()

    async def known():
        return (await api.waiting())["steps"][0]["approval"]["notices"][0]["state"] == "posted"

    await until(known)
    status, _ = await api.call("POST", f"/api/v1/executions/{waiting['execution_id']}/cancel", {})
    assert status == 202
    await reads(message, "⏹ the execution was cancelled by tester")
    assert stand_ins.replicas == {"production/payment-api": 3}


async def test_what_slack_does_not_take_is_shown_at_once_and_decided_through_the_api(
    worker, api, publish, slack, stand_ins
):
    slack.faults.refuse("chat.postMessage", "channel_not_found")
    await api.put_runbook(GUARDED)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})

    async def shown():
        notice = (await api.waiting())["steps"][0]["approval"]["notices"][0]
        return notice if notice["state"] == "failed" else None

    assert (await until(shown))["error"] == "Slack said channel_not_found"
    async with api.session.get(f"{api.url}/metrics") as answer:
        assert 'runbooks_approval_messages_total{kind="ask",result="failed"} 1.0' in await answer.text()
    await api.approve()
    (item,) = await api.ended(1)
    assert (item["status"], item["approvers"]) == ("succeeded", ["tester"])


async def test_a_slack_step_is_the_request_itself(worker, api, publish, slack):
    step = {
        "type": "slack",
        "channel": "#ops",
        "message": "Restart {{ anomaly.service_id }}?",
        "require_approval": True,
    }
    await api.put_runbook({**GUARDED, "steps": [step]})
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})
    (message,) = await asked(slack)
    assert "> Restart s?" in json.dumps(message.blocks)
    await slack.person("U1").click(message, APPROVE)
    (item,) = await api.ended(1)
    assert (item["status"], item["steps"][0]["status"]) == ("succeeded", "succeeded")
    assert item["steps"][0]["output"]["ts"] == message.ts
    await reads(message, "✅ approved by ann")
    assert len(slack.posted("#ops")) == 1


async def test_a_click_that_does_not_count_stands_in_the_log(worker, api, publish, slack, read_topic):
    await api.put_runbook(GUARDED)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})
    (message,) = await asked(slack)
    stranger = slack.person("U9")
    await stranger.click(message, APPROVE)

    async def told():
        return stranger.ephemerals

    assert "is mapped to nobody" in (await until(told))[-1].text

    async def recorded():
        events = [json.loads(record.value) for record in await read_topic("execution-events")]
        return [event for event in events if event["type"] == "approval_decided"]

    (event,) = await until(recorded)
    assert (event["by"], "is mapped to nobody" in event["refusal"]) == ("slack:T1/U9", True)
    assert (await api.waiting())["steps"][0]["approval"]["state"] == "pending"


async def test_a_rollback_is_told_where_the_runbook_says(worker, api, publish, slack, stand_ins):
    broken = {"type": "http", "url": "http://127.0.0.1:9/"}
    scale = {key: value for key, value in SCALE.items() if "approv" not in key}
    runbook = {**GUARDED, "steps": [scale, broken], "rollback_on_failure": True, "notify_channel": "#ops"}
    await api.put_runbook(runbook)
    await publish("anomaly-events", {**ANOMALY, "anomaly_id": "a"})
    (item,) = await api.ended(1)
    assert (item["status"], stand_ins.replicas) == ("rolled_back", {"production/payment-api": 3})

    async def told():
        return slack.posted("#ops")

    (message,) = await until(told)
    await reads(message, "⏪ Rolled back (done)")
    assert "✅ step 1, Scale production/payment-api from 3 to 5: succeeded" in message.text
