import asyncio
import io
from datetime import timedelta

import pytest
from building import T0

from app.core.errors import TemporaryError
from app.core.events import CancelRequested, Limits
from app.core.ids import execution_id_for_key

NAME = "scale-out-payment-api"
CONTEXT = {"service_id": "payment-api", "anomaly_score": 0.85}


async def test_a_real_run_is_accepted_and_can_be_looked_at_at_once(web, world):
    answer = await web.execute(context=CONTEXT)
    assert answer.status == 202
    assert answer.body == {
        "execution_id": "id-1",
        "status": "queued",
        "runbook_name": NAME,
        "runbook_version": 1,
        "dry_run": False,
        "trigger": {"matched": True, "reason": None},
    }
    assert answer.headers["Location"] == "/api/v1/executions/id-1"
    shown = await web.call("GET", answer.headers["Location"], roles=["viewer"])
    assert (shown.status, shown.body["status"]) == (200, "queued")


async def test_the_request_pins_all_that_a_replay_needs(web, world):
    await web.execute(context=CONTEXT)
    (event,) = world.log.events
    definition = world.definitions.catalog.get("default", NAME)
    assert event.runbook == definition.runbook
    assert (event.runbook_version, event.runbook_digest) == (1, definition.digest)
    assert (event.tenant, event.requested_by, event.at) == ("default", "ann", T0)
    assert event.limits == Limits(max_concurrent_runbooks=7)
    assert event.context == CONTEXT
    assert event.anomaly is None


@pytest.mark.parametrize(
    ("context", "reason"),
    [
        ({"anomaly_score": 0.9}, None),
        ({"anomaly_score": 0.9, "metric_name": "cpu_usage_percent"}, None),
        ({"anomaly_score": 0.5}, "condition `anomaly_score > 0.7` is false"),
        ({"anomaly_score": 0.9, "service_id": "web"}, "service_id is 'web', not 'payment-api'"),
        ({"anomaly_score": 0.9, "metric_name": "mem"}, "metric_name is 'mem', not 'cpu_usage_percent'"),
        ({}, 'condition `anomaly_score > 0.7`: No value with name "anomaly_score" found in Activation'),
    ],
)
async def test_a_manual_run_says_whether_its_trigger_would_have_matched(web, context, reason):
    answer = await web.execute(context=context)
    assert answer.status == 202
    assert answer.body["trigger"] == {"matched": reason is None, "reason": reason}


async def test_any_service_is_no_service_of_that_name(web, world):
    world.put({"name": "any", "trigger": {"condition": "service_id == '*'"}, "steps": [slack()]})
    answer = await web.execute("any")
    assert answer.body["trigger"]["matched"] is False
    assert "service_id" in answer.body["trigger"]["reason"]


async def test_a_runbook_without_a_trigger_says_so(web, world):
    world.put({"name": "by-hand", "steps": [slack()]})
    assert (await web.execute("by-hand")).body["trigger"] == {"matched": False, "reason": "the runbook has no trigger"}


def slack():
    return {"type": "slack", "channel": "#c", "message": "m"}


async def test_a_dry_run_answers_with_its_plan(web, world):
    answer = await web.execute(dry_run=True, context=CONTEXT)
    assert answer.status == 200
    assert (answer.body["status"], answer.body["dry_run"]) == ("succeeded", True)
    assert [
        (step["index"], step["type"], step["action"], step["require_approval"]) for step in answer.body["plan"]
    ] == [
        (0, "slack", "message", False),
        (1, "kubernetes", "scale", True),
    ]
    assert {(step["summary"], step["before"], step["after"], step["status"]) for step in answer.body["plan"]} == {
        ("Would do it", 3, 5, "planned")
    }
    assert world.log.events[0].dry_run is True


async def test_a_dry_run_that_takes_too_long_is_accepted(web, world):
    world.log.plans = False
    answer = await web.execute(dry_run=True)
    assert (answer.status, answer.body["status"], answer.body["dry_run"]) == (202, "running", True)
    assert answer.headers["Location"] == "/api/v1/executions/id-1"


async def test_a_dry_run_is_answered_as_soon_as_it_ends(web, world):
    world.log.plans = False
    asking = asyncio.ensure_future(web.execute(dry_run=True))
    await world.log.written.wait()
    world.log.plan("id-1", T0)
    assert (await asking).status == 200


async def test_the_runbook_says_whether_it_is_a_dry_run_and_the_caller_may_say_otherwise(web, world):
    world.put({"name": "careful", "steps": [slack()], "dry_run": True})
    assert (await web.execute("careful")).status == 200
    assert (await web.execute("careful", dry_run=None)).status == 200
    assert (await web.execute("careful", dry_run=False)).status == 202


@pytest.mark.parametrize("content_type", ["application/x-www-form-urlencoded", "text/plain", "application/json", "x"])
async def test_the_content_type_is_not_looked_at(web, content_type):
    raw = b'{"runbook_name": "scale-out-payment-api"}'
    headers = {"Content-Type": content_type}
    path = "/api/v1/runbooks/execute"
    assert (await web.call("POST", path, raw=raw, headers=headers, roles=["operator"])).status == 202


