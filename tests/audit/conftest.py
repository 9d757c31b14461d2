"""Logs of an audit's own: what honest workers write, ready to be changed by somebody who is not."""

from datetime import timedelta

import pytest
from building import LEASE, T0, http, plan, requested

from app.audit.folding import LogRecord, PartitionFold, Position
from app.core.events import ApprovalDecided, CancelRequested, RollbackRequested, StepFinished, StepPrepared, StepStarted
from app.core.events import write_event as written
from app.core.lifecycle import decide, evolve
from app.core.planning import Outcome


class WrittenLog:
    """One partition's records, and the state of each execution as the workers have it."""

    def __init__(self):
        self.records: list[tuple[bytes, bytes]] = []
        self.states = {}
        self.seconds = 0

    @property
    def now(self):
        return T0 + timedelta(seconds=self.seconds)

    def tell(self, event):
        offset = len(self.records)
        self.records.append((event.tenant.encode(), written(event)))
        self.seconds += 1
        after, self.refusal = evolve(self.states.get(event.execution_id), event, offset)
        if after is not None:
            self.states[event.execution_id] = after
        return event

    def request(self, name, *steps, **fields):
        event = requested(*(steps or (http(),)), at=self.now, by="olga", **fields)
        return self.tell(event.model_copy(update={"execution_id": name}))

    def answer(self, name):
        (command,) = decide(self.states[name])
        named = command.model_dump(include={"tenant", "execution_id", "command_id", "run", "phase", "attempt"})
        return {**named, "step": command.step_index, "at": self.now}

    def prepare(self, name, a_plan=None):
        return self.tell(StepPrepared(**self.answer(name), plan=a_plan or plan()))

    def approve(self, name, by="ann", **fields):
        state = self.states[name]
        given = {"step": state.standing.forward(state), "decision": "approve", **fields}
        return self.tell(ApprovalDecided(tenant=state.tenant, execution_id=name, at=self.now, by=by, **given))

    def start(self, name, a_plan=None):
        given = {"plan": a_plan or plan(inverse=True), "lease_until": self.now + LEASE, "worker": "w"}
        return self.tell(StepStarted(**self.answer(name), **given))

    def finish(self, started, outcome="succeeded"):
        answer = started.model_dump(exclude={"plan", "lease_until", "worker", "type"})
        return self.tell(StepFinished(**(answer | {"at": self.now}), outcome=Outcome(outcome=outcome)))

    def succeed(self, name):
        while not self.states[name].terminal:
            self.finish(self.start(name))

    def cancel(self, name):
        self.tell(CancelRequested(tenant="default", execution_id=name, at=self.now, by="olga"))

    def take_back(self, name, by="bob"):
        state = self.states[name]
        pinned = state.model_dump(mode="json")
        given = {"tenant": state.tenant, "execution_id": name, "at": self.now, "run": state.run, "by": by}
        return self.tell(RollbackRequested(**given, finished=pinned))

    def audited(self):
        """The fold of all records, and the differences it found as (offset, rule)."""
        found = []
        fold = PartitionFold(Position(0, 0), dict.fromkeys(["default"], 0), found.append)
        for offset, (key, value) in enumerate(self.records):
            fold.feed(LogRecord(offset, 4_000_000_000_000, key, value))
        return fold, [(one.offset, one.rule) for one in found]


@pytest.fixture
def log():
    return WrittenLog()


@pytest.fixture(scope="session")
def new_log():
    return WrittenLog
