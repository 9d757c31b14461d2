"""What operators do to the topics from the command line, and the schemas of what stands on them."""

import json
from datetime import UTC, datetime
from getpass import getuser
from typing import Any, NamedTuple

from aiokafka.structs import TopicPartition
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.clients.kafka import Consumer
from app.core.anomaly import Anomaly
from app.core.answers import AnomalyAnswered
from app.core.catalog import CHANGES, Change
from app.core.commands import COMMANDS
from app.core.decisions import ApprovalDecision
from app.core.errors import RunbooksError
from app.core.events import EVENTS
from app.core.metric_sample import MetricSample
from app.core.pauses import EVERYBODY, Pause, PauseEnded, PausePut
from app.core.runbook import Runbook
from app.streams.connection import KafkaConnection
from app.streams.log import Log, Recorded
from app.streams.publisher import Publisher
from app.streams.topics import DEAD_LETTERS

CLIENT_ID = "runbooks-cli"


class DeadLetter(NamedTuple):
    """One record that could not be read."""

    offset: int
    headers: dict[str, str]
    key: bytes | None
    value: bytes

    def shown(self) -> dict[str, Any]:
        """As it is listed: bytes as text, what is no text replaced."""
        return {"offset": self.offset, **self.headers, "value": self.value.decode(errors="replace")}


async def publish_anomalies(connection: KafkaConnection, text: str) -> list[Recorded]:
    """Publish one JSON object, or one a line.

    Raises RunbooksError when the text holds none.
    """
    bodies = _bodies(text)
    publisher = Publisher(connection, CLIENT_ID)
    await publisher.start()
    try:
        log = Log(publisher)
        return [await log.publish_anomaly(body, None) for body in bodies]
    finally:
        await publisher.stop()


def _bodies(text: str) -> list[bytes]:
    try:
        return [json.dumps(json.loads(text)).encode()]
    except ValueError:
        lines = [line.encode() for line in text.splitlines() if line.strip()]
    if not lines:
        raise RunbooksError("there is no anomaly event in the input")
    return lines


async def dead_letters(connection: KafkaConnection) -> list[DeadLetter]:
    """All that the topic holds now."""
    consumer = Consumer(**connection.client_arguments(), enable_auto_commit=False)
    await consumer.start()
    try:
        place = TopicPartition(DEAD_LETTERS, 0)
        consumer.assign([place])
        await consumer.seek_to_beginning(place)
        end = (await consumer.end_offsets([place]))[place]
        found: list[DeadLetter] = []
        while await consumer.position(place) < end:
            record = await consumer.getone()
            headers = {name: value.decode() for name, value in record.headers}
            found.append(DeadLetter(record.offset, headers, record.key, record.value))
        return found
    finally:
        await consumer.stop()


async def requeue(connection: KafkaConnection, offset: int) -> Recorded:
    """Put the record at an offset of dead-letters back on the topic it came from.

    Raises RunbooksError when there is none.
    """
    letter = next((one for one in await dead_letters(connection) if one.offset == offset), None)
    if letter is None:
        raise RunbooksError(f"dead-letters holds no record at offset {offset}")
    publisher = Publisher(connection, CLIENT_ID)
    await publisher.start()
    try:
        return Recorded.at(await publisher.publish(letter.headers["source-topic"], letter.value, key=letter.key))
    finally:
        await publisher.stop()


async def pause_everybody(connection: KafkaConnection, name: str, reason: str, window: dict[str, str]) -> Recorded:
    """Keep the runbooks of all tenants from starting; window holds ``starts_at`` and ``ends_at`` or less.

    Whoever may write the topic may do this: the API has no role that speaks for all tenants.
    Raises RunbooksError when a field is wrong.
    """
    now = datetime.now(UTC)
    try:
        pause = Pause.model_validate(
            {"starts_at": now, **window, "tenant": EVERYBODY, "name": name, "by": getuser(), "reason": reason}
        )
    except ValidationError as error:
        found = error.errors(include_url=False)[0]
        raise RunbooksError(f"{'.'.join(map(str, found['loc'])) or 'the pause'}: {found['msg']}") from error
    return await _publish_change(connection, PausePut(pause=pause, at=now))


async def resume_everybody(connection: KafkaConnection, name: str) -> Recorded:
    """End a pause of all tenants."""
    change = PauseEnded(tenant=EVERYBODY, name=name, by=getuser(), at=datetime.now(UTC))
    return await _publish_change(connection, change)


async def _publish_change(connection: KafkaConnection, change: Change) -> Recorded:
    publisher = Publisher(connection, CLIENT_ID)
    await publisher.start()
    try:
        return await Log(publisher).publish_change(change)
    finally:
        await publisher.stop()


def schemas() -> dict[str, str]:
    """The JSON Schema of every topic's messages and of the runbook, by file name."""
    models: dict[str, type[BaseModel] | TypeAdapter[Any]] = {
        "anomaly-event.json": Anomaly,
        "approval-decision.json": ApprovalDecision,
        "execution-event.json": EVENTS,
        "metric-sample.json": MetricSample,
        "match-decision.json": AnomalyAnswered,
        "runbook-change.json": CHANGES,
        "runbook.json": Runbook,
        "step-command.json": COMMANDS,
    }
    return {name: json.dumps(_schema(model), indent=2, sort_keys=True) + "\n" for name, model in models.items()}


def _schema(model: type[BaseModel] | TypeAdapter[Any]) -> dict[str, Any]:
    made = model.json_schema() if isinstance(model, TypeAdapter) else model.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
