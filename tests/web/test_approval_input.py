"""Whatever is sent where decisions are taken: never a server error, and nothing counts that should not."""

import asyncio
import io
import json

import pytest
from building import scale, slack, story

PATH = "/api/v1/executions/e/approvals"


@pytest.fixture
def waits(world):
    told = story(scale(require_approval=True), slack()).prepared()
    world.history.executions["e"] = told.state
    return told.state


async def decide(web, sub="cho", raw=None, **body):
    sent = io.BytesIO(json.dumps({"decision": "approve", **body}).encode() if raw is None else raw)
    return await web.call("POST", PATH, roles=["approver"], sub=sub, raw=sent)


@pytest.mark.parametrize(
    "body",
    [
        {"decision": value}
        for value in (None, 1, True, [], {}, "Approve", "approve ", "approve\x00", "x" * 10_000, ["approve"])
    ]
    + [{"comment": value} for value in (None, 1, [], {}, "x" * 4097, "\U0001f600" * 4097)]
    + [{"step": value} for value in ("0", 1.5, True, -1, [], {}, 10**400)]
    + [{"digest": value} for value in (1, [], {}, "x" * 201)]
    + [{"unknown": 1}, {"by": "ann"}, {"refusal": None}, {"request": 1}],
)
async def test_what_is_no_decision_is_a_400(web, world, waits, body):
    answer = await decide(web, **body)
    assert (answer.status, world.log.decisions) == (400, [])


@pytest.mark.parametrize("body", [{"step": 10**18}, {"step": 2**64}, {"digest": ""}, {"digest": "é\u2028"}])
async def test_what_is_well_formed_and_wrong_is_a_409(web, world, waits, body):
    assert (await decide(web, **body)).status in {400, 409}
    assert world.history.executions["e"] == waits


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"approve"',
        b"{",
        b"\xff\xfe",
        b'{"decision": "\xff"}',
        b'{"decision": "\\ud800"}',
        b'{"decision": NaN}',
        b"[" * 100_000,
        b'{"a":' * 5_000 + b"1" + b"}" * 5_000,
        json.dumps({f"x{number}": 1 for number in range(20_000)}).encode(),
        json.dumps({"decision": "approve", "comment": "x" * 2_000_000}).encode(),
    ],
)
async def test_bytes_that_are_no_decision(web, world, waits, raw):
    answer = await decide(web, raw=raw)
    assert answer.status in {400, 413}
    assert world.log.decisions == []


@pytest.mark.parametrize("comment", ["x" * 4096, "\U0001f600" * 4096, "\x00\x1b[2J\u202e<!channel>", ""])
async def test_a_comment_of_any_letters_counts(web, world, waits, comment):
    answer = await decide(web, comment=comment)
    assert answer.status == 200
    assert answer.body["steps"][0]["approval"]["votes"][0]["comment"] == comment


async def test_hundreds_of_decisions_at_once_and_one_counts(web, world, waits):
    answers = await asyncio.gather(*(decide(web, sub=f"s{number}") for number in range(600)))
    statuses = [answer.status for answer in answers]
    assert (statuses.count(200), statuses.count(409)) == (1, 599)
    assert len(world.history.executions["e"].steps[0].approval.votes) == 1


@pytest.mark.parametrize(
    "query", ["?all=", "?limit=-1", "?cursor=%00", "?execution_id=%00", "?x=1", "?all=true&all=true"]
)
async def test_wrong_queries_of_what_waits(web, query):
    answer = await web.call("GET", f"/api/v1/approvals{query}", roles=["approver"])
    assert answer.status == 400
