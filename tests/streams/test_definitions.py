"""The catalog of one worker, read from the real topic."""

from pathlib import Path

import pytest
from aiokafka.errors import CorruptRecordException
from building import T0
from waiting import until

from app.core.pauses import PauseEnded
from app.streams.definitions import Definitions
from app.streams.log import Log
from app.streams.publisher import Publisher
from app.streams.topics import ensure_topics, read_topics

SPECS = read_topics(Path("topics.yaml"), "any")
END = PauseEnded(tenant="default", name="p", by="ann", at=T0)


@pytest.fixture
async def log(connection):
    await ensure_topics(connection, SPECS)
    publisher = Publisher(connection, "tests")
    await publisher.start()
    yield Log(publisher)
    await publisher.stop()


async def test_what_ends_the_reading_is_told_and_stopping_it_says_nothing_more(log, connection):
    definitions, ended = Definitions(connection), []
    await definitions.start()
    definitions.on_end(ended.append)
    await definitions.verdict(await log.publish_change(END), 30)

    async def unreadable():
        raise CorruptRecordException

    definitions._consumer.getone = unreadable
    await log.publish_change(END)

    async def told():
        return ended

    (reading,) = await until(told)
    assert isinstance(reading.exception(), CorruptRecordException)
    await definitions.stop()
    assert definitions._consumer._closed


async def test_whoever_stops_it_is_told_of_no_failure(log, connection):
    definitions, ended = Definitions(connection), []
    await definitions.start()
    definitions.on_end(ended.append)
    await definitions.stop()
    assert [reading.cancelled() for reading in ended] == [True]
