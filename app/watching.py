"""What a worker tells operators about itself: how far behind it is, and what should be looked at."""

import contextlib
from collections.abc import Callable, Iterable
from typing import NamedTuple

import faust
from aiokafka.structs import TopicPartition
from prometheus_client import CollectorRegistry

from app.clients.kafka import Standing
from app.history.projector import Projector
from app.streams.app import Agents
from app.streams.backlog import EVERY_S, Backlog, Reader
from app.streams.connection import KafkaConnection
from app.streams.figures import LagFigures
from app.wiring import now


class Health(NamedTuple):
    """Why a worker is not ready, nothing when it is; and what somebody should look at."""

    reasons: Callable[[], list[str]]
    warnings: Callable[[], list[str]]


def reader_of(app: faust.App) -> Reader:
    """Where the streams stand in the partitions that are theirs."""
    started = now()

    def reached() -> dict[TopicPartition, Standing]:
        offsets = app.consumer.reached() if app.started else {}
        return {TopicPartition(*place): Standing(offset or 0, started) for place, offset in offsets.items()}

    return reached


async def watch_backlog(
    stack: contextlib.AsyncExitStack,
    connection: KafkaConnection,
    agents: Agents,
    registry: CollectorRegistry,
    projectors: Iterable[Projector] | None = None,
) -> Callable[[], list[str]]:
    """Ask the broker until the stack unwinds, and show what it says as metrics; the warnings for ``/readyz``.

    projectors: None in a worker that only carries out steps, which does not count dead letters either.
    """
    consumer, projected = reader_of(agents.app), [one.standings for one in projectors or ()]
    backlog = Backlog(connection, (consumer, *projected), now, EVERY_S, counts_letters=projectors is not None)
    registry.register(LagFigures(backlog, consumer, projected))
    agents.run_beside(stack, backlog.run())
    return backlog.warnings
