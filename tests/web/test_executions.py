import pytest
from building import T0, scale, slack, story

from app.core.errors import TemporaryError

ONE = "/api/v1/executions/e"


def waiting():
    return story(slack(require_approval=True)).prepared().state


def unclear():
    return story(slack(on_unknown="attention")).does("unknown").state


def ended():
    return story(slack()).does().state


def scaled():
    return story(scale()).does(inverse=True).state


def rolling_back():
    return story(scale(), slack(), rollback_on_failure=True).does(inverse=True).does("failed", "no").state


@pytest.fixture
def holds(world):
    def put(state):
        world.history.executions["e"] = state

    return put


async def test_an_execution_is_shown(web, holds):
    holds(waiting())
    answer = await web.call("GET", ONE, roles=["viewer"])
    assert answer.status == 200
    assert (answer.body["execution_id"], answer.body["status"]) == ("e", "awaiting_approval")
    assert answer.body["steps"][0]["approval"]["state"] == "pending"


@pytest.mark.parametrize("path", ["nobody", "%00", "x" * 300, "%F0%9F%92%A9", "e%0A", "..%2F..%2Fhealthz"])
async def test_an_unknown_execution_is_not_there(web, holds, path):
    holds(ended())
    answer = await web.call("GET", f"/api/v1/executions/{path}", roles=["viewer"])
    assert (answer.status, answer.body["detail"]) == (404, "no such execution")


class TestCancel:
    async def test_it_is_recorded_with_who_and_why(self, web, world, holds):
        holds(waiting())
        answer = await web.call("POST", f"{ONE}/cancel", {"comment": "wrong one"}, roles=["operator"], sub="bob")
        assert (answer.status, answer.body["status"], answer.body["reason"]) == (202, "cancelled", "cancelled by bob")
        (event,) = world.log.events
        assert (event.by, event.comment, event.at) == ("bob", "wrong one", T0)

    async def test_no_body_is_needed(self, web, holds):
        holds(waiting())
        assert (await web.call("POST", f"{ONE}/cancel", roles=["operator"])).body["status"] == "cancelled"

    @pytest.mark.parametrize("state", [ended, rolling_back])
    async def test_what_has_ended_or_goes_back_is_not_cancelled(self, web, world, holds, state):
        holds(state())
        answer = await web.call("POST", f"{ONE}/cancel", roles=["operator"])
        assert answer.status == 409
        assert answer.body["detail"] == f"the execution is {state().status}: it cannot be cancelled"
        assert world.log.events == []

    async def test_asking_twice_is_recorded_once(self, web, world, holds):
        holds(story(slack()).started().state)
        first = await web.call("POST", f"{ONE}/cancel", roles=["operator"])
        second = await web.call("POST", f"{ONE}/cancel", roles=["operator"])
        assert (first.status, second.status, len(world.log.events)) == (202, 202, 1)

    async def test_a_wrong_body_is_refused(self, web, world, holds):
        holds(waiting())
        assert (await web.call("POST", f"{ONE}/cancel", {"coment": "x"}, roles=["operator"])).status == 400
        assert world.log.events == []


class TestRollback:
    async def test_it_is_recorded_with_who_why_and_the_state_it_is_about(self, web, world, holds):
        holds(scaled())
        answer = await web.call("POST", f"{ONE}/rollback", {"comment": "no help"}, roles=["operator"], sub="bob")
        assert (answer.status, answer.body["status"]) == (202, "rolling_back")
        shown = answer.body["rollback"]
        assert (shown["status"], shown["cause"], shown["requested_by"]) == ("running", "person", "bob")
        assert shown["reason"] == "rollback asked for by bob: no help"
        (event,) = world.log.events
        assert (event.by, event.run, event.finished["status"]) == ("bob", scaled().run, "succeeded")

    @pytest.mark.parametrize(
        ("state", "why"),
        [
            (waiting, "the execution is awaiting_approval and cannot be rolled back: it has not ended"),
            (
                ended,
                "the execution is succeeded and cannot be rolled back: step 1: it cannot be taken back",
            ),
        ],
    )
    async def test_where_it_cannot_be_it_says_why(self, web, world, holds, state, why):
        holds(state())
        answer = await web.call("POST", f"{ONE}/rollback", roles=["operator"])
        assert (answer.status, answer.body["detail"]) == (409, why)
        assert world.log.events == []

    async def test_who_may_not(self, web, world, holds):
        holds(scaled())
        assert (await web.call("POST", f"{ONE}/rollback", roles=["approver"])).status == 403
        assert (await web.call("POST", f"{ONE}/rollback", roles=["operator"], tenant="other")).status == 404
        assert (await web.call("POST", f"{ONE}/rollback", {"coment": "x"}, roles=["operator"])).status == 400
        assert world.log.events == []


class TestResolve:
    async def test_it_is_recorded_and_the_execution_goes_on(self, web, world, holds):
        holds(unclear())
        body = {"outcome": "succeeded", "comment": "looked"}
        answer = await web.call("POST", f"{ONE}/resolve", body, roles=["operator"])
        assert (answer.status, answer.body["status"]) == (202, "succeeded")
        (event,) = world.log.events
        assert (event.outcome, event.by, event.comment) == ("succeeded", "ann", "looked")
        assert (event.step, event.attempt) == (0, 1)

    @pytest.mark.parametrize("state", [ended, waiting])
    async def test_only_what_needs_attention_is_resolved(self, web, world, holds, state):
        holds(state())
        answer = await web.call("POST", f"{ONE}/resolve", {"outcome": "failed"}, roles=["operator"])
        assert answer.status == 409
        assert answer.body["detail"] == f"the execution is {state().status}: nothing waits for an answer"
        assert world.log.events == []

    @pytest.mark.parametrize("body", [{}, {"outcome": "unknown"}, {"outcome": "failed", "x": 1}, {"outcome": None}])
    async def test_a_wrong_body_is_refused(self, web, world, holds, body):
        holds(unclear())
        assert (await web.call("POST", f"{ONE}/resolve", body, roles=["operator"])).status == 400
        assert world.log.events == []


async def test_the_events_of_an_execution(web, world):
    started = await web.execute(dry_run=True)
    path = f"/api/v1/executions/{started.body['execution_id']}/events"
    answer = await web.call("GET", path, roles=["viewer"])
    assert answer.status == 200
    assert answer.body["items"][0]["event"]["type"] == "execution_requested"
    assert answer.body["complete"] is True
    assert (await web.call("GET", path, roles=["publisher"])).status == 403
    assert (await web.call("GET", path, roles=["viewer"], tenant="other")).status == 404
    world.log.error = TemporaryError("no broker")
    assert (await web.call("GET", path, roles=["viewer"])).status == 503