async def test_an_earlier_version_can_be_run(web, world):
    world.put({"name": NAME, "steps": [slack()]})
    await web.execute(version=1)
    await web.execute()
    first, second = world.log.events
    assert (first.runbook_version, len(first.runbook.steps)) == (1, 2)
    assert (second.runbook_version, len(second.runbook.steps)) == (2, 1)


async def test_an_unknown_version_is_named(web):
    answer = await web.execute(version=9)
    assert (answer.status, answer.body["detail"]) == (404, f"runbook '{NAME}' has no version 9")


async def test_an_unknown_runbook_is_named_with_the_nearest_ones(web, world):
    world.put({"name": "scale-out-payment-db", "steps": [slack()]})
    answer = await web.execute("scale-out-paymnt-api")
    assert answer.status == 404
    assert answer.body["detail"] == (
        "no runbook is called 'scale-out-paymnt-api' (did you mean 'scale-out-payment-api' or 'scale-out-payment-db'?)"
    )
    (problem,) = answer.body["problems"]
    assert (problem["path"], problem["nearest"]) == ("runbook_name", NAME)


async def test_another_tenants_runbook_is_unknown_and_not_suggested(web, world):
    world.put({"name": "theirs", "steps": [slack()]}, tenant="other")
    answer = await web.execute("theirs")
    assert (answer.status, answer.body["problems"][0]["nearest"]) == (404, None)
    answer = await web.execute("theirz")
    assert (answer.status, answer.body["problems"][0]["nearest"]) == (404, None)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        ({}, "runbook_name"),
        ({"runbook_name": ""}, "runbook_name"),
        ({"runbook_name": 5}, "runbook_name"),
        ({"runbook_name": NAME, "dry_run": "false"}, "dry_run"),
        ({"runbook_name": NAME, "dry_run": 0}, "dry_run"),
        ({"runbook_name": NAME, "context": []}, "context"),
        ({"runbook_name": NAME, "context": "x"}, "context"),
        ({"runbook_name": NAME, "context": {"service_id": "a\x00b"}}, "context.service_id"),
        ({"runbook_name": NAME, "context": {"metric_name": "m" * 201}}, "context.metric_name"),
        ({"runbook_name": NAME, "context": {"x": "y" * 65536}}, "context"),
        ({"runbook_name": NAME, "version": 0}, "version"),
        ({"runbook_name": NAME, "version": "1"}, "version"),
    ],
)
async def test_a_body_that_is_wrong_is_refused_with_its_path(web, world, body, path):
    answer = await web.call("POST", "/api/v1/runbooks/execute", body, roles=["operator"])
    assert answer.status == 400
    assert [problem["path"] for problem in answer.body["problems"]] == [path]
    assert world.log.events == []


async def test_an_unknown_field_is_refused_with_the_nearest(web):
    answer = await web.execute(dryrun=True)
    assert answer.status == 400
    assert answer.body["problems"] == [{"path": "dryrun", "message": "unknown field", "nearest": "dry_run"}]


def nested(depth):
    return {} if depth == 1 else {"x": nested(depth - 1)}


async def test_a_context_is_not_nested_without_end(web):
    assert (await web.execute(context=nested(32))).status == 202
    answer = await web.execute(context=nested(33))
    assert (answer.status, answer.body["problems"][0]["path"]) == (400, "context")
    assert (await web.execute(context=nested(100))).status == 400


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"nonsense",
        b"[]",
        b"5",
        b"null",
        b'"x"',
        b"\xff\xfe",
        b"{",
        b'{"runbook_name": NaN}',
        b'{"runbook_name": "\\ud800"}',
    ],
)
async def test_what_is_no_json_object_is_refused(web, raw):
    answer = await web.call("POST", "/api/v1/runbooks/execute", raw=raw, roles=["operator"])
    assert answer.status == 400
    assert answer.body["detail"].startswith("the body ")


async def test_a_flood_of_unknown_fields_is_not_looked_at_one_by_one(web):
    flood = {f"context{number}": 1 for number in range(5001)}
    answer = await web.execute(**flood)
    assert (answer.status, answer.body["detail"]) == (400, "the body has more than 5000 members")
    answer = await web.execute(context={"x": [dict.fromkeys(map(str, range(3000)), 1)] * 2})
    assert answer.status == 400


async def test_only_so_many_problems_are_told(web):
    answer = await web.execute(**{f"field{number}": 1 for number in range(60)})
    assert len(answer.body["problems"]) == 50
    assert answer.body["detail"].endswith("; and 10 more")


