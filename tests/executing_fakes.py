"""What executors work with, where a test holds it in its hands: the ledger's table, the log and Kafka's records."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

import orjson
from aiokafka.errors import KafkaTimeoutError

from app.core.errors import TemporaryError
from app.streams.membership import Membership
from app.streams.rows import Rows


def a_member() -> Membership:
    """Of a group in which nobody else is."""
    membership = Membership(10, lambda: 0.0)
    membership.heard(0.0)
    return membership


class FakeTable(Mapping):
    """A table whose changes are acknowledged when ``broker`` is set, and refused as often as it is told to.

    As a mapping it gives each row as it was read.
    """

    def __init__(self):
        self.rows, self.unwritten = Rows(Path(":memory:")), {}
        self.put = self.rows.put
        self.broker = asyncio.Event()
        self.broker.set()
        self.refusals = 0

    def drop(self, row):
        self.rows.drop(row.key)

    def __getitem__(self, key):
        found = self.rows.find(key)
        if found is None:
            raise KeyError(key)
        return orjson.loads(found.value)

    def __iter__(self):
        return (key for (key,) in self.rows._run("SELECT key FROM rows"))

    def __len__(self):
        return len(self.rows)

    async def send_changes(self, publisher):
        if self.refusals:
            self.refusals -= 1
            refused = asyncio.get_running_loop().create_future()
            refused.set_exception(KafkaTimeoutError())
            return [refused]
        return [asyncio.ensure_future(self.broker.wait())]


class EventLog:
    """Keeps what was published; refuses as often as it is told to."""

    def __init__(self):
        self.events, self.refusals = [], 0

    async def publish_event(self, event):
        if self.refusals:
            self.refusals -= 1
            raise TemporaryError("the broker is away")
        self.events.append(event)

    @property
    def told(self):
        return [event.type.removeprefix("step_") for event in self.events]


class Record:
    """A record as Faust hands it out."""

    def __init__(self, value, partition=0, offset=1):
        self.value = value
        self.message = SimpleNamespace(
            topic="step-commands.http", partition=partition, offset=offset, key=b"e", headers=()
        )
        self.acked = False

    def ack(self):
        self.acked = True
