import asyncio
from datetime import timedelta

import pytest
from building import T0, plan, scale, slack, story

from app.core.decisions import why_not_signed
from app.core.events import ApprovalDecided

PATH = "/api/v1/executions/e/approvals"
KEYS = {"key-1": b"k" * 32}


def waits(*, by=None, **fields):
    return story(scale(require_approval=True, **fields), slack(), by=by).prepared()


@pytest.fixture
def holds(world):
    def put(told):
        world.history.executions["e"] = told.state
        return told.state

    return put


async def decide(web, sub="cho", **body):
    return await web.call("POST", PATH, {"decision": "approve", **body}, roles=["approver"], sub=sub)


async def test_an_approval_is_signed_bound_to_the_plan_and_answered_once_it_counts(web, world, holds):
    state = holds(waits())
    answer = await decide(web, step=0, comment="go")
    assert (answer.status, answer.body["state"]) == (200, "approved")
    assert (answer.body["status"], answer.body["approvers"]) == ("running", ["cho"])
    (decision,) = world.log.decisions
    assert why_not_signed(decision, KEYS) is None
    assert decision.digest == state.steps[0].approval.digest
    assert (decision.by, decision.source, decision.comment, decision.at) == ("cho", "api", "go", T0)
    assert world.log.events == []


async def test_a_rejection_halts(web, holds):
    holds(waits())
    answer = await decide(web, decision="reject", comment="not now")
    assert (answer.status, answer.body["state"], answer.body["status"]) == (200, "rejected", "halted")
    assert answer.body["reason"] == "rejected by cho: not now"


async def test_the_step_that_waits_need_not_be_named(web, world, holds):
    holds(waits())
    assert (await decide(web)).status == 200
    assert world.log.decisions[0].step == 0


async def test_one_vote_of_two_leaves_it_pending(web, holds):
    holds(waits(approvals_required=2))
    answer = await decide(web)
    assert (answer.status, answer.body["state"], answer.body["status"]) == (200, "pending", "awaiting_approval")
    assert (await decide(web)).body["detail"] == "cho has decided already"
    assert (await decide(web, sub="dan")).body["state"] == "approved"


async def test_the_plan_that_the_decider_saw_may_be_named(web, world, holds):
    state = holds(waits())
    answer = await decide(web, digest="0" * 64)
    now = state.steps[0].approval.digest
    moved = f"the plan has moved: the decision is about {'0' * 64}, and what waits now is {now}"
    assert (answer.status, answer.body["detail"]) == (409, moved)
    assert [(one.refusal, one.digest) for one in world.log.decisions] == [(moved, "0" * 64)]
    assert (await decide(web, digest=state.steps[0].approval.digest)).status == 200


@pytest.mark.parametrize(
    ("told", "body", "reason"),
    [
        (waits(), {"step": 1}, "the execution is not at step 1"),
        (waits(), {"step": 99}, "the execution is not at step 99"),
        (waits(approvers=["dan"]), {}, "cho is not among the step's approvers"),
        (waits(by="cho"), {}, "cho asked for this run and may not approve it"),
        (story(slack()), {}, "the execution is queued: no step waits for approval"),
        (waits().cancel(), {}, "the execution is cancelled: no step waits for approval"),
        (waits().decided("reject"), {}, "the execution is halted: no step waits for approval"),
    ],
)
async def test_a_decision_that_would_not_count_is_refused_at_once_and_recorded(web, world, holds, told, body, reason):
    holds(told)
    answer = await decide(web, **body)
    assert (answer.status, answer.body["detail"]) == (409, reason)
    (recorded,) = world.log.decisions
    assert (recorded.by, recorded.refusal, recorded.signature is not None) == ("cho", reason, True)


async def test_the_deadline_counts_by_our_clock(web, world, holds):
    holds(waits())
    world.now = T0 + timedelta(minutes=10)
    assert (await decide(web)).body["detail"] == "it came after the deadline"


async def test_own_runs_may_be_approved_where_the_step_says_so(web, holds):
    holds(waits(by="cho", allow_self_approval=True))
    assert (await decide(web)).status == 200


@pytest.mark.parametrize(
    "body",
    [{"decision": "maybe"}, {"decision": None}, {"step": -1}, {"step": "0"}, {"comment": "x" * 4097}, {"by": "eve"}],
)
async def test_a_wrong_body_is_refused(web, world, holds, body):
    holds(waits())
    assert (await decide(web, **body)).status == 400
    assert world.log.decisions == []


async def test_without_a_key_nobody_can_decide(world, serve, holds):
    holds(waits())
    answer = await decide(await serve(world.parts(signing=None)))
    assert (answer.status, answer.headers["Retry-After"]) == (503, "2")
    assert world.log.decisions == []


async def test_a_decision_that_does_not_show_in_time_is_recorded(web, world, holds):
    holds(waits())
    world.log.records_decisions = False
    answer = await decide(web)
    assert (answer.status, answer.body) == (202, {"execution_id": "e", "state": "recorded"})


@pytest.mark.parametrize("first", ["reject", "approve"])
async def test_another_decision_that_came_first_is_told(web, world, holds, first):
    told = waits()
    holds(told)
    world.log.records_decisions = False
    asking = asyncio.ensure_future(decide(web))
    await world.log.written.wait()
    other = ApprovalDecided(tenant="default", execution_id="e", at=T0, step=0, decision=first, by="dan")
    world.history.fold(other, 500)
    answer = await asking
    assert answer.status == 409
    assert answer.body["detail"].startswith("something else came first: the execution is ")


