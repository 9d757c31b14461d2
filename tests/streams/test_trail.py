"""Reading an execution's records back from a real Kafka."""

from building import requested, slack

from app.core.events import TimerFired
from app.streams.log import Log
from app.streams.publisher import Publisher
from app.streams.topics import EXECUTION_EVENTS, ensure_topics, read_topics
from app.streams.trail import Trail


async def test_the_records_of_one_execution_of_one_tenant(connection, settings):
    await ensure_topics(connection, read_topics(settings.kafka.topics_file, "g"))
    publisher = Publisher(connection, "test")
    await publisher.start()
    log, trail = Log(publisher), Trail(connection, 8)
    asked = requested(slack())
    fired = TimerFired(tenant=asked.tenant, execution_id=asked.execution_id, at=asked.at)
    other = asked.model_copy(update={"tenant": "other"})
    first = await log.publish_event(asked)
    await log.publish_event(asked.model_copy(update={"execution_id": "another"}))
    await publisher.publish(EXECUTION_EVENTS, b"junk " + asked.execution_id.encode(), key=asked.tenant.encode())
    await log.publish_event(other)
    last = await log.publish_event(fired)
    await log.publish_event(fired)
    entries, complete = await trail.read(asked.tenant, asked.execution_id, first.offset, last.offset)
    assert complete
    assert [(entry.offset, entry.event["type"]) for entry in entries] == [
        (first.offset, "execution_requested"),
        (last.offset, "timer_fired"),
    ]
    assert all(entry.event["tenant"] == asked.tenant for entry in entries)
    await publisher.stop()
