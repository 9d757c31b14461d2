"""An aiokafka consumer that decodes each record with orjson, and nothing else.

Prints seconds and processor seconds from its first record to its last, as JSON.
Run: python raw_consumer.py SERVERS TOPIC '{"PARTITION": [FROM, TO], ...}' [one|many]
one: record by record (`async for`); many: batch by batch (`getmany`).
"""

import json
import sys
import time

import orjson
import uvloop
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import TopicPartition


async def main(servers: str, topic: str, ranges: dict[str, list[int]], way: str) -> None:
    consumer = AIOKafkaConsumer(bootstrap_servers=servers, enable_auto_commit=False)
    await consumer.start()
    consumer.assign([TopicPartition(topic, int(partition)) for partition in ranges])
    for partition, (first, _) in ranges.items():
        consumer.seek(TopicPartition(topic, int(partition)), first)
    wanted, seen = sum(end - first for first, end in ranges.values()), 0
    begun = used = 0.0
    while seen < wanted:
        if way == "one":
            record = await consumer.getone()
            if not seen:
                begun, used = time.monotonic(), time.process_time()
            orjson.loads(record.value)
            seen += 1
            continue
        batches = await consumer.getmany(timeout_ms=1000)
        if batches and not seen:
            begun, used = time.monotonic(), time.process_time()
        for records in batches.values():
            for record in records:
                orjson.loads(record.value)
            seen += len(records)
    print(json.dumps({"seconds": time.monotonic() - begun, "cpu_s": time.process_time() - used}), flush=True)
    await consumer.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4]))
