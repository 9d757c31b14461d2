"""Backtests: the version in force gives what was really done; another one gives what it would have done, and why."""

import random
from collections import Counter
from datetime import datetime, timedelta
from typing import Any

from building import LEASE, T0, plan, slack
from hypothesis import given, settings
from hypothesis import strategies as st

from app.core.anomaly import Anomaly
from app.core.backtest import Answer, Assumed, Backtest, Decision
from app.core.backtest_report import MAX_DIFFERENCES, MAX_REASONS, Report
from app.core.catalog import Catalog, Definition, RunbookPut
from app.core.commands import StepCommand
from app.core.events import (
    CancelRequested,
    Event,
    ExecutionRequested,
    RollbackRequested,
    StartJudged,
    StepFinished,
    StepStarted,
    write_event,
)
from app.core.execution import Execution
from app.core.ids import execution_id_for_anomaly, execution_id_for_key
from app.core.lifecycle import evolve
from app.core.matching import Match, match
from app.core.occurrences import Occurrences
from app.core.pauses import Pause, PauseEnded, PausePut
from app.core.planning import ActionFailure, Outcome
from app.core.runbook import read_runbook
from app.core.survey import Survey, answered_by
from app.streams.index import ExecutionIndex

RUNBOOK = {"name": "r", "trigger": {"service_id": "s"}, "steps": [slack()]}
UNREADABLE = b'{"tenant": "default", "type": "execution_requested", "runbook": {"name": "r"}}'
HOST = "{{ anomaly.labels.host }}"


def anomaly(name: str, **fields: Any) -> Anomaly:
    given = {"anomaly_id": name, "service_id": "s", "metric_name": "m", "timestamp": T0}
    return Anomaly.model_validate(given | fields)


class World:
    """A worker in small: the real catalog, fold, index and guards; what it writes is the recorded log."""

    def __init__(self, *definitions: dict[str, Any]) -> None:
        self.catalog = Catalog()
        for content in definitions:
            self.put(content)
        self.ended = {}
        self.index = ExecutionIndex(ended=self.ended.get)
        self.log: list[tuple[datetime, Event]] = []
        self.records: list[tuple[datetime, int, Any]] = []  # anomalies, pauses and events as they came
        self.now = T0
        self.truth: dict[str, Answer] = {}
        self._judged: set[str] = set()

    def put(self, content: dict[str, Any]) -> Definition:
        return self.catalog.apply(
            RunbookPut(tenant="default", runbook=read_runbook(content), by="ann", at=T0)
        ).definition

    def pause(self) -> None:
        change = PausePut(pause=Pause(tenant="default", name="p", starts_at=self.now, by="ann"), at=self.now)
        self.catalog.apply(change)
        self.records.append((self.now, -1, change))

    def resume(self) -> None:
        change = PauseEnded(tenant="default", name="p", by="ann", at=self.now)
        self.catalog.apply(change)
        self.records.append((self.now, -1, change))

    def publish(self, one: Anomaly, at: datetime | None = None) -> None:
        """The anomaly stands on its topic; ``take`` matches it."""
        self.records.append((at or self.now, -1, one))

    def take(self, one: Anomaly) -> None:
        for answer in match(one, self.catalog):
            if not isinstance(answer, Match):
                continue
            runbook = answer.definition.runbook
            pause = self.catalog.pauses.why_paused("default", runbook.name, one.service_id, self.now)
            self.tell(
                ExecutionRequested(
                    tenant="default",
                    execution_id=execution_id_for_anomaly("default", one.anomaly_id, runbook.name),
                    at=self.now,
                    runbook=runbook,
                    runbook_version=answer.definition.version,
                    runbook_digest=answer.definition.digest,
                    anomaly=one,
                    dry_run=runbook.dry_run,
                    paused=None if pause is None or runbook.dry_run else pause.told(),
                )
            )

    def by_hand(self, key: str, runbook: str = "r", paused: str | None = None) -> None:
        one = self.catalog.get("default", runbook)
        self.tell(
            ExecutionRequested(
                tenant="default",
                execution_id=execution_id_for_key("default", key),
                at=self.now,
                runbook=one.runbook,
                runbook_version=one.version,
                runbook_digest=one.digest,
                requested_by="ann",
                paused=paused,
            )
        )

    def tell(self, event: Event) -> None:
        self.log.append((self.now, event))
        offset = len(self.log)
        self.records.append((self.now, offset, event))
        after, refusal = evolve(self.index.get(event.execution_id), event, offset)
        if refusal is None:
            self.index.put(after.marker() if after.terminal else after)
            if after.terminal:
                self.ended[after.execution_id] = after.marker()
        if refusal is None and isinstance(event, ExecutionRequested):
            self._write_down(after)

    def _write_down(self, after: Execution) -> None:
        if after.terminal:
            self.truth[after.execution_id] = Answer("blocked", "pause", after.reason)
        elif after.request.dry_run:
            self.truth[after.execution_id] = Answer("plans")
        elif not after.awaits_verdict:
            self.truth[after.execution_id] = Answer("runs")

    def judge(self) -> bool:
        """Tell the next verdict, as the worker does; whether there was one."""
        for execution in self.index.live():
            verdict = self.index.verdict(execution)
            if verdict is None:
                continue
            result = {"start": "runs", "approve": "asks", "skip": "blocked"}[verdict.effect]
            self.truth[execution.execution_id] = Answer(result, verdict.guard, verdict.reason)
            common = {"tenant": "default", "execution_id": execution.execution_id, "at": self.now, "run": execution.run}
            self.tell(StartJudged(**common, effect=verdict.effect, guard=verdict.guard, reason=verdict.reason))
            return True
        return False

    def due(self) -> list[StepCommand]:
        every = (command for one in self.index.live() for command in self.index.due(one))
        return [command for command in every if isinstance(command, StepCommand)]

    def act(self, command: StepCommand, outcome: str) -> None:
        common = {
            "tenant": "default",
            "execution_id": command.execution_id,
            "at": self.now,
            "command_id": command.command_id,
            "run": command.run,
            "step": command.step_index,
            "phase": command.phase,
            "attempt": command.attempt,
        }
        if outcome == "started":
            self.tell(StepStarted(**common, plan=plan(), lease_until=self.now + LEASE, worker="w"))
            return
        error = None if outcome == "succeeded" else ActionFailure(message="x", temporary=False)
        self.tell(StepFinished(**common, outcome=Outcome(outcome=outcome, error=error)))

    def cancel(self, execution_id: str) -> None:
        self.tell(CancelRequested(tenant="default", execution_id=execution_id, at=self.now, by="ann"))


