from pathlib import Path

import pytest
from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType

from app.core.errors import ConfigurationError
from app.streams.connection import KafkaConnection
from app.streams.publisher import MAX_RECORD_BYTES
from app.streams.topics import ensure_topics, read_topics

SPECS = read_topics(Path("topics.yaml"), "g")


def test_the_topics_that_share_tables_have_one_partition_count():
    shared = {spec.partitions for spec in SPECS if spec.name.startswith("step-") or spec.name.endswith("changelog")}
    assert shared == {8}
    assert {spec.name for spec in SPECS if spec.partitions == 1} == {"runbook-definitions", "dead-letters"}
    assert {"g-executions-changelog", "g-step_ledger-changelog"} <= {spec.name for spec in SPECS}


async def test_missing_topics_are_created_as_declared(connection):
    missing = await ensure_topics(connection, SPECS, create=False)
    assert sorted(missing) == sorted(spec.name for spec in SPECS)
    assert await ensure_topics(connection, SPECS) == missing
    assert await ensure_topics(connection, SPECS) == []
    admin = AIOKafkaAdminClient(bootstrap_servers=connection.bootstrap_servers)
    await admin.start()
    described = await admin.describe_configs([ConfigResource(ConfigResourceType.TOPIC, "execution-events")])
    await admin.close()
    config = {entry[0]: entry[1] for response in described for entry in response.resources[0][4]}
    assert (config["retention.ms"], config["cleanup.policy"]) == ("-1", "delete")
    assert config["max.message.bytes"] == str(MAX_RECORD_BYTES)


async def test_a_topic_that_differs_is_one_clear_sentence(connection, tmp_path):
    await ensure_topics(connection, SPECS)
    changed = tmp_path / "topics.yaml"
    changed.write_text(Path("topics.yaml").read_text().replace("shared_partitions: 8", "shared_partitions: 4"))
    with pytest.raises(ConfigurationError, match=r"execution-events has 8 partitions on the broker and 4"):
        await ensure_topics(connection, read_topics(changed, "g"))


async def test_no_broker_is_one_clear_sentence():
    with pytest.raises(ConfigurationError, match=r"no Kafka broker answers at 127\.0\.0\.1:1: check RUNBOOKS_KAFKA"):
        await ensure_topics(KafkaConnection("127.0.0.1:1"), SPECS)


@pytest.mark.parametrize(
    "text", ["", "[]", "topics: 7", "shared_partitions: x\nreplication: 1\ntopics: {}\ntables: []", "{"]
)
def test_declarations_that_cannot_be_read(text, tmp_path):
    path = tmp_path / "topics.yaml"
    with pytest.raises(ConfigurationError, match="is missing"):
        read_topics(path, "g")
    path.write_text(text)
    with pytest.raises(ConfigurationError, match="is not a list of topic declarations"):
        read_topics(path, "g")
