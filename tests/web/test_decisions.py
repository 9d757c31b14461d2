"""Backtests, the ledger and coverage over the API; what they find is shown by the tests of the parts behind it."""

from collections import Counter
from datetime import timedelta

import pytest
from building import T0, slack

from app.core.backtest import Answer, Decision
from app.core.backtest_report import Question, Report
from app.core.coverage import RunbookFigures, ShadowRun
from app.core.errors import TemporaryError
from app.history.decisions import Answered, Unhandled
from app.streams.backtesting import Outcome
from app.streams.covering import Uncovered
from app.web.parts import DecisionPorts

BACKTEST = "/api/v1/runbooks/backtest"
RUNBOOK = {"name": "r", "trigger": {"service_id": "s"}, "steps": [slack()]}


class FakeBacktests:
    """Says what it is told to."""

    def __init__(self, *, complete=True, error=None) -> None:
        self.complete, self.error, self.asked = complete, error, []

    async def bounded(self, question: Question):
        if self.error is not None:
            raise self.error
        self.asked.append(question)
        report = Report(T0)
        would = Answer("blocked", "cooldown", "one is at work")
        report.add(Decision("a", "s", "m", T0, "e", would, Answer("runs")))
        return Outcome(report, self.complete, T0, 3, False, 60.0, 0, 0, 1, 2).shown()


class FakeLedger:
    """One anomaly, and figures of one runbook."""

    async def of_anomaly(self, tenant, anomaly_id):
        if anomaly_id != "a/b":
            return []
        common = (T0, "s", "m")
        return [
            Answered("left", 1, "no_match", "condition `x` is false", *common, None, None, None),
            Answered("new", 1, "requested", "", *common, "e2", None, None),
            Answered("right", 2, "requested", "", *common, "e", "skipped", "cooldown: one is at work"),
        ]

    async def figures(self, tenant, since):
        return {"shade": RunbookFigures(Counter(would_request=2))}

    async def shadow_runs(self, tenant, runbook, since):
        return [ShadowRun("a", ("host/x",), T0), ShadowRun("b", ("host/x",), T0 + timedelta(seconds=1))]

    async def unhandled(self, tenant, since):
        return [Unhandled("s", "m", 4)]


class FakeReader:
    async def uncovered(self, tenant, since):
        return Uncovered(9, Counter({("t", "m"): 5}), 0, complete=True)


@pytest.fixture
async def decided(world, serve):
    return await serve(world.parts(decisions=DecisionPorts(FakeLedger(), FakeReader())))


async def test_a_backtest_is_of_the_callers_tenant_and_bounded(world, serve):
    backtests = FakeBacktests()
    web = await serve(world.parts(backtests=backtests))
    body = {"runbook": RUNBOOK, "since": T0.isoformat(), "assume_seconds": 5}
    answer = await web.call("POST", BACKTEST, body, roles=["author"], tenant="other")
    assert (answer.status, answer.body["differing"], answer.body["version_in_force"]) == (200, 1, 3)
    assert answer.body["differences"][0]["would"]["guard"] == "cooldown"
    (question,) = backtests.asked
    assert (question.tenant, question.since, question.assume) == ("other", T0, timedelta(seconds=5))
    world.log.changes.clear()
    web = await serve(world.parts(backtests=FakeBacktests(complete=False)))
    answer = await web.call("POST", BACKTEST, {"runbook": RUNBOOK}, roles=["viewer"])
    assert (answer.status, answer.body["complete"]) == (202, False)
    assert world.log.changes == []


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "runbook"),
        ({"runbook": {"name": "r"}}, "steps"),
        ({"runbook": RUNBOOK | {"tenant": "other"}}, "runbook.tenant"),
        ({"runbook": RUNBOOK, "since": "yesterday"}, "since"),
        ({"runbook": RUNBOOK, "since": T0.isoformat(), "until": T0.isoformat()}, "until"),
        ({"runbook": RUNBOOK, "assume_seconds": -1}, "assume_seconds"),
    ],
)
async def test_what_cannot_be_asked(world, serve, body, field):
    web = await serve(world.parts(backtests=FakeBacktests()))
    answer = await web.call("POST", BACKTEST, body)
    assert (answer.status, answer.body["problems"][0]["path"]) == (400, field)


async def test_who_may_not_ask_and_one_at_a_time(world, serve):
    busy = FakeBacktests(error=TemporaryError("another backtest is being run here: try again soon"))
    web = await serve(world.parts(backtests=busy))
    assert (await web.call("POST", BACKTEST, {"runbook": RUNBOOK}, roles=["publisher"])).status == 403
    answer = await web.call("POST", BACKTEST, {"runbook": RUNBOOK})
    assert (answer.status, "Retry-After" in answer.headers) == (503, True)


async def test_where_nothing_is_asked_behind_it_says_so(web):
    assert (await web.call("POST", BACKTEST, {"runbook": RUNBOOK})).status == 503
    assert (await web.call("GET", "/api/v1/coverage")).status == 503


async def test_each_candidates_answer_is_told_in_words(decided):
    answer = await decided.call("GET", "/api/v1/anomalies/a%2Fb/decisions", roles=["viewer"])
    assert answer.status == 200
    assert [(one["runbook_name"], one["told"]) for one in answer.body["items"]] == [
        ("left", "did not match: condition `x` is false"),
        ("new", "matched; its execution is not known yet"),
        ("right", "skipped: cooldown: one is at work"),
    ]
    assert (await decided.call("GET", "/api/v1/anomalies/b/decisions")).status == 404


async def test_coverage_names_what_is_left_out_and_judges_shadows(world, decided):
    world.put({**RUNBOOK, "name": "shade", "mode": "shadow", "cooldown_seconds": 60})
    answer = await decided.call("GET", "/api/v1/coverage", roles=["viewer"])
    assert answer.status == 200
    assert answer.body["uncovered"] == [{"service_id": "t", "metric_name": "m", "anomalies": 5}]
    assert answer.body["unhandled"] == [{"service_id": "s", "metric_name": "m", "anomalies": 4}]
    first, shade = answer.body["runbooks"]
    assert first["remarks"] == ["never fires: there was no anomaly of its service and metric"]
    assert (shade["shadow"], shade["remarks"]) == ({"start": 1, "cooldown": 1}, [])
    late = (T0 + timedelta(days=1)).isoformat().replace("+", "%2B")
    assert (await decided.call("GET", f"/api/v1/coverage?since={late}")).status == 400


async def test_a_shadow_is_only_dry_run(world, web):
    world.put({**RUNBOOK, "name": "shade", "mode": "shadow"})
    answer = await web.execute("shade")
    assert (answer.status, "only dry run" in answer.body["detail"]) == (409, True)
    assert (await web.execute("shade", dry_run=True)).status in {200, 202}