def backtest(world: World, definition: Definition, **assumed: Any) -> list[Decision]:
    """Over all that the world recorded, as the reader of the topics feeds it."""
    survey = Survey("default", definition.name)
    for offset, (at, event) in enumerate(world.log, start=1):
        survey.take(write_event(event), offset, milliseconds(at))
    survey.done()
    alone: frozenset[int] = frozenset()
    while True:
        told: list[Decision] = []
        occurrences = Occurrences(alone)
        run = Backtest(definition, Assumed(assumed.get("lasts", survey.usual_duration())), told.append)
        for place, (at, offset, record) in enumerate(sorted(world.records, key=lambda one: one[0])):
            if isinstance(record, PausePut | PauseEnded):
                run.pause_changed(record)
            elif not isinstance(record, Anomaly):
                answered = answered_by(record, definition.name)
                if answered is not None:
                    occurrences.requested(answered)
                run.happened(record, offset, at)
            elif not survey.has_request_for(record.anomaly_id, milliseconds(at)) or occurrences.is_alone(
                record.anomaly_id, record.model_dump(mode="json"), place
            ):
                run.unanswered(record, at)
        run.finish()
        found = occurrences.found_alone()
        if not found:
            return told
        assert not alone
        alone = found


def milliseconds(at: datetime) -> int:
    return int(at.timestamp() * 1000)


GUARDS = st.fixed_dictionaries(
    {},
    optional={
        "cooldown_seconds": st.sampled_from([5, 60, 600]),
        "max_runs_per_hour": st.integers(1, 4),
        "circuit_breaker": st.builds(lambda n, m: {"failures": n, "open_minutes": m}, st.integers(1, 3), st.just(2)),
    },
)
MOVES = ("publish", "read", "judge", "begin", "end")
RARE = ("again", "pause", "resume", "by_hand", "cancel", "wait")


