"""Logs, and how they are projected."""

from datetime import timedelta
from itertools import pairwise

import pytest
import sqlalchemy as sa
from building import LEASE, T0, plan, requested, slack
from prometheus_client import CollectorRegistry

from app.core.events import ApprovalDecided, StepFinished, StepPrepared, StepStarted, write_event
from app.core.execution import Execution
from app.core.lifecycle import decide, evolve
from app.core.planning import Outcome
from app.history.projection import Projection, Record
from app.history.schema import EXECUTIONS, OFFSETS
from app.history.store import Store

TOPIC = "execution-events"


class PartitionLog:
    """One partition as it grows, and the runs that the core's own fold makes of it, one event at a time."""

    def __init__(self) -> None:
        self.values: list[bytes | None] = []
        self.latest: dict[str, Execution] = {}
        self.runs: dict[tuple[str, int], Execution] = {}
        self.seconds = 0

    @property
    def now(self):
        return T0 + timedelta(seconds=self.seconds)

    def tell(self, event):
        """Append an event; what it changed, None when it was refused."""
        offset = self.junk(write_event(event))
        before = self.latest.get(event.execution_id)
        if before is not None and before.tenant != event.tenant:
            return None
        after, refusal = evolve(before, event, offset)
        if refusal is not None:
            return None
        self.latest[event.execution_id] = self.runs[event.execution_id, after.run] = after
        return after

    def junk(self, value):
        """Append these bytes, whatever they are."""
        self.values.append(value)
        self.seconds += 1
        return len(self.values) - 1

    def request(self, execution_id, *steps, tenant="default", **fields):
        event = requested(*(steps or (slack(),)), at=fields.pop("at", self.now), **fields)
        return self.tell(event.model_copy(update={"execution_id": execution_id, "tenant": tenant}))

    def answer(self, execution_id):
        """What every answer to the due command says; None when nothing is due."""
        due = decide(self.latest[execution_id])
        if not due:
            return None
        (command,) = due
        named = command.model_dump(include={"tenant", "execution_id", "command_id", "run", "phase", "attempt"})
        return {**named, "step": command.step_index, "at": self.now}

    def start(self, execution_id):
        """A step begins: it is started, or planned where that comes first."""
        answer = self.answer(execution_id)
        if answer["phase"] == "prepare":
            return self.tell(StepPrepared(**answer, plan=plan()))
        state = self.latest[execution_id]
        return self.tell(
            StepStarted(**answer, plan=plan(inverse=True), lease_until=self.now + LEASE, worker=state.tenant)
        )

    def finish(self, execution_id, outcome="succeeded", **fields):
        """A step that has begun, or whose command is due, ends."""
        state = self.latest[execution_id]
        answer = self.answer(execution_id) or {
            "tenant": state.tenant,
            "execution_id": execution_id,
            "command_id": "any",
            "run": state.run,
            "step": state.cursor,
            "phase": "apply",
            "attempt": state.steps[state.cursor].attempt,
            "at": self.now,
        }
        return self.tell(StepFinished(**answer, outcome=Outcome(outcome=outcome, **fields)))

    def approve(self, execution_id, by="ann", decision="approve"):
        state = self.latest[execution_id]
        named = {"tenant": state.tenant, "execution_id": execution_id, "at": self.now}
        return self.tell(ApprovalDecided(**named, step=state.cursor, decision=decision, by=by, comment="looks right"))

    def succeed(self, execution_id):
        """All its steps succeed."""
        while not self.latest[execution_id].terminal:
            self.start(execution_id)
            self.finish(execution_id)

    def records(self, start=0, end=None):
        return [Record(start + place, value) for place, value in enumerate(self.values[start:end])]


@pytest.fixture(scope="session")
def new_log():
    return PartitionLog


async def rows_of(engine):
    """All rows, and all offsets, as they stand in the database."""
    async with engine.connect() as connection:
        rows = (await connection.execute(sa.select(EXECUTIONS).order_by(EXECUTIONS.c.run))).mappings().all()
        offsets = (await connection.execute(sa.select(OFFSETS).order_by(OFFSETS.c.partition))).all()
    return [dict(row) for row in rows], [tuple(place) for place in offsets]


@pytest.fixture(scope="session")
def read_rows():
    return rows_of


async def project_all(engine, log, cuts=(), partition=0):
    """Project a whole log, in batches that end at the cuts, by one projection that goes on from each to the next."""
    projection = Projection(Store(engine, TOPIC), CollectorRegistry())
    place = await projection.load(partition)
    edges = sorted({0, *cuts, len(log.values)})
    for start, end in pairwise(edges):
        await projection.project([(place, log.records(start, end))])
    return projection


@pytest.fixture(scope="session")
def project():
    return project_all
