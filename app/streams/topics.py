"""The topics: declared in ``topics.yaml``, compared with the broker, created where missing."""

import asyncio
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError, TopicAlreadyExistsError
from aiokafka.partitioner import DefaultPartitioner

from app.core.errors import ConfigurationError
from app.streams.connection import KafkaConnection

ANOMALY_EVENTS = "anomaly-events"
EXECUTION_EVENTS = "execution-events"
APPROVAL_DECISIONS = "approval-decisions"
RUNBOOK_DEFINITIONS = "runbook-definitions"
MATCH_DECISIONS = "match-decisions"
DEAD_LETTERS = "dead-letters"
METRIC_SAMPLES = "metric-samples"
DAY_MS = 24 * 3600 * 1000
RECORD_LIMIT = "max.message.bytes"
LISTED_TIMEOUT_S = 30.0
LISTED_POLL_S = 0.05
_RULE = DefaultPartitioner()


def partition_of(tenant: str, partitions: Sequence[int]) -> int:
    """The one of a topic's partitions in which its producers put what has this tenant for its key."""
    return int(_RULE(tenant.encode(), list(partitions), []))


@dataclass(frozen=True, slots=True)
class TopicSpec:
    """One topic as it must be: config holds Kafka's own names and text values."""

    name: str
    partitions: int
    replication: int
    config: Mapping[str, str]

    def new_topic(self) -> NewTopic:
        """The request that creates it."""
        return NewTopic(self.name, self.partitions, self.replication, topic_configs=dict(self.config))


def read_topics(path: Path, group_id: str, tables: frozenset[str] | None = None) -> tuple[TopicSpec, ...]:
    """The declared topics, and the changelogs of the tables: of all of them, or of these.

    Raises ConfigurationError when the file is missing or says something unreadable.
    """
    try:
        declared = yaml.safe_load(path.read_text())
        return tuple(_specs(declared, group_id, tables))
    except FileNotFoundError:
        raise ConfigurationError(
            f"{path} is missing: set RUNBOOKS_KAFKA__TOPICS_FILE to the topic declarations"
        ) from None
    except (OSError, yaml.YAMLError, KeyError, TypeError, ValueError) as error:
        raise ConfigurationError(f"{path} is not a list of topic declarations: {error!r}") from error


def changelog_name(group_id: str, table: str) -> str:
    """The topic that a Faust table recovers from."""
    return f"{group_id}-{table}-changelog"


def _specs(declared: dict[str, Any], group_id: str, tables: frozenset[str] | None) -> Iterator[TopicSpec]:
    shared, replication = int(declared["shared_partitions"]), int(declared["replication"])
    size = {RECORD_LIMIT: str(int(declared["max_record_bytes"]))}
    for name, topic in declared["topics"].items():
        partitions = shared if topic["partitions"] == "shared" else int(topic["partitions"])
        days = topic["retention_days"]
        retention_ms = "-1" if days == "forever" else str(int(days) * DAY_MS)
        config = {"cleanup.policy": topic["cleanup"], "retention.ms": retention_ms, **size}
        yield TopicSpec(name, partitions, replication, config)
    for table in declared["tables"] if tables is None else sorted(tables):
        yield TopicSpec(changelog_name(group_id, table), shared, replication, {"cleanup.policy": "compact", **size})


async def missing_and_wrong(
    admin: AIOKafkaAdminClient, specs: tuple[TopicSpec, ...]
) -> tuple[list[TopicSpec], list[str]]:
    """The topics the broker has not, and one sentence for each that is not as declared."""
    existing = set(await admin.list_topics())
    missing = [spec for spec in specs if spec.name not in existing]
    there = [spec for spec in specs if spec.name in existing]
    described = (
        {topic["topic"]: topic for topic in await admin.describe_topics([spec.name for spec in there])} if there else {}
    )
    wrong = [
        f"topic {spec.name} has {found} partitions on the broker and {spec.partitions} in topics.yaml"
        for spec in there
        if (found := len(described[spec.name]["partitions"])) != spec.partitions
    ]
    return missing, wrong


async def ensure_topics(connection: KafkaConnection, specs: tuple[TopicSpec, ...], *, create: bool = True) -> list[str]:
    """Compare the broker with the declarations and create what is missing; the names of what was, or is, missing.

    Raises ConfigurationError with one clear sentence when a topic differs, or no broker answers.
    """
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    try:
        await admin.start()
    except KafkaError as error:
        await admin.close()
        raise connection.not_made(error) from error
    try:
        missing, wrong = await missing_and_wrong(admin, specs)
        if create and missing and not wrong:
            await _create(admin, missing)
            wrong = await _when_all_are_there(admin, specs)
        if wrong:
            raise ConfigurationError("; ".join(wrong) + ": make the declaration and the broker agree, then start again")
        return [spec.name for spec in missing]
    finally:
        await admin.close()


async def record_limits(connection: KafkaConnection, specs: tuple[TopicSpec, ...]) -> dict[str, int]:
    """By topic, how many bytes the broker takes in one record; a topic that it says nothing of is left out."""
    admin = AIOKafkaAdminClient(**connection.client_arguments())
    await admin.start()
    try:
        wanted = [ConfigResource(ConfigResourceType.TOPIC, spec.name, {RECORD_LIMIT: None}) for spec in specs]
        answers = await admin.describe_configs(wanted)
    finally:
        await admin.close()
    told = [resource for answer in answers for resource in answer.resources]
    found = {str(name): entries for error, _, _, name, entries in told if error == 0}
    return {name: int(entry[1]) for name, entries in found.items() for entry in entries if entry[0] == RECORD_LIMIT}


async def _when_all_are_there(admin: AIOKafkaAdminClient, specs: tuple[TopicSpec, ...]) -> list[str]:
    """Wait until the broker lists every topic: it does so a moment after it said that they are created."""
    deadline = time.monotonic() + LISTED_TIMEOUT_S
    while True:
        missing, wrong = await missing_and_wrong(admin, specs)
        if not missing:
            return wrong
        if time.monotonic() > deadline:
            named = ", ".join(spec.name for spec in missing)
            raise ConfigurationError(f"the broker created these topics and does not list them: {named}; start again")
        await asyncio.sleep(LISTED_POLL_S)


async def _create(admin: AIOKafkaAdminClient, missing: list[TopicSpec]) -> None:
    response = await admin.create_topics([spec.new_topic() for spec in missing])
    for name, code, *message in response.topic_errors:
        if code not in {0, TopicAlreadyExistsError.errno}:
            raise ConfigurationError(f"the broker refused to create topic {name}: {message}")