class Player:
    """Plays a world at random: anomalies are published and read later, steps begin and end, whatever comes between."""

    def __init__(self, world: World, seed: int, moves: int) -> None:
        self.world = world
        self.dice = random.Random(seed)
        self.unread: list[Anomaly] = []
        self.seen: list[Anomaly] = []
        self.begun: dict[str, StepCommand] = {}
        for _ in range(moves):
            world.now += timedelta(seconds=self.dice.choice([0, 0.2, 1, 5, 20, 60]))
            rare = self.dice.random() < 0.15
            getattr(self, self.dice.choice(RARE if rare else MOVES))()
        while self.unread:  # until which the worker has read
            self.read()

    def publish(self) -> None:
        number = len(self.seen)
        host = {"host": f"h{self.dice.randrange(2)}"}
        one = anomaly(f"a{number}", value=float(self.dice.randrange(4)), labels=host)
        self.seen.append(one)
        self.again(one)

    def again(self, one: Anomaly | None = None) -> None:
        if self.seen:
            again = {"value": float(self.dice.randrange(4))}  # of the same id, and better or worse
            one = one or self.dice.choice(self.seen).model_copy(update=again)
            self.world.publish(one)
            self.unread.append(one)

    def read(self) -> None:
        if self.unread:
            self.world.take(self.unread.pop(0))

    def judge(self) -> None:
        self.world.judge()

    def begin(self) -> None:
        for command in self.world.due():
            if command.command_id not in self.begun:
                self.begun[command.command_id] = command
                self.world.act(command, "started")
                return

    def end(self) -> None:
        if self.begun:
            _, command = self.begun.popitem()
            self.world.act(command, self.dice.choice(["succeeded", "failed"]))

    def pause(self) -> None:
        self.world.pause()

    def resume(self) -> None:
        self.world.resume()

    def by_hand(self) -> None:
        self.world.by_hand(f"k{self.dice.random()}")

    def cancel(self) -> None:
        live = list(self.world.index.live())
        if live:
            self.world.cancel(self.dice.choice(live).execution_id)

    def wait(self) -> None:
        self.world.now += timedelta(seconds=self.dice.choice([600, 4000, 90_000]))


def played(guards: dict[str, Any], seed: int, policy: str, moves: int = 150) -> World:
    steps = [{"type": "shell", "host": HOST, "command": "true"}]
    if "max_runs_per_hour" in guards:
        guards = guards | {"when_exceeded": policy}
    condition = {"service_id": "s", "condition": "value > 1.0"}
    other = {**RUNBOOK, "name": "other", "steps": steps}
    world = World({**RUNBOOK, "trigger": condition, "steps": steps, **guards}, other)
    Player(world, seed, moves)
    return world


def requests(world: World) -> list[ExecutionRequested]:
    events = (event for _, event in world.log if isinstance(event, ExecutionRequested))
    return [one for one in events if one.anomaly is not None and one.runbook.name == "r"]


@settings(max_examples=60)
@given(GUARDS, st.integers(0, 10**9), st.sampled_from(["skip", "approve"]))
def test_the_version_in_force_gives_exactly_what_was_done(guards, seed, policy):
    world = played(guards, seed, policy)
    decisions = backtest(world, world.catalog.get("default", "r"))
    known = [one for one in decisions if one.did.result != "unknown"]
    for one in known:
        assert one.would == one.did or (one.would.result, one.did.result) == ("no_match", "nothing")
    assert not any(one.differs for one in decisions)
    last = {one.execution_id: one.did for one in known if one.execution_id}
    mine = {one.execution_id for one in requests(world)}
    assert last == {name: answer for name, answer in world.truth.items() if name in mine and name in last}
    assert {one.anomaly_id for one in decisions} == {
        one.anomaly_id for _, _, one in world.records if isinstance(one, Anomaly)
    }


def test_the_random_logs_hold_every_kind_of_decision():
    guards = {"cooldown_seconds": 5, "max_runs_per_hour": 4, "circuit_breaker": {"failures": 2, "open_minutes": 2}}
    seen = Counter()
    for seed in range(100):
        world = played(guards, seed, "approve")
        seen.update((one.did.result, one.did.guard) for one in backtest(world, world.catalog.get("default", "r")))
    ways = [("runs", None), ("asks", "max_runs_per_hour"), ("nothing", None)]
    ways += [("blocked", guard) for guard in ("cooldown", "circuit_breaker", "pause")]
    assert all(seen[way] >= 5 for way in ways), seen


def answered(world: World, **changes: Any) -> dict[str, Decision]:
    """What another version of the runbook would have done, by anomaly."""
    definition = world.put({**RUNBOOK, **changes})
    return {one.anomaly_id: one for one in backtest(world, definition)}


