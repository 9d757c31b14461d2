"""Cooldown, runs an hour, circuit breaker: what is judged, and what a verdict does."""

from datetime import timedelta

import pytest
from building import T0, plan, runbook, scale, slack, story

from app.core.errors import RunbookRefused
from app.core.events import Limits
from app.core.execution import Marker
from app.core.guards import RunbookRuns, Trace, Verdict, kept_for
from app.core.lifecycle import decide
from app.core.runbook import read_runbook

HOST = ("host/a",)


def at(seconds: float):
    return T0 + timedelta(seconds=seconds)


def trace(seconds: float, *keys: str) -> Trace:
    return Trace(runbook="r", keys=keys or HOST, at=at(seconds))


class Runs(RunbookRuns):
    """Runs by their number, begun and ended in one word."""

    def __init__(self, **fields):
        super().__init__()
        self.runbook = runbook(**fields)

    def asks(self, seconds: float, *keys: str) -> Verdict:
        return self.judge(self.runbook, trace(seconds, *keys))

    def ran(self, name: str, begun: float, ended: float, end="good", *keys: str) -> "Runs":
        self.begin(name, trace(begun, *keys))
        self.end(name, trace(begun, *keys).ended(at(ended), end))
        return self


class TestCooldown:
    def test_one_at_a_time_and_a_pause_after_each(self):
        runs = Runs(cooldown_seconds=60)
        assert runs.asks(0) == Verdict("start")
        runs.begin("x", trace(0))
        said = "execution x of this runbook is at work on host/a"
        assert runs.asks(500) == Verdict("skip", "cooldown", said)
        runs.end("x", trace(0).ended(at(600), "good"))
        verdict = runs.asks(659)
        assert (verdict.effect, verdict.guard) == ("skip", "cooldown")
        assert verdict.reason == (
            "execution x of this runbook acted on host/a until 2026-01-01T03:10:00+00:00; "
            "it may again at 2026-01-01T03:11:00+00:00"
        )
        assert runs.asks(660) == Verdict("start")

    def test_another_target_is_another_matter(self):
        runs = Runs(cooldown_seconds=60).ran("x", 0, 10, "good", "host/a", "host/b")
        assert runs.asks(20, "host/c").effect == "start"
        assert runs.asks(20, "host/c", "host/b").effect == "skip"

    def test_the_latest_end_counts_and_forgetting_an_older_one_does_not_undo_it(self):
        runs = Runs(cooldown_seconds=60).ran("x", 0, 10).ran("y", 100, 110)
        runs.forget(trace(0), "x")
        assert runs.asks(120).effect == "skip"
        runs.forget(trace(100), "y")
        assert runs.asks(120).effect == "start"
        assert not runs


class TestMaxRuns:
    @pytest.mark.parametrize("policy", ["skip", "approve"])
    def test_what_is_over_it_is_skipped_or_asked_about(self, policy):
        runs = Runs(max_runs_per_hour=2, when_exceeded=policy).ran("x", 0, 1).ran("y", 1800, 1801)
        assert runs.asks(3599) == Verdict(policy, "max_runs_per_hour", "2 runs in the last hour, and 2 may be")
        assert runs.asks(3600) == Verdict("start")

    def test_hours_that_are_over_are_let_go(self):
        runs = Runs(max_runs_per_hour=1)
        for number in range(50):
            runs.ran(str(number), number * 3600, number * 3600 + 1)
        assert len(runs._begun) == 1


BREAKER = {"failures": 2, "open_minutes": 10}


class TestBreaker:
    def test_after_failures_in_a_row_nothing_starts_until_one_may_try(self):
        runs = Runs(circuit_breaker=BREAKER).ran("x", 0, 10, "bad").ran("y", 20, 30, "bad")
        verdict = runs.asks(629)
        assert (verdict.effect, verdict.guard) == ("skip", "circuit_breaker")
        assert verdict.reason.startswith("2 runs in a row failed, the last at 2026-01-01T03:00:30+00:00; one may try")
        assert runs.asks(630).effect == "start"
        runs.begin("z", trace(630))
        assert runs.asks(640).reason.endswith("execution z is the trial")
        runs.end("z", trace(630).ended(at(700), "bad"))
        assert runs.asks(1299).effect == "skip"
        runs.ran("v", 1300, 1310, "good")
        assert runs.asks(1311).effect == "start"

    def test_only_failures_in_a_row_count_and_a_no_is_neither(self):
        runs = Runs(circuit_breaker=BREAKER).ran("a", 0, 1, "bad").ran("b", 2, 3, "good").ran("c", 4, 5, "bad")
        assert runs.ran("d", 6, 7, "neither").asks(8).effect == "start"
        assert runs.ran("e", 9, 10, "bad").asks(11).effect == "skip"


class TestRuns:
    def test_a_run_counts_once_however_often_it_is_told(self):
        runs = Runs(max_runs_per_hour=2)
        runs.begin("x", trace(0))
        runs.begin("x", trace(0))
        assert runs.asks(1).effect == "start"

    def test_an_end_of_what_did_not_count_is_passed_over(self):
        runs = Runs(cooldown_seconds=60)
        runs.end("x", trace(0).ended(at(1), "bad"))
        assert runs.asks(2).effect == "start"

    def test_what_is_withdrawn_leaves_nothing(self):
        runs = Runs(cooldown_seconds=60)
        runs.begin("x", trace(0))
        assert runs.withdraw("x")
        assert runs.asks(1).effect == "start"