@pytest.mark.parametrize("by", ["cho", "dan"])
async def test_what_counted_is_no_refusal_when_the_plan_is_asked_about_again_meanwhile(web, world, holds, by):
    told = waits()
    holds(told)
    world.log.records_decisions = False
    asking = asyncio.ensure_future(decide(web))
    await world.log.written.wait()
    told.decided(by=by).prepared(plan("something else"))
    holds(told)
    answer = await asking
    if by == "cho":
        assert (answer.status, answer.body["state"]) == (200, "superseded")
        assert answer.body["status"] == "awaiting_approval"
    else:
        said = "something else came first: the plan changed, and it was asked again"
        assert (answer.status, answer.body["detail"]) == (409, said)


async def list_waiting(web, query="", **fields):
    return await web.call("GET", f"/api/v1/approvals{query}", **{"roles": ["approver"], "sub": "cho", **fields})


async def test_what_waits_for_the_caller_is_listed_with_its_plan(web, holds):
    state = holds(waits(approvers=["cho", "group:sre"], approvals_required=2))
    (item,) = (await list_waiting(web)).body["items"]
    assert (item["execution_id"], item["step"], item["step_count"], item["may_decide"]) == ("e", 0, 2, True)
    assert (item["summary"], item["undo"]) == ("do it", "⚠ only by hand: it cannot be taken back")
    assert item["approval"]["digest"] == state.steps[0].approval.digest
    assert (item["approvers"], item["approvals_required"]) == (["cho", "group:sre"], 2)


async def test_what_waits_for_others_is_listed_when_asked_for_and_says_why(web, holds):
    holds(waits(approvers=["dan"]))
    assert (await list_waiting(web)).body == {"items": [], "next_cursor": None}
    (item,) = (await list_waiting(web, "?all=true")).body["items"]
    assert (item["may_decide"], item["why_not"]) == (False, "cho is not among the step's approvers")
    (item,) = (await list_waiting(web, "?all=true", roles=["viewer"], sub="dan")).body["items"]
    assert item["why_not"] == "this needs the role approver"
    assert (await list_waiting(web, "?all=true", tenant="other")).body["items"] == []
    assert (await list_waiting(web, "?all=maybe")).status == 400


async def test_pages_of_what_waits_and_one_by_its_id(web, world):
    for number in range(7):
        told = waits(approvers=["cho" if number == 5 else "dan"], approval_timeout_minutes=20 - number)
        request = told.state.request.model_copy(update={"execution_id": f"e{number}"})
        world.history.executions[f"e{number}"] = told.state.now(request=request)
    first = (await list_waiting(web, "?all=true&limit=4")).body
    assert [item["execution_id"] for item in first["items"]] == ["e6", "e5", "e4", "e3"]
    second = (await list_waiting(web, f"?all=true&limit=4&cursor={first['next_cursor']}")).body
    assert [item["execution_id"] for item in second["items"]] == ["e2", "e1", "e0"]
    assert second["next_cursor"] is None
    mine = (await list_waiting(web, "?limit=1")).body  # looked for on the pages that hold nothing of the caller's
    assert [item["execution_id"] for item in mine["items"]] == ["e5"]
    (one,) = (await list_waiting(web, "?all=true&execution_id=e0")).body["items"]
    assert (one["execution_id"], one["params"]) == ("e0", {})
    assert (await list_waiting(web, "?all=true&execution_id=none")).body["items"] == []
    assert (await list_waiting(web, "?execution_id=e0", tenant="other")).body["items"] == []
    for query in ("?limit=0", "?limit=201", "?limit=x"):
        assert (await list_waiting(web, query)).status == 400


WAITING = {
    (by, number): waits(approvers=[by], approval_timeout_minutes=20 + number)
    for by in ("cho", "dan")
    for number in range(13)
}


async def follow(web, limit):
    """The ids on all pages, from the first to the one without a cursor."""
    page = (await list_waiting(web, f"?limit={limit}")).body
    ids = [item["execution_id"] for item in page["items"]]
    while page["next_cursor"] is not None:
        page = (await list_waiting(web, f"?limit={limit}&cursor={page['next_cursor']}")).body
        ids += [item["execution_id"] for item in page["items"]]
    return ids


@pytest.mark.parametrize("limit", [1, 2, 3, 20])
@pytest.mark.parametrize("total", [1, 5, 6, 7, 11, 13])
async def test_following_the_cursors_shows_each_request_of_the_caller_once(web, world, total, limit):
    places = range(total)
    for mine in [{place} for place in places] + [set(), set(places), set(places[::2]), {0, total - 1}]:
        for number in places:
            told = WAITING["cho" if number in mine else "dan", number]
            request = told.state.request.model_copy(update={"execution_id": f"e{number}"})
            world.history.executions[f"e{number}"] = told.state.now(request=request)
        assert await follow(web, limit) == [f"e{number}" for number in sorted(mine)]


async def test_the_groups_of_a_token_are_those_of_the_decision(world, web, holds, token):
    holds(waits(approvers=["group:sre"]))
    assert (await decide(web)).status == 409
    given = {"Authorization": f"Bearer {token(sub='cho', roles=['approver'], groups=['sre'])}"}
    answer = await web.plain("POST", PATH, given, b'{"decision": "approve"}')
    assert (answer.status, world.log.decisions[-1].groups) == (200, ("sre",))
    for groups in ("sre", [1], [""], ["x"] * 201):
        given = {"Authorization": f"Bearer {token(sub='cho', roles=['approver'], groups=groups)}"}
        assert (await web.plain("POST", PATH, given, b'{"decision": "approve"}')).status == 401