def recorded(*seconds: float, **fields: Any) -> World:
    """Anomalies that came, were matched by a plain runbook and carried out within ten seconds."""
    world = World({**RUNBOOK, **fields})
    for number, second in enumerate(seconds):
        world.now = T0 + timedelta(seconds=second)
        one = anomaly(f"a{number}")
        world.publish(one)
        world.take(one)
        while world.judge():
            pass
        for command in world.due():
            world.act(command, "started")
            world.now += timedelta(seconds=10)
            world.act(command, "succeeded")
    return world


class TestAnotherVersion:
    def test_its_cooldown_blocks_what_really_ran(self):
        found = answered(recorded(0, 50, 100), cooldown_seconds=60)
        assert [(one.would.result, one.would.guard, one.did.result) for one in found.values()] == [
            ("runs", None, "runs"),
            ("blocked", "cooldown", "runs"),
            ("runs", None, "runs"),
        ]
        assert [one.differs for one in found.values()] == [False, True, False]
        assert "acted on service/s until 2026-01-01T03:00:10" in found["a1"].would.reason

    def test_without_the_cooldown_what_was_skipped_runs_as_long_as_runs_do(self):
        world = recorded(0, 20, 40, cooldown_seconds=30)
        assert [world.truth[one.execution_id].result for one in requests(world)] == ["runs", "blocked", "runs"]
        found = answered(world, max_runs_per_hour=2)
        assert (found["a1"].would, found["a1"].did.guard) == (Answer("runs"), "cooldown")
        assert (found["a2"].would.guard, found["a2"].did) == ("max_runs_per_hour", Answer("runs"))

    def test_its_clause_is_named_and_an_approval_is_asked_for(self):
        world = recorded(0)
        missed = answered(world, trigger={"service_id": "s", "condition": "value > 1.0"})["a0"]
        assert (missed.would.result, missed.differs) == ("no_match", True)
        assert missed.would.reason.startswith("condition `value > 1.0`")
        assert answered(world, steps=[slack(require_approval=True)])["a0"].would == Answer("asks")
        assert answered(world, dry_run=True)["a0"].would == Answer("plans")

    def test_what_no_version_answered(self):
        world = World()
        for second, name in enumerate(("a", "b", "a")):
            world.publish(anomaly(name), T0 + timedelta(seconds=second))
        found = answered(world, cooldown_seconds=600)
        assert [one.would.result for one in found.values()] == ["repeated", "blocked"]
        assert {one.did for one in found.values()} == {Answer("nothing")}
        assert len(backtest(world, world.catalog.get("default", "r"))) == 3

    def test_after_its_window_the_same_anomaly_is_a_new_run(self):
        world = World()
        for hours in (0, 20, 30):
            world.publish(anomaly("a"), T0 + timedelta(hours=hours))
        told = backtest(world, world.put(RUNBOOK))
        assert [one.would.result for one in told] == ["runs", "repeated", "runs"]

    def test_it_waits_for_a_target_and_for_a_slot(self):
        shell = {"type": "shell", "host": HOST, "command": "true"}
        world = World({**RUNBOOK, "name": "other", "trigger": {"service_id": "t"}, "steps": [shell]})
        busy = anomaly("busy", service_id="t", labels={"host": "h1"})
        world.take(busy)
        world.act(world.due()[0], "started")
        for number, host in enumerate(("h1", "h2", "h3", "h4")):
            world.publish(anomaly(f"a{number}", labels={"host": host}), T0 + timedelta(seconds=number + 1))
        holder = execution_id_for_anomaly("default", "busy", "other")
        definition = world.put({**RUNBOOK, "steps": [shell]})
        found = [one.waits_for for one in backtest(world, definition)]
        assert found == [f"execution {holder} comes before it on host/h1", None, None, "all 3 slots are taken"]
        quick = [one.waits_for for one in backtest(world, definition, lasts=timedelta(seconds=1))]
        assert quick == [f"execution {holder} comes before it on host/h1", None, None, None]

    def test_paused_as_the_pauses_were(self):
        world = World()
        world.publish(anomaly("a"))
        world.now += timedelta(seconds=1)
        world.pause()
        world.publish(anomaly("b"))
        assert [one.would.result for one in answered(world).values()] == ["runs", "blocked"]

    def test_what_somebody_started_by_hand_counts_and_is_not_told(self):
        world = World(RUNBOOK)
        world.by_hand("k")
        world.act(world.due()[0], "started")
        world.publish(anomaly("a"), T0 + timedelta(seconds=5))
        found = answered(world, cooldown_seconds=60)
        assert list(found) == ["a"]
        assert (found["a"].would.guard, found["a"].would.reason.endswith("is at work on service/s")) == (
            "cooldown",
            True,
        )

    def test_what_was_a_dry_run_is_assumed_to_run_and_what_is_cancelled_unjudged_is_not_known(self):
        found = answered(recorded(0, dry_run=True), cooldown_seconds=60)
        assert (found["a0"].would, found["a0"].did) == (Answer("runs"), Answer("plans"))
        world = World({**RUNBOOK, "cooldown_seconds": 60})
        world.take(anomaly("a"))
        (execution,) = world.index.live()
        world.cancel(execution.execution_id)
        (one,) = answered(world, cooldown_seconds=60).values()
        assert (one.did.result, one.differs) == ("unknown", False)

    def test_what_was_paused_when_somebody_wanted_it_holds_nothing(self):
        world = World(RUNBOOK)
        world.by_hand("k", paused="paused by ann")
        world.publish(anomaly("a"), T0 + timedelta(seconds=5))
        assert answered(world, cooldown_seconds=60)["a"].would == Answer("runs")

    def test_a_dry_run_stays_one(self):
        found = answered(recorded(0, dry_run=True), dry_run=True)
        assert (found["a0"].would, found["a0"].differs) == (Answer("plans"), False)

    def test_what_is_taken_back_holds_its_target_again(self):
        world = recorded(0, steps=[slack(rollback=slack())])
        (request,) = requests(world)
        state = None
        for offset, (_, event) in enumerate(world.log, start=1):
            state, _ = evolve(state, event, offset)
        common = {"tenant": "default", "execution_id": request.execution_id, "run": state.run, "by": "bob"}
        world.now += timedelta(seconds=1)
        back = RollbackRequested(**common, at=world.now, finished=state.model_dump(mode="json"))
        world.tell(back)
        world.publish(anomaly("b"), world.now + timedelta(seconds=1))
        assert answered(world)["b"].would == Answer("runs")

    def test_what_is_assumed_to_be_at_work_still_is_not_run_a_second_time(self):
        world = World({**RUNBOOK, "cooldown_seconds": 3600})
        for hours, name in ((0, "a"), (0.5, "b"), (30, "b"), (30, "c")):
            world.now = T0 + timedelta(hours=hours)
            world.publish(anomaly(name))
            world.take(anomaly(name))
            world.judge()
        assert [one.result for one in world.truth.values()] == ["runs", "blocked", "blocked"]
        definition = world.put(RUNBOOK)
        told = backtest(world, definition, lasts=timedelta(hours=48))
        assert [(one.anomaly_id, one.would.result, one.did.result) for one in told] == [
            ("a", "runs", "runs"),
            ("b", "runs", "blocked"),
            ("b", "repeated", "blocked"),
            ("c", "runs", "blocked"),
        ]