@pytest.mark.parametrize(
    ("fields", "seconds"),
    [
        ({"cooldown_seconds": 7200}, 7200),
        ({"cooldown_seconds": 60, "max_runs_per_hour": 1}, 3600),
        ({"circuit_breaker": {"failures": 1}}, 24 * 3600),
    ],
)
def test_how_long_a_run_counts(fields, seconds):
    assert kept_for(runbook(**fields)) == timedelta(seconds=seconds)


GUARDED = {"cooldown_seconds": 60}


class TestVerdicts:
    def test_nothing_is_sent_before_the_verdict(self):
        s = story(slack(), **GUARDED)
        assert (s.state.awaits_verdict, decide(s.state)) == (True, ())
        s.judged()
        assert (s.status, s.state.place_in_line, s.command.phase) == ("queued", 2, "apply")
        assert s.judged("skip", "cooldown").refusal == "no verdict is awaited"

    def test_a_skip_ends_it_with_its_reason(self):
        s = story(slack(), **GUARDED).at(5).judged("skip", "cooldown", "one is at work")
        assert (s.status, s.state.reason, s.state.finished_at) == ("skipped", "cooldown: one is at work", s.now)
        assert (s.state.trace(), s.state.marker().trace) == (None, None)

    def test_cancelled_before_it_is_judged(self):
        s = story(slack(), **GUARDED).cancel()
        assert s.command.revoked
        assert s.interrupted().status == "cancelled"

    def test_with_approval_its_first_step_asks_whatever_it_is(self):
        s = story(slack(when="false"), scale(), scale(), max_runs_per_hour=1, when_exceeded="approve")
        s.judged("approve", "max_runs_per_hour", "1 run in the last hour, and 1 may be")
        assert s.command.phase == "prepare"
        s.skipped()
        assert s.command.phase == "prepare"
        s.prepared(plan(inverse=True))
        assert s.status == "awaiting_approval"
        assert s.state.reason == "max_runs_per_hour: 1 run in the last hour, and 1 may be"
        s.decided()
        started = s.command
        assert started.expected_digest == plan(inverse=True).digest
        s.started(plan("another"), started)
        assert s.refusal == "this plan has no approval"
        s.does(inverse=True)
        assert (s.status, s.command.phase) == ("running", "apply")

    @pytest.mark.parametrize("fields", [{"by": "ann"}, {"dry_run": True}])
    def test_what_a_person_asks_for_and_a_dry_run_are_not_judged(self, fields):
        s = story(slack(), **GUARDED, **fields)
        assert not s.state.awaits_verdict
        assert s.command
        assert (s.state.trace() is None) == ("dry_run" in fields)

    def test_a_verdict_of_an_earlier_run_is_none_of_this_one(self):
        s = story(slack(), **GUARDED)
        stale = s.judged().events[-1].model_copy(update={"run": 7})
        assert story(slack(), **GUARDED).tell(stale).refusal == "run 7, and this is run 1"


class TestTraces:
    def test_of_targets_else_of_the_service(self):
        assert story(scale(), **GUARDED).state.trace().keys == ("deployment/n/d",)
        assert story(slack(), **GUARDED).state.trace().keys == ("service/s",)
        assert story(slack()).state.trace() is None

    @pytest.mark.parametrize(
        ("ended", "end"),
        [
            (lambda s: s.does(), "good"),
            (lambda s: s.does("failed", "x"), "bad"),
            (lambda s: s.cancel().interrupted(), "neither"),
        ],
    )
    def test_how_it_ended(self, ended, end):
        s = ended(story(slack(), **GUARDED).judged().at(9))
        marker = s.state.marker()
        assert (marker.trace.end, marker.trace.ended_at) == (end, s.now)
        assert marker.kept_until == s.now + timedelta(seconds=60)
        assert Marker.model_validate_json(marker.model_dump_json()) == marker

    def test_it_is_kept_as_long_as_anybody_needs_it(self):
        short = {"limits": Limits(dedup_window_s=1)}
        assert story(slack(), **short).does().state.marker().until == at(1)
        assert story(slack(), **GUARDED, **short).judged().does().state.marker().until == at(60)

    def test_what_is_taken_back_later_keeps_the_end_it_had(self):
        s = story(scale(), **GUARDED).judged().at(5).does(inverse=True).at(500).back()
        assert s.state.trace().ended_at == at(5)
        assert s.at(600).does().state.marker().trace.ended_at == at(5)


def test_a_policy_without_a_limit_is_refused():
    with pytest.raises(RunbookRefused, match="when_exceeded has no effect without max_runs_per_hour"):
        read_runbook({"name": "r", "steps": [slack()], "when_exceeded": "approve"})


class TestForgetting:
    def test_failures_count_for_a_day_whoever_still_remembers_them(self):
        day = 24 * 3600
        runs = (
            Runs(circuit_breaker={"failures": 2, "open_minutes": 1})
            .ran("x", 0, 10, "bad")
            .ran("y", day, day + 11, "bad")
        )
        assert runs.asks(day + 20).effect == "start"
        assert runs.ran("z", day + 30, day + 40, "bad").asks(day + 50).effect == "skip"

    def test_a_breaker_that_stays_open_longer_keeps_them_as_long(self):
        runbook_ = runbook(circuit_breaker={"failures": 1, "open_minutes": 2880})
        assert kept_for(runbook_) == timedelta(days=2)
        runs = Runs(circuit_breaker={"failures": 1, "open_minutes": 2880}).ran("x", 0, 10, "bad")
        assert runs.asks(40 * 3600).effect == "skip"
