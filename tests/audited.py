"""A real topic with its history and its live table's changelog, for tests of the audit."""

import uuid

import orjson
from aiokafka import AIOKafkaProducer
from aiokafka.admin import AIOKafkaAdminClient, NewTopic, RecordsToDelete
from aiokafka.structs import OffsetAndMetadata, TopicPartition
from prometheus_client import CollectorRegistry

from app.audit.verifying import Sources, Verification
from app.clients.kafka import Consumer
from app.core.execution import Execution
from app.history.projection import Projection, Record
from app.history.store import Store
from app.streams.connection import KafkaConnection


class Audited:
    """A topic of one partition, its history, and its live table's changelog."""

    def __init__(self, servers, engine, log):
        self.log = log
        self.topic = f"execution-events-{uuid.uuid4().hex[:8]}"
        self.table = f"{self.topic}-executions-changelog"
        self.connection = KafkaConnection(bootstrap_servers=servers)
        self.engine = engine
        self.sources = Sources(self.connection, self.topic, engine, self.table, f"{self.topic}-group")

    async def create(self):
        admin = AIOKafkaAdminClient(bootstrap_servers=self.connection.bootstrap_servers)
        await admin.start()
        await admin.create_topics([NewTopic(self.topic, 1, 1), NewTopic(self.table, 1, 1)])
        await admin.close()

    async def write(self):
        """Publish, project, and write the table, as the workers do."""
        await self.publish(self.topic, self.log.records)
        await self.project()
        await self.publish(self.table, [self.row(state) for state in self.log.states.values()])
        await self.acknowledge()

    async def project(self, **given):
        """What the projector makes of the log as it was written, whatever the topic holds now."""
        projection = Projection(Store(self.engine, self.topic), CollectorRegistry(), **given)
        place = await projection.load(0)
        await projection.project([(place, [Record(n, value, key) for n, (key, value) in enumerate(self.log.records)])])

    def row(self, state: Execution):
        kind, kept = ("marker", state.marker()) if state.terminal else ("execution", state)
        row = {"partition": 0, kind: kept.model_dump(mode="json")}
        return orjson.dumps(state.execution_id), orjson.dumps(row)

    async def publish(self, topic, records):
        async with AIOKafkaProducer(bootstrap_servers=self.connection.bootstrap_servers) as producer:
            for key, value in records:
                await producer.send(topic, value, key=key, partition=0)

    async def forget_before(self, offset):
        """As retention does."""
        admin = AIOKafkaAdminClient(bootstrap_servers=self.connection.bootstrap_servers)
        await admin.start()
        await admin.delete_records({TopicPartition(self.topic, 0): RecordsToDelete(before_offset=offset)})
        await admin.close()

    async def acknowledge(self):
        place = TopicPartition(self.topic, 0)
        async with Consumer(
            bootstrap_servers=self.connection.bootstrap_servers, group_id=self.sources.group, enable_auto_commit=False
        ) as consumer:
            consumer.assign([place])
            await consumer.commit({place: OffsetAndMetadata(len(self.log.records), "")})

    async def verify(self, checkpoint=None, progress=lambda _: None):
        result = await Verification(self.sources, progress, checkpoint).run()
        return result, [(one.offset, one.rule, one.detail) for one in result.differences]

    async def change(self, statement):
        async with self.engine.begin() as connection:
            await connection.execute(statement)