LOWER = {"service_id": "s", "condition": "value > 0.5"}
HIGHER = {"service_id": "s", "condition": "value > 2.5"}


def coming_again(*values: float, read: bool = True) -> World:
    """One anomaly that comes every ten minutes, and is matched above 1: at once, or every time at the end."""
    world = World({**RUNBOOK, "trigger": {"service_id": "s", "condition": "value > 1.0"}})
    for number, value in enumerate(values):
        world.now = T0 + timedelta(minutes=10 * number)
        one = anomaly("a", value=value)
        world.publish(one)
        if read:
            world.take(one)
    for value in () if read else values:
        world.take(anomaly("a", value=value))
    return world


def told_of(world: World, **changes: Any) -> list[tuple[str, str, float]]:
    """What would be, what was done, and after how many minutes."""
    trigger = {"service_id": "s", "condition": "value > 1.0"}
    told = backtest(world, world.put({**RUNBOOK, "trigger": trigger, **changes}))
    return [(one.would.result, one.did.result, (one.at - T0).total_seconds() / 60) for one in told]


class TestAnAnomalyThatComesAgain:
    def test_a_lower_threshold_starts_when_it_came_first(self):
        world = coming_again(1.0, 2.0)
        assert told_of(world) == [("no_match", "nothing", 0), ("runs", "runs", 10)]
        assert told_of(world, trigger=LOWER) == [("runs", "nothing", 0), ("repeated", "runs", 10)]

    def test_a_higher_threshold_starts_when_it_was_the_same_execution_already(self):
        world = coming_again(2.0, 2.0, 3.0, 3.0)
        assert told_of(world) == [("runs", "runs", 0)]
        assert told_of(world, trigger=HIGHER) == [("no_match", "runs", 0), ("runs", "nothing", 20)]

    def test_what_comes_after_its_request_is_the_same_execution(self):
        world = coming_again(2.0, 1.0)
        assert told_of(world, trigger=LOWER) == [("runs", "runs", 0), ("repeated", "nothing", 10)]

    def test_workers_that_were_late_took_each_for_what_it_was(self):
        assert told_of(coming_again(2.0, 2.0, 2.0, read=False)) == [("runs", "runs", 20)]
        late = [("no_match", "nothing", 0), ("no_match", "nothing", 20), ("runs", "runs", 20)]
        assert told_of(coming_again(1.0, 2.0, 1.0, read=False)) == late


