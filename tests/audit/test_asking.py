"""What the log says of executions: as they stood then, and all that was recorded of them."""

import csv
import io
from datetime import timedelta

import orjson
import pytest
from audited import Audited
from building import http, plan

from app.audit.exporting import as_csv, as_json_lines, as_report, export
from app.audit.replaying import Wanted, replay, shown, told
from app.core.chain import record_digest
from app.core.events import write_event as written
from app.core.planning import Prepared

DONE = "Scale d from 3 to 5; taken back: scale n/d (replicas 3)"


@pytest.fixture
async def audited(kafka, log):
    """One execution that was approved and taken back, one that waits, one of another tenant with the first one's id."""
    asked = http(require_approval=True)
    log.request("e", asked)
    given = {"params": {"token": "$API_TOKEN"}, "before": 3, "after": 5, "inverse": plan(inverse=True).inverse}
    scaled = Prepared.of("Scale d from 3 to 5", **given)
    log.prepare("e", scaled)
    log.request("waits", asked)
    log.approve("e", comment="=HYPERLINK(1)")
    log.finish(log.start("e", scaled))
    log.take_back("e")
    other = log.request("stranger").model_copy(update={"tenant": "other", "execution_id": "e"})
    log.records[-1] = (b"other", written(other))
    log.records.append((b"default", b"no event, though it says e"))
    one = Audited(kafka, None, log)
    await one.create()
    await one.publish(one.topic, log.records)
    return one


async def replayed(audited, as_of, execution_id=None, tenant="default"):
    return await replay(audited.connection, audited.topic, Wanted(tenant, as_of, execution_id), lambda _: None)


def statuses(found):
    return {name: one.status for name, one in found.executions.items()}


async def test_every_offset_gives_what_the_workers_had_then(audited):
    log = audited.log
    assert statuses(await replayed(audited, 0)) == {"e": "queued"}
    assert statuses(await replayed(audited, 2)) == {"e": "awaiting_approval", "waits": "queued"}
    whole = await replayed(audited, 100)
    assert {name: whole.executions[name] for name in ("e", "waits")} == {
        name: log.states[name] for name in ("e", "waits")
    }
    assert (whole.unreadable, whole.later, whole.partition, whole.last_offset) == (1, 0, 0, 6)


async def test_a_time_gives_what_had_happened_by_then(audited):
    log = audited.log
    begun = log.now - timedelta(seconds=log.seconds)
    assert statuses(await replayed(audited, begun - timedelta(seconds=1))) == {}
    found = await replayed(audited, begun + timedelta(seconds=1), "e")
    assert statuses(found) == {"e": "awaiting_approval"}
    assert list(told(found)) == [
        "e  r version 1  awaiting_approval  (record 1)",
        "1 executions in partition 0, folded from records up to 1, 4 came later; 1 records are no events",
    ]
    (item,) = shown(found)["executions"]
    assert (item["status"], item["last_offset"], item["steps"][0]["plan"]["after"]) == ("awaiting_approval", 1, 5)


async def test_another_tenants_execution_of_the_same_id_is_another_one(audited):
    assert statuses(await replayed(audited, 100, "e", "other")) == {"e": "queued"}


@pytest.fixture
async def exported(audited):
    return await export(audited.connection, audited.topic, "default", ["e", "nobody"], lambda _: None)


async def test_json_lines_have_the_records_as_they_stand_and_what_they_say(audited, exported):
    lines = [orjson.loads(line) for line in as_json_lines(exported)]
    offsets = [0, 1, 3, 4, 5, 6]
    assert [one["offset"] for one in lines] == offsets
    assert [one["event"] for one in lines] == [orjson.loads(audited.log.records[at][1]) for at in offsets]
    assert [one["sha256"] for one in lines] == [record_digest(0, at, *audited.log.records[at]).hex() for at in offsets]
    told = [(one["who"], one["what"], one["why"], one["before"], one["after"]) for one in lines]
    assert told == [
        ("olga", "asked for runbook r version 1", None, None, None),
        ("a worker", f"planned step 0: {DONE}", None, 3, 5),
        ("ann", "approved step 0 through api", "=HYPERLINK(1)", None, None),
        (
            "worker w",
            "began step 0, to be applied: Scale d from 3 to 5; taken back: scale n/d (replicas 3)",
            None,
            3,
            5,
        ),
        ("a worker", "step 0, applied, ended: succeeded", None, None, None),
        ("bob", "asked to take it back", None, None, None),
    ]
    assert lines[1]["digest"] == lines[3]["digest"] is not None
    assert "$API_TOKEN" in orjson.dumps(lines[1]["event"]).decode()


async def test_a_table_has_no_cell_that_a_spreadsheet_would_calculate(exported):
    rows = list(csv.DictReader(io.StringIO("\n".join(as_csv(exported)))))
    assert [row["why"] for row in rows] == ["", "", "'=HYPERLINK(1)", "", "", ""]
    assert [row["before"] for row in rows] == ["", "3", "", "3", "", ""]


async def test_of_what_retention_took_the_request_the_rest_is_shown_and_said_to_be_that(audited):
    await audited.forget_before(1)
    found = await export(audited.connection, audited.topic, "default", ["e", "nobody"], lambda _: None)
    assert [entry.offset for entry in found.entries][:2] == [1, 3]
    found.executions.clear()  # the state that the rollback pins tells of it again
    assert found.without_request() == ["e"]
    lines = list(as_report(found))
    gone = "  how it began is gone, and how it stood: the log begins at 1 now"
    assert lines[:3] == ["Execution e", gone, ""]
    assert f"planned step 0: {DONE}, by a worker" in lines[3]


async def test_a_report_says_it_to_a_person(exported):
    lines = list(as_report(exported))
    assert lines[0] == "Execution e"
    assert "  approved by:  ann" in lines
    (status,) = (line for line in lines if line.startswith("  status:"))
    assert status.startswith("  status:       rolling_back: ")
    approved = next(place for place, line in enumerate(lines) if "approved step 0 through api, by ann" in line)
    assert lines[approved + 1] == "      why: =HYPERLINK(1)"
    assert lines[approved + 2].startswith("      record 0/3, sha256 ")
