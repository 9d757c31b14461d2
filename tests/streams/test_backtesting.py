"""What a backtest reads from the topics, and how often."""

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import orjson
import pytest
from aiokafka.structs import TopicPartition
from building import slack

from app.core.anomaly import Anomaly
from app.core.backtest_report import Question
from app.core.catalog import Definition
from app.core.events import Limits, write_event
from app.core.matching import request_of
from app.core.pauses import Pauses
from app.core.runbook import read_runbook
from app.streams.backtesting import UNBOUNDED, Bounds, _Reading
from app.streams.topics import ANOMALY_EVENTS, EXECUTION_EVENTS, RUNBOOK_DEFINITIONS

BEGUN = datetime(2026, 3, 1, 3, tzinfo=UTC)
TOPICS = (ANOMALY_EVENTS, EXECUTION_EVENTS, RUNBOOK_DEFINITIONS)


class Record:
    """A record as a consumer gives it."""

    def __init__(self, topic, offset, minute, value):
        self.topic, self.partition, self.offset = topic, 0, offset
        self.timestamp, self.key, self.value = stamp(minute), b"default", value


class Topics:
    """A consumer of three topics of one partition each."""

    def __init__(self):
        self.records = {TopicPartition(topic, 0): [] for topic in TOPICS}
        self.next = {}
        self._client = SimpleNamespace(fetch_all_metadata=self._metadata)

    def add(self, topic, minute, value):
        records = self.records[TopicPartition(topic, 0)]
        records.append(Record(topic, len(records), minute, value))

    async def _metadata(self):
        return SimpleNamespace(partitions_for_topic=lambda _: {0})

    async def beginning_offsets(self, places):
        return dict.fromkeys(places, 0)

    async def end_offsets(self, places):
        return {place: len(self.records[place]) for place in places}

    async def offsets_for_times(self, wanted):
        return {
            place: next((one for one in self.records[place] if one.timestamp >= at), None)
            for place, at in wanted.items()
        }

    def assign(self, _):
        pass

    def seek(self, place, offset):
        self.next[place] = offset

    async def position(self, place):
        return self.next[place]

    async def getmany(self, *places, timeout_ms):
        found = {place: self.records[place][self.next[place] :] for place in places}
        self.next |= {place: len(self.records[place]) for place in places}
        await asyncio.sleep(0)
        return found


def stamp(minute):
    return int((BEGUN + timedelta(minutes=minute)).timestamp() * 1000)


def runbook(above):
    trigger = {"service_id": "s", "condition": f"value > {above}"}
    return read_runbook({"name": "r", "trigger": trigger, "steps": [slack()]})


@pytest.fixture
def topics():
    """One anomaly that came three times, and was matched the second time, above 1."""
    made, matched = Topics(), runbook("1.0")
    definition = Definition(tenant="default", runbook=matched, version=1, digest=matched.digest(), by="ann", at=BEGUN)
    for minute, value in ((0, 1.0), (10, 2.0), (20, 1.0)):
        body = {"anomaly_id": "a", "service_id": "s", "metric_name": "m", "value": value}
        made.add(ANOMALY_EVENTS, minute, orjson.dumps(body))
        if value > 1:
            at = BEGUN + timedelta(minutes=minute)
            one = Anomaly.model_validate({**body, "timestamp": at})
            made.add(EXECUTION_EVENTS, minute, write_event(request_of(one, definition, at, Limits(), Pauses())))
    return made


async def outcome(topics, bounds=UNBOUNDED, assume=None):
    progress = []
    question = Question("default", runbook("0.5"), BEGUN, assume=assume, everything=True)
    found = await _Reading(topics, question, Limits(), bounds, progress.append).run({})
    shown = found.shown()
    told = [(one["would"]["result"], one["did"]["result"]) for one in shown["differences"] + shown["others"]]
    return shown, told, [(one.read, one.total) for one in progress][-1]


async def test_an_anomaly_that_came_before_its_request_and_was_not_matched_then_is_judged_when_it_came(topics):
    shown, told, progress = await outcome(topics)
    assert told == [("runs", "nothing"), ("repeated", "runs"), ("repeated", "nothing")]
    assert (shown["complete"], shown["anomalies_read"], shown["events_read"]) == (True, 3, 1)
    assert progress == (9, 9)  # the log once for its requests, then all of it twice


async def test_what_is_read_a_second_time_counts_where_the_reading_is_bounded(topics):
    shown, _, _ = await outcome(topics, Bounds(records=5))
    assert not shown["complete"]


async def test_runs_of_no_time_are_not_those_of_the_usual_time(topics):
    shown, _, _ = await outcome(topics, assume=timedelta(0))
    assert shown["assumed_seconds"] == 0
