"""What operators do to the topics from the command line, and the schemas of what stands on them."""

import json
from datetime import UTC, datetime
from getpass import getuser
from typing import Any

from aiokafka.errors import KafkaError
from pydantic import BaseModel, TypeAdapter, ValidationError

from app.core.anomaly import Anomaly
from app.core.answers import MATCH_DECISIONS
from app.core.catalog import CHANGES, Change
from app.core.commands import COMMANDS
from app.core.decisions import ApprovalDecision
from app.core.errors import RunbooksError
from app.core.events import EVENTS
from app.core.metric_sample import MetricSample
from app.core.pauses import EVERYBODY, Pause, PauseEnded, PausePut
from app.core.runbook import Runbook
from app.settings import KafkaSettings
from app.streams.connection import KafkaConnection
from app.streams.dead_letters import DeadLetters, Letter, note_headers, told_time
from app.streams.log import Log, Recorded
from app.streams.publisher import Publisher
from app.streams.topics import DEAD_LETTERS, read_topics
from app.wiring import connection_of

CLIENT_ID = "runbooks-cli"


async def publish_anomalies(connection: KafkaConnection, text: str) -> list[Recorded]:
    r"""Publish one JSON object, or one a line; lines end with ``\n`` or ``\r\n``.

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
    except (ValueError, RecursionError):  # nested deeper than is read here: published as it is, the worker judges it
        # not splitlines: in a JSON string U+2028 and U+0085 are characters as others are
        lines = [line.removesuffix("\r").encode() for line in text.split("\n") if line.strip()]
    if not lines:
        raise RunbooksError("there is no anomaly event in the input")
    return lines


async def requeue(kafka: KafkaSettings, offset: int, *, again: bool = False) -> Recorded:
    """Put the record at an offset of dead-letters back on the topic it came from, and note that it was.

    again: also one that was put back before. Raises RunbooksError, which says what to do, when it cannot be.
    """
    connection = connection_of(kafka)
    async with DeadLetters.opened(connection) as letters:
        letter = await letters.letter(offset)
    known = {topic.name for topic in read_topics(kafka.topics_file, kafka.group_id)} - {DEAD_LETTERS}
    refusal = why_not_requeued(letter, known, again=again)
    if refusal is not None:
        raise RunbooksError(f"the record at offset {offset} is not requeued: {refusal}")
    publisher = Publisher(connection, CLIENT_ID)
    await publisher.start()
    try:
        place = Recorded.at(await publisher.publish(letter.headers["source-topic"], letter.value, key=letter.key))
        await _note(publisher, letter, place)
        return place
    finally:
        await publisher.stop()


def why_not_requeued(letter: Letter, topics: set[str], *, again: bool) -> str | None:
    """Why a letter cannot be put back, and what to do instead; None when it can."""
    headers, note = letter.headers, letter.requeued
    topic = headers.get("source-topic")
    if topic not in topics:
        named = "it does not say which topic it came from" if topic is None else f"{topic!r} is no topic of topics.yaml"
        return f"{named}; look at it with `runbooks dead-letters show` and publish it where it belongs"
    if "cut" in headers:
        whole = f"{topic}/{headers.get('source-partition')}/{headers.get('source-offset')}"
        return f"only {letter.size} of its {headers['cut']} bytes were kept; the whole record stood at {whole}"
    if note is not None and not again:
        return (
            f"{note.by} did that at {told_time(note.at)}, to {note.to}. Where it could not be read again, it has a"
            " letter of its own: `runbooks dead-letters list`. To put it back once more: --again"
        )
    return None


async def _note(publisher: Publisher, letter: Letter, place: Recorded) -> None:
    to = f"{place.topic}/{place.partition}/{place.offset}"
    headers = note_headers(letter.offset, getuser(), to)
    try:
        await (await publisher.send(DEAD_LETTERS, b"", key=letter.key, headers=headers))
    except (RunbooksError, KafkaError) as error:
        raise RunbooksError(f"it stands at {to}, and no note of that could be made: {error!r}") from error


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
        "match-decision.json": MATCH_DECISIONS,
        "runbook-change.json": CHANGES,
        "runbook.json": Runbook,
        "step-command.json": COMMANDS,
    }
    return {name: json.dumps(_schema(model), indent=2, sort_keys=True) + "\n" for name, model in models.items()}


def _schema(model: type[BaseModel] | TypeAdapter[Any]) -> dict[str, Any]:
    made = model.json_schema() if isinstance(model, TypeAdapter) else model.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **made}
