"""The why-not ledger in the database: written once however often it comes, asked, and forgotten by age."""

import asyncio
import sqlite3
from datetime import timedelta

import sqlalchemy as sa
from building import T0, requested, slack, story
from prometheus_client import CollectorRegistry

from app.core.answers import (
    MAX_REASON,
    AnomaliesAnswered,
    AnomalyAnswered,
    Answered,
    RunbookAnswer,
    read_answers,
    shortened,
    write_answered,
    write_answers,
)
from app.history.decisions import DecisionQueries
from app.history.folding import row_of
from app.history.ledger import SLICE, LedgerProjection
from app.history.projection import Record
from app.history.store import Store

TOPIC = "match-decisions"


class Ledger:
    """A projection and questions, on one database."""

    def __init__(self, engine) -> None:
        self.engine = engine
        self.now = T0
        self.registry = CollectorRegistry()
        self.projection = LedgerProjection(engine, TOPIC, self.registry, lambda: self.now, timedelta(days=30))
        self.queries = DecisionQueries(engine)
        self.place = None
        self.offset = 0

    async def take(self, *answered: AnomaliesAnswered | bytes) -> None:
        self.place = self.place or await self.projection.load(0)
        records = []
        for one in answered:
            records.append(Record(self.offset, one if isinstance(one, bytes) else written(one)))
            self.offset += 1
        await self.projection.project([(self.place, records)])


def written(record: AnomaliesAnswered) -> bytes:
    return write_answers(record.tenant, map(write_answered, record.anomalies))


def answered(name: str, *answers: RunbookAnswer, at=T0, tenant="default", service="s") -> AnomaliesAnswered:
    one = Answered(anomaly_id=name, service_id=service, metric_name="m", at=at, answers=answers)
    return AnomaliesAnswered(tenant=tenant, anomalies=(one,))


def said(runbook: str, result="no_match", **fields) -> RunbookAnswer:
    return RunbookAnswer(runbook=runbook, version=2, result=result, **fields)


async def test_each_candidate_has_one_answer_and_its_execution(engine):
    ledger = Ledger(engine)
    state = story(slack(), limits=requested().limits).state
    await Store(engine, "log").write([row_of(state, 0)], {0: (0, 1)})
    missed = said("other", reason="condition `x` is false")
    await ledger.take(answered("a", said("r", "requested", execution_id="e"), missed), b"{", b"{}")
    first, second = await ledger.queries.of_anomaly("default", "a")
    assert (first.runbook_name, first.result, first.reason) == ("other", "no_match", "condition `x` is false")
    assert (second.execution_id, second.status, second.decided_at) == ("e", "queued", T0)
    assert await ledger.queries.of_anomaly("other", "a") == []
    assert ledger.registry.get_sample_value("runbooks_match_decisions_unreadable_total") == 2


async def test_told_again_nothing_is_doubled_and_the_last_time_counts(engine):
    ledger = Ledger(engine)
    late = answered("a", said("r", "paused", reason="freeze"), at=T0 + timedelta(hours=1))
    await ledger.take(answered("a", said("r")), late, answered("b", said("r")))
    await ledger.take(answered("a", said("r")))
    (one,) = await ledger.queries.of_anomaly("default", "a")
    assert (one.result, one.decided_at) == ("paused", T0 + timedelta(hours=1))
    ledger.place = None
    assert (await ledger.projection.load(0)).next_offset == 4


async def test_it_is_forgotten_by_age(engine):
    ledger = Ledger(engine)
    await ledger.take(answered("old", said("r")))
    ledger.now += timedelta(days=31)
    await ledger.take(answered("new", said("r"), at=ledger.now))
    assert await ledger.queries.of_anomaly("default", "old") == []
    assert len(await ledger.queries.of_anomaly("default", "new")) == 1


async def test_it_is_forgotten_though_nothing_comes(engine):
    ledger = Ledger(engine)
    await ledger.take(answered("old", said("r")))
    ledger.now += timedelta(days=31)
    assert await ledger.projection.project([]) == {}
    assert await ledger.queries.of_anomaly("default", "old") == []


