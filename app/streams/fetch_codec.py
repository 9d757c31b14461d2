"""Fetch requests and their answers, written and read in one pass.

aiokafka writes and reads each number of a request with a call of its own. A worker's fetch names all partitions of all
its topics, some seventy, a hundred times a second and more: that was a tenth of a worker's time. The format is Kafka's
own, Fetch version 11 (KIP-392), which is the newest that aiokafka asks for; other versions stay with aiokafka.
"""

import struct
from io import BytesIO
from typing import Any

from aiokafka.protocol.fetch import FetchRequest_v11, FetchResponse_v11

REQUEST = struct.Struct(">iiiibii")
REQUESTED = struct.Struct(">iiqqi")
ANSWER = struct.Struct(">ihii")
ANSWERED = struct.Struct(">ihqqqiii")
ABORTED = struct.Struct(">qq")
LENGTHS = struct.Struct(">ii")
ABORTS_AT = ANSWERED.size - LENGTHS.size
INT16, INT32 = struct.Struct(">h"), struct.Struct(">i")


def write_request(request: FetchRequest_v11) -> bytes:
    """The bytes of a request."""
    given = request.__dict__
    parts = [
        REQUEST.pack(
            given["replica_id"], given["max_wait_time"], given["min_bytes"], given["max_bytes"],
            given["isolation_level"], given["session_id"], given["session_epoch"],
        ),
        INT32.pack(len(given["topics"])),
    ]  # fmt: skip
    for topic, partitions in given["topics"]:
        parts += (_text(topic), INT32.pack(len(partitions)))
        parts += [REQUESTED.pack(*partition) for partition in partitions]
    parts.append(INT32.pack(len(given["forgotten_topics_data"])))
    for topic, numbers in given["forgotten_topics_data"]:
        parts += (_text(topic), INT32.pack(len(numbers)), struct.pack(f">{len(numbers)}i", *numbers))
    parts.append(_text(given["rack_id"]))
    return b"".join(parts)


def read_response(cls: type[FetchResponse_v11], data: BytesIO | bytes) -> FetchResponse_v11:
    """The answer in these bytes; raises ValueError when some are missing."""
    raw = data if isinstance(data, bytes) else data.read()
    try:
        throttled, error, session, count = ANSWER.unpack_from(raw)
        topics, at = [], ANSWER.size
        for _ in range(count):
            topic, at = _read_topic(raw, at)
            topics.append(topic)
    except struct.error as broken:
        raise ValueError(f"a fetch's answer ends too early: {broken}") from broken
    return cls(throttled, error, session, topics)


def _read_topic(raw: bytes, at: int) -> tuple[tuple[str, list[Any]], int]:
    (length,) = INT16.unpack_from(raw, at)
    at += INT16.size + length
    (count,) = INT32.unpack_from(raw, at)  # before the name is read: it may be cut within a letter
    name = raw[at - length : at].decode()
    at += INT32.size
    partitions: list[Any] = []
    for _ in range(count):
        partition, error, highwater, stable, start, aborts, replica, size = ANSWERED.unpack_from(raw, at)
        aborted: list[Any] | None = None if aborts < 0 else []
        if aborts > 0:  # they stand before the last two numbers
            at += ABORTS_AT
            aborted = [ABORTED.unpack_from(raw, at + each * ABORTED.size) for each in range(aborts)]
            at += aborts * ABORTED.size
            replica, size = LENGTHS.unpack_from(raw, at)
            at += LENGTHS.size
        else:
            at += ANSWERED.size
        at += max(size, 0)
        if at > len(raw):
            raise struct.error(f"{at - len(raw)} bytes are missing")
        records = None if size < 0 else raw[at - size : at]
        partitions.append((partition, error, highwater, stable, start, aborted, replica, records))
    return (name, partitions), at


def _text(value: str) -> bytes:
    encoded = value.encode()
    return INT16.pack(len(encoded)) + encoded


def install() -> None:
    """Have all of aiokafka in this process write and read them so."""
    FetchRequest_v11.encode = write_request
    FetchResponse_v11.decode = classmethod(read_response)
