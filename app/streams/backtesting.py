"""Backtests over Kafka: reads what was recorded, with a consumer of its own, and writes nothing."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from aiokafka.errors import KafkaError
from aiokafka.structs import TopicPartition

from app.clients.kafka import Consumer, time_of
from app.core.anomaly import Position, anomaly_of, object_in
from app.core.backtest import Assumed, Backtest
from app.core.backtest_report import Question, Report
from app.core.catalog import Catalog, Change, Definition, read_change
from app.core.errors import AnomalyRefused, Problem, RecordRefused, Refused, TemporaryError
from app.core.events import Limits, read_event
from app.core.guards import kept_for
from app.core.occurrences import Occurrences
from app.core.pauses import PauseEnded, PausePut
from app.core.survey import Survey, answered_by
from app.streams.connection import KafkaConnection
from app.streams.group_offsets import group_offsets
from app.streams.ordered import Record, Span, in_order, turn_of
from app.streams.topics import ANOMALY_EVENTS, EXECUTION_EVENTS, RUNBOOK_DEFINITIONS, partition_of

DAY = timedelta(days=1)
PauseChange = PausePut | PauseEnded


class Bounds(NamedTuple):
    """When to stop before the end: after so many seconds or records; None never."""

    seconds: float | None = None
    records: int | None = None


UNBOUNDED = Bounds()
ASKED = Bounds(seconds=20.0, records=1_000_000)
AT_ONCE = 1
READINGS = 2
"""Once as if every anomaly that has a request later were its reason; once more where there are some that are not."""
OFFSET_BITS = 48


class Progress(NamedTuple):
    """How far it is: records read of how many there are, and the time in the log that it has come to."""

    read: int
    total: int
    seen: datetime | None


class Outcome(NamedTuple):
    """The report, and how it came about.

    complete: whether all was read; read_until: the time in the log that was come to. in_force: the version that is in
    force now, None when there is none; same_as_in_force: whether the candidate is the same. lasts_s: how long a run was
    assumed to last, assumed_runs: how often. refused: anomalies that cannot be read.
    """

    report: Report
    complete: bool
    read_until: datetime | None
    in_force: int | None
    same_as_in_force: bool
    lasts_s: float
    assumed_runs: int
    refused: int
    anomalies: int
    events: int

    def shown(self) -> dict[str, Any]:
        """As JSON-able data, the differences first."""
        return {
            **self.report.shown(),
            "complete": self.complete,
            "read_until": None if self.read_until is None else self.read_until.isoformat(),
            "version_in_force": self.in_force,
            "same_as_in_force": self.same_as_in_force,
            "assumed_seconds": self.lasts_s,
            "assumed_runs": self.assumed_runs,
            "anomalies_read": self.anomalies,
            "anomalies_refused": self.refused,
            "events_read": self.events,
        }


class Backtester:
    """Answers questions, one consumer each."""

    def __init__(self, connection: KafkaConnection, limits: Limits, group_id: str) -> None:
        """Nothing connects yet; limits: those in force; group_id: of the workers."""
        self._room = asyncio.Semaphore(AT_ONCE)
        self._connection = connection
        self._limits = limits
        self._group_id = group_id

    async def run(
        self, question: Question, bounds: Bounds = UNBOUNDED, progress: Callable[[Progress], None] = lambda _: None
    ) -> Outcome:
        """Run the backtest.

        Raises Refused when the definition has no trigger, TemporaryError when Kafka does not answer.
        """
        if question.runbook.trigger is None:
            raise Refused([Problem("trigger", "without one no anomaly starts the runbook")])
        arguments = self._connection.client_arguments()
        try:
            async with Consumer(**arguments) as consumer:
                reading = _Reading(consumer, question, self._limits, bounds, progress)
                # what comes after where the workers are has no answer in the log yet
                return await reading.run(await group_offsets(self._connection, self._group_id, ANOMALY_EVENTS))
        except KafkaError as error:
            raise TemporaryError(f"the log cannot be read: {error!r}") from error

    async def bounded(self, question: Question) -> dict[str, Any]:
        """As ``run``, for a caller that waits: at most 20 s and a million records, and one at a time.

        Raises as well TemporaryError while another one runs.
        """
        if self._room.locked():
            raise TemporaryError("another backtest is being run here: try again soon")
        async with self._room:
            return (await self.run(question, ASKED)).shown()


class _Reading:
    """One backtest while it runs."""

    def __init__(
        self,
        consumer: Consumer,
        question: Question,
        limits: Limits,
        bounds: Bounds,
        progress: Callable[[Progress], None],
    ) -> None:
        self._consumer = consumer
        self._question = question
        self._limits = limits
        self._bounds = bounds
        self._progress = progress
        self._deadline = None if bounds.seconds is None else time.monotonic() + bounds.seconds
        self._read = self._total = self._anomalies = self._events = self._refused = 0
        self._seen: datetime | None = None
        self._occurrences = Occurrences()
        self._come_to = question.since

    async def run(self, read_by_workers: dict[int, int]) -> Outcome:
        catalog, changes = await self._definitions()
        question = self._question
        log, anomalies = await self._spans(read_by_workers)
        survey = Survey(question.tenant, question.runbook.name)
        self._total = 2 * sum(span.length for span in log.values()) + sum(span.length for span in anomalies.values())
        complete = await self._survey(survey, log)
        lasts = survey.usual_duration() if question.assume is None else question.assume
        current = catalog.get(question.tenant, question.runbook.name)
        definition = _candidate(question, current)
        report, backtest = self._begun(definition, lasts)
        for _ in range(READINGS if complete else 0):
            report, backtest = self._begun(definition, lasts)
            complete = await self._replay(backtest, survey, report, changes, log | anomalies)
            alone = self._occurrences.found_alone()
            if not (complete and alone):
                break
            self._occurrences = Occurrences(alone)
            self._total = self._read + sum(span.length for span in (log | anomalies).values())
        backtest.finish()
        return Outcome(
            report=report,
            complete=complete,
            read_until=self._seen,
            in_force=current.version if current else None,
            same_as_in_force=current is not None and current.digest == definition.digest,
            lasts_s=lasts.total_seconds(),
            assumed_runs=backtest.assumed_runs,
            refused=self._refused,
            anomalies=self._anomalies,
            events=self._events,
        )

    def _begun(self, definition: Definition, lasts: timedelta) -> tuple[Report, Backtest]:
        """Begin, or begin anew."""
        question = self._question
        self._anomalies = self._events = self._refused = 0
        report = Report(question.since, question.until, everything=question.everything)
        return report, Backtest(definition, Assumed(lasts, self._limits), report.add)

    async def _definitions(self) -> tuple[Catalog, list[tuple[int, PauseChange]]]:
        """The definitions in force, and when pauses came and went, in milliseconds."""
        place = TopicPartition(RUNBOOK_DEFINITIONS, 0)
        first, end = await self._edges([place])
        catalog, pauses = Catalog(), []
        async for records in in_order(self._consumer, {place: Span(first[place], end[place])}):
            for record in records:
                change = _change(record.value)
                if change is not None:
                    catalog.apply(change)
                if isinstance(change, PausePut | PauseEnded):
                    pauses.append((turn_of(record), change))
        return catalog, pauses

    async def _edges(self, places: list[TopicPartition]) -> tuple[dict[TopicPartition, int], dict[TopicPartition, int]]:
        return await self._consumer.beginning_offsets(places), await self._consumer.end_offsets(places)

    async def _spans(
        self, read_by_workers: dict[int, int]
    ) -> tuple[dict[TopicPartition, Span], dict[TopicPartition, Span]]:
        question = self._question
        metadata = await self._consumer._client.fetch_all_metadata()  # noqa: SLF001 - the public way wants to consume
        numbers = {topic: sorted(metadata.partitions_for_topic(topic)) for topic in (ANOMALY_EVENTS, EXECUTION_EVENTS)}
        tenants = partition_of(question.tenant, numbers[EXECUTION_EVENTS])
        kept = kept_for(question.runbook) + timedelta(seconds=self._limits.dedup_window_s) + DAY
        log = await self._between([TopicPartition(EXECUTION_EVENTS, tenants)], question.since - kept, None)
        places = [TopicPartition(ANOMALY_EVENTS, number) for number in numbers[ANOMALY_EVENTS]]
        found = await self._between(places, question.since, question.until)
        read = {place: min(span.end, read_by_workers.get(place.partition, span.end)) for place, span in found.items()}
        return log, {place: span._replace(end=read[place]) for place, span in found.items()}

    async def _between(
        self, places: list[TopicPartition], since: datetime, until: datetime | None
    ) -> dict[TopicPartition, Span]:
        _, ends = await self._edges(places)
        first = await self._offsets_at(places, since, ends)
        end = ends if until is None else await self._offsets_at(places, until, ends)
        return {place: Span(first[place], end[place]) for place in places}

    async def _offsets_at(
        self, places: list[TopicPartition], at: datetime, ends: dict[TopicPartition, int]
    ) -> dict[TopicPartition, int]:
        moment = max(0, int(at.timestamp() * 1000))
        found = await self._consumer.offsets_for_times(dict.fromkeys(places, moment))
        return {place: ends[place] if found[place] is None else found[place].offset for place in places}

    async def _survey(self, survey: Survey, log: dict[TopicPartition, Span]) -> bool:
        async for records in self._slices(log):
            for record in records:
                survey.take(record.value, record.offset, record.timestamp)
        survey.done()
        return not self._over()

    async def _replay(
        self,
        backtest: Backtest,
        survey: Survey,
        report: Report,
        changes: Iterable[tuple[int, PauseChange]],
        spans: dict[TopicPartition, Span],
    ) -> bool:
        pauses = iter([*changes, (None, None)])
        at, change = next(pauses)
        async for records in self._slices(spans):
            for record in records:
                while at is not None and at <= turn_of(record) and change is not None:
                    backtest.pause_changed(change)
                    at, change = next(pauses)
                if record.topic == ANOMALY_EVENTS:
                    self._take_anomaly(record, backtest, survey, report)
                else:
                    self._take_event(record, backtest)
        return not self._over()

    async def _slices(self, spans: dict[TopicPartition, Span]) -> AsyncIterator[list[Record]]:
        """All records in order, until it has to stop."""
        async with contextlib.aclosing(in_order(self._consumer, spans)) as slices:
            async for records in slices:
                yield records
                self._read += len(records)
                self._seen = time_of(records[-1]) or self._seen
                self._progress(Progress(self._read, self._total, self._seen))
                if self._over():
                    return
                await asyncio.sleep(0)

    def _over(self) -> bool:
        late = self._deadline is not None and time.monotonic() > self._deadline
        return late or (self._bounds.records is not None and self._read > self._bounds.records)

    def _take_event(self, record: Record, backtest: Backtest) -> None:
        self._events += 1
        if record.key != self._question.tenant.encode():
            return
        try:
            event = read_event(record.value)
        except RecordRefused:
            return
        if event.tenant == self._question.tenant:
            anomaly = answered_by(event, self._question.runbook.name)
            if anomaly is not None:
                self._occurrences.requested(anomaly)
            backtest.happened(event, record.offset, self._moment_of(record))

    def _take_anomaly(self, record: Record, backtest: Backtest, survey: Survey, report: Report) -> None:
        """One anomaly; what is about another service or metric is only counted, without being read to the end."""
        self._anomalies += 1
        body = object_in(record.value)
        if body is None:
            self._refused += 1
            return
        if (body.get("tenant_id") or "default") != self._question.tenant:
            return
        trigger = self._question.runbook.trigger
        assert trigger is not None
        at = time_of(record)
        anomaly_id = body.get("anomaly_id") or _position_of(record, at).anomaly_id()
        if isinstance(anomaly_id, str) and survey.has_request_for(anomaly_id, record.timestamp):
            place = record.partition << OFFSET_BITS | record.offset
            if not self._occurrences.is_alone(anomaly_id, body, place):
                return  # it is judged at its request
        for clause, wanted in (("service_id", trigger.service_id), ("metric_name", trigger.metric_name)):
            if wanted not in {"*", body.get(clause)}:
                report.add_misses(clause)
                return
        try:
            anomaly = anomaly_of(body, anomaly_id=str(anomaly_id), received_at=at)
        except AnomalyRefused:
            self._refused += 1
            return
        backtest.unanswered(anomaly, self._moment_of(record))

    def _moment_of(self, record: Record) -> datetime:
        """The time of a record; of one whose time is no moment, how far the log had come before it."""
        self._come_to = time_of(record) or self._come_to
        return self._come_to


def _position_of(record: Record, at: datetime | None) -> Position:
    return Position(topic=record.topic, partition=record.partition, offset=record.offset, timestamp=at)


def _candidate(question: Question, current: Definition | None) -> Definition:
    """The definition with the version that it has, or would get."""
    given = question.runbook.model_copy(update={"tenant": None})
    digest, runbook = (
        given.digest(),
        given.model_copy(update={"mode": "active"}),
    )  # a shadow is judged as if it were not
    version = 1 if current is None else current.version + (current.digest != digest)
    return Definition(
        tenant=question.tenant,
        runbook=runbook,
        version=version,
        digest=digest,
        by="backtest",
        at=datetime.now(UTC),
    )


def _change(value: bytes | None) -> Change | None:
    try:
        return read_change(value)
    except RecordRefused:
        return None