class TestIdempotencyKey:
    async def test_the_same_key_is_the_same_execution(self, web, world):
        first = await web.execute(key="k", context=CONTEXT)
        second = await web.execute(key="k", context=CONTEXT)
        assert first.status == second.status == 202
        assert first.body == second.body
        assert first.body["execution_id"] == execution_id_for_key("default", "k")
        assert len(world.log.events) == 1

    async def test_it_answers_how_the_execution_stands_now(self, web, world):
        first = await web.execute(key="k")
        cancel = CancelRequested(tenant="default", execution_id=first.body["execution_id"], at=T0, by="bob")
        await world.log.publish_event(cancel)
        world.put({"name": NAME, "steps": [slack()], "dry_run": True})
        again = await web.execute(key="k")
        assert (again.status, again.body["runbook_version"], again.body["dry_run"]) == (202, 1, False)

    async def test_it_answers_after_the_runbook_is_gone(self, web, world):
        await web.execute(key="k")
        world.definitions.catalog = type(world.definitions.catalog)()
        assert (await web.execute(key="k")).status == 202
        assert (await web.execute(key="another")).status == 404

    @pytest.mark.parametrize(
        "changed",
        [
            {"context": {"a": 2}},
            {"context": {"a": True}},
            {"context": {}},
            {"context": {"a": 1}, "dry_run": True},
            {"context": {"a": 1}, "version": 2},
            {"context": {"a": 1}, "name": "second"},
        ],
    )
    async def test_the_same_key_for_something_else_is_refused(self, web, world, changed):
        world.put({"name": "second", "steps": [slack()]})
        await web.execute(key="k", context={"a": 1})
        answer = await web.execute(key="k", **changed)
        assert (answer.status, answer.body["detail"]) == (409, "this Idempotency-Key was used for another request")
        assert len(world.log.events) == 1

    async def test_the_version_may_be_named_or_not(self, web, world):
        await web.execute(key="k", context={"a": 1})
        assert (await web.execute(key="k", context={"a": 1}, version=1)).status == 202

    async def test_a_race_for_one_key_has_one_winner(self, world, serve):
        """The other request shows only after ours is written: the order of the log decides."""

        class Raced:
            async def projected(self, partition, offset, timeout_s):
                (ours,) = world.log.events
                world.history.executions.clear()
                world.history.fold(ours.model_copy(update={"context": {"a": 1}}), offset - 1)
                world.history.fold(ours, offset)
                return True

        web = await serve(world.parts(projection=Raced()))
        assert (await web.execute(key="k", context={"a": 2})).status == 409

    async def test_a_key_belongs_to_its_tenant(self, web, world):
        mine = await web.execute(key="k")
        headers = {"Idempotency-Key": "k"}
        body = {"runbook_name": NAME, "dry_run": False}
        theirs = await web.call("POST", "/api/v1/runbooks/execute", body, tenant="other", headers=headers)
        assert theirs.status == 202
        assert theirs.body["execution_id"] != mine.body["execution_id"]

    async def test_a_dry_run_can_be_asked_for_again(self, web, world):
        first = await web.execute(key="k", dry_run=True)
        second = await web.execute(key="k", dry_run=True)
        assert (first.status, second.status) == (200, 200)
        assert first.body == second.body
        assert len(world.log.events) == 1

    async def test_after_the_dedup_window_it_is_a_new_run(self, web, world):
        await web.execute(key="k", dry_run=True)
        world.now += timedelta(days=1, seconds=1)
        await web.execute(key="k", dry_run=True, context={"a": 1})
        assert len(world.log.events) == 2

    @pytest.mark.parametrize("key", ["", "x" * 201, "k\tl", "k\u00e9"])
    async def test_a_key_is_short_and_printable(self, web, world, key):
        answer = await web.execute(key=key)
        assert (answer.status, answer.body["problems"][0]["path"]) == (400, "Idempotency-Key")
        assert world.log.events == []


async def test_a_history_that_lags_does_not_keep_the_caller_waiting(web, world):
    world.history.lags = True
    world.projection.there = False
    answer = await web.execute()
    assert (answer.status, answer.body["status"]) == (202, "queued")


async def test_a_broker_that_does_not_answer_is_told_with_a_time_to_try_again(web, world):
    world.log.error = TemporaryError("kafka-7.internal does not answer", delay_s=6.2)
    answer = await web.execute()
    assert (answer.status, answer.headers["Retry-After"]) == (503, "7")
    assert "kafka-7" not in answer.body["detail"]
    world.log.error = TemporaryError("again")
    assert (await web.execute()).headers["Retry-After"] == "2"


async def test_what_nobody_foresaw_is_logged_and_not_told(web, world, caplog):
    world.log.error = RuntimeError("a secret of ours")
    answer = await web.execute()
    assert answer.status == 500
    assert "secret" not in str(answer)
    assert "a secret of ours" in caplog.text


async def test_a_body_that_is_too_large_is_refused(web):
    answer = await web.call(
        "POST", "/api/v1/runbooks/execute", raw=io.BytesIO(b"x" * (1024 * 1024 + 1)), roles=["operator"]
    )
    assert answer.status == 413