class TestReport:
    def test_it_counts_and_lists_the_differences(self):
        world = recorded(0, 50, 100)
        report = Report(T0 + timedelta(seconds=10), T0 + timedelta(seconds=200), everything=True)
        for one in answered(world, cooldown_seconds=60).values():
            report.add(one)
        report.add_misses("metric_name", 7)
        shown = report.shown()
        assert [one["anomaly_id"] for one in shown["differences"]] == ["a1"]
        assert [one["anomaly_id"] for one in shown["others"]] == ["a2"]
        assert (shown["decided"], shown["same"], shown["differing"]) == (9, 8, 1)
        assert shown["counts"] == [
            {"would": "runs", "did": "runs", "anomalies": 1},
            {"would": "blocked", "did": "runs", "anomalies": 1},
            {"would": "no_match", "did": "nothing", "anomalies": 7},
        ]
        assert shown["reasons"] == [
            {"reason": "no_match: another metric_name", "anomalies": 7},
            {"reason": "blocked: cooldown", "anomalies": 1},
        ]

    def test_what_is_not_known_is_counted_apart_and_what_is_the_same_is_listed_on_demand(self):
        report = Report(T0)
        for did in (Answer("unknown"), Answer("runs")):
            report.add(Decision("a", "s", "m", T0, None, Answer("runs"), did))
        shown = report.shown()
        assert (shown["unknown"], shown["same"], shown["differences"], shown["others"]) == (1, 1, [], [])

    def test_it_stays_small(self):
        report = Report(T0)
        for number in range(MAX_DIFFERENCES + 200):
            would = Answer("no_match", None, f"condition `value > {number}` is false")
            report.add(Decision(f"a{number}", "s", "m", T0, None, would, Answer("runs")))
        shown = report.shown()
        assert (len(shown["differences"]), shown["differing"]) == (MAX_DIFFERENCES, MAX_DIFFERENCES + 200)
        assert len(shown["reasons"]) == MAX_REASONS + 1


def test_a_survey_keeps_no_more_live_executions_than_it_may(monkeypatch):
    monkeypatch.setattr("app.core.survey.MAX_LIVE", 1)
    world, survey = World(RUNBOOK), Survey("default", "r")
    world.by_hand("forgotten")
    world.by_hand("kept")
    for command in world.due():
        world.act(command, "started")
        world.now += timedelta(seconds=7)
        world.act(command, "succeeded")
    for offset, (_, event) in enumerate(world.log, start=1):
        survey.take(write_event(event), offset, 0)
    assert survey.usual_duration() == timedelta(seconds=7)


def test_a_survey_passes_over_what_it_cannot_read_and_what_is_not_its_own():
    world = recorded(0, 30)
    survey = Survey("default", "r")
    for offset, value in enumerate(
        [None, b"{", b"[]", b'{"tenant": "default", "type": "execution_requested"}', UNREADABLE]
    ):
        survey.take(value, offset, 0)
    assert survey.usual_duration() == timedelta(seconds=60)
    for offset, (at, event) in enumerate(world.log, start=1):
        survey.take(write_event(event), offset, milliseconds(at))
        survey.take(write_event(event.model_copy(update={"tenant": "else"})), offset, 0)
    survey.done()
    asked = milliseconds(T0) + 30_000
    assert [survey.has_request_for("a1", asked + more) for more in (-1000, 0, 1)] == [True, True, False]
    assert not survey.has_request_for("a2", 0)
    assert survey.usual_duration() == timedelta(seconds=10)
