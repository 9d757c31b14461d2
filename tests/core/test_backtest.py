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
from app.core.catalog import Catalog, Definition, RunbookPut
from app.core.commands import StepCommand
from app.core.events import (
    CancelRequested,
    Event,
    ExecutionRequested,
    StartJudged,
    StepFinished,
    StepStarted,
    write_event,
)
from app.core.execution import Execution
from app.core.ids import execution_id_for_anomaly, execution_id_for_key
from app.core.lifecycle import evolve
from app.core.matching import Match, match
from app.core.pauses import Pause, PauseEnded, PausePut
from app.core.planning import ActionFailure, Outcome
from app.core.runbook import read_runbook
from app.core.survey import Survey
from app.streams.index import ExecutionIndex

RUNBOOK = {"name": "r", "trigger": {"service_id": "s"}, "steps": [slack()]}
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
        self.index = ExecutionIndex()
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

    def by_hand(self, key: str, runbook: str = "r") -> None:
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
            )
        )

    def tell(self, event: Event) -> None:
        self.log.append((self.now, event))
        offset = len(self.log)
        self.records.append((self.now, offset, event))
        after, refusal = evolve(self.index.get(event.execution_id), event, offset)
        if refusal is None:
            self.index.put(0, after.marker() if after.terminal else after)
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
    told: list[Decision] = []
    survey = Survey("default", definition.name)
    for offset, (_, event) in enumerate(world.log, start=1):
        survey.take(write_event(event), offset)
    survey.done()
    lasts = assumed.get("lasts", survey.usual_duration())
    run = Backtest(definition, Assumed(lasts), told.append)
    for at, offset, record in sorted(world.records, key=lambda one: one[0]):
        if isinstance(record, PausePut | PauseEnded):
            run.pause_changed(record)
        elif not isinstance(record, Anomaly):
            run.happened(record, offset, at)
        elif not survey.has_request_for(record.anomaly_id):
            run.unanswered(record, at)
    run.finish()
    return told


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
            one = one or self.dice.choice(self.seen)
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
    for seed in range(20):
        world = played(guards, seed, "approve")
        seen.update((one.did.result, one.did.guard) for one in backtest(world, world.catalog.get("default", "r")))
    ways = [("runs", None), ("asks", "max_runs_per_hour"), ("nothing", None)]
    ways += [("blocked", guard) for guard in ("cooldown", "circuit_breaker", "pause")]
    assert all(seen[way] >= 5 for way in ways), seen