async def test_what_each_runbook_came_to_and_what_none_took(engine):
    ledger = Ledger(engine)
    state = story(slack()).state
    await Store(engine, "log").write([row_of(state, 0)], {0: (0, 1)})
    shadow = [said("shade", "would_request", keys=("host/a",))]
    await ledger.take(
        answered("a", said("r", "requested", execution_id="e"), *shadow),
        answered("b", said("r"), *shadow, at=T0 + timedelta(seconds=1)),
        answered("c", said("r"), service="t"),
        answered("d", said("r"), service="s"),
        answered("x", said("r"), tenant="other"),
    )
    figures = await ledger.queries.figures("default", T0)
    assert (figures["r"].answers, figures["r"].statuses) == ({"requested": 1, "no_match": 3}, {"queued": 1})
    assert await ledger.queries.figures("default", T0 + timedelta(days=1)) == {}
    unhandled = await ledger.queries.unhandled("default", T0)
    assert [tuple(one) for one in unhandled] == [("s", "m", 2), ("t", "m", 1)]
    runs = await ledger.queries.shadow_runs("default", "shade", T0)
    assert [(one.anomaly_id, one.keys) for one in runs] == [("a", ("host/a",)), ("b", ("host/a",))]


def taken_back():
    """A run that failed, and was to be taken back for its metric."""
    check = {"metric_name": "cpu", "check_after_minutes": 1, "rollback_if_value_exceeds": 90}
    told = story(slack(), rollback_metric_check=check).does().at(61).timer().measured(99.0)
    assert told.status == "failed"  # a message cannot be taken back
    return told.state


async def test_why_runs_were_taken_back_is_counted(engine):
    await Store(engine, "log").write([row_of(taken_back(), 0)], {0: (0, 1)})
    figures = (await Ledger(engine).queries.figures("default", T0))["r"]
    assert (figures.statuses, figures.causes) == ({"failed": 1}, {"metric": 1})


async def test_a_run_that_fails_while_figures_are_asked_for_counts_as_far_as_it_was_seen(sqlite_engine):
    await Store(sqlite_engine, "log").write([row_of(taken_back(), 0)], {0: (0, 1)})
    database = sqlite3.connect(sqlite_engine.url.database, isolation_level=None)
    since, asked = T0 + timedelta(days=1), []
    late = "UPDATE executions SET requested_us = requested_us + 2 * 86400000000"

    def ask(_connection, _cursor, statement, *_):
        asked.append(statement)
        if len(asked) == 3:
            database.execute(late)

    sa.event.listen(sqlite_engine.sync_engine, "before_cursor_execute", ask)
    figures = (await Ledger(sqlite_engine).queries.figures("default", since))["r"]
    database.close()
    assert (figures.statuses, figures.causes) == ({}, {"metric": 1})


def test_a_record_is_compact_and_long_reasons_are_cut():
    one = answered("a", said("r", reason=shortened("x" * 5000)))
    assert len(one.anomalies[0].answers[0].reason) == MAX_REASON
    assert read_answers(written(one)) == one
    assert b"execution_id" not in written(one)


async def test_a_record_holds_several_anomalies_or_one_in_the_form_of_before(engine):
    ledger = Ledger(engine)
    (a,), (b,) = (answered(name, said("r"), said("q")).anomalies for name in ("a", "b"))
    old = AnomalyAnswered(tenant="default", **dict(answered("c", said("r", "paused")).anomalies[0]))
    without_type = old.model_dump_json(exclude_defaults=True).encode()
    assert b"anomaly_answered" not in without_type
    await ledger.take(
        AnomaliesAnswered(tenant="default", anomalies=(a, b)), without_type, old.model_dump_json().encode()
    )
    found = {name: await ledger.queries.of_anomaly("default", name) for name in ("a", "b", "c")}
    assert {name: [one.runbook_name for one in rows] for name, rows in found.items()} == {
        "a": ["q", "r"],
        "b": ["q", "r"],
        "c": ["r"],
    }
    assert ledger.registry.get_sample_value("runbooks_match_decisions_unreadable_total") == 0


async def test_many_rows_are_made_in_slices(engine):
    ledger = Ledger(engine)
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    records = [answered(f"a{number}", *(said(f"r{runbook}") for runbook in range(SLICE))) for number in range(3)]
    counting = asyncio.create_task(others())
    made = [row async for row in ledger.projection._rows(Record(0, written(one)) for one in records)]
    counting.cancel()
    assert (len(made), turns) == (3 * SLICE, 3)
