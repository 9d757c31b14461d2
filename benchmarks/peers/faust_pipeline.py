"""A Faust pipeline of so many hops that does nothing: each agent reads a topic and writes what it read to the next.

Faust as it comes, at least once, with its own producer; under uvloop, as our workers are.
Run: python faust_pipeline.py SERVERS HOPS FOLDER; the topics hop-0 to hop-HOPS must be there. Prints "ready" once.
"""

import asyncio
import itertools
import sys

import faust
import uvloop
from faust_app import quiet_app


def pipeline(servers: str, hops: int, folder: str) -> faust.App:
    app = quiet_app("pipeline", servers, folder, topic_partitions=8)
    topics = [app.topic(f"hop-{n}", key_type=bytes, value_type=bytes, value_serializer="raw") for n in range(hops + 1)]
    for number, (source, sink) in enumerate(itertools.pairwise(topics)):
        app.agent(source, name=f"hop-{number}")(passing_on_to(sink))
    return app


def passing_on_to(sink: faust.TopicT):
    async def agent(stream: faust.StreamT[bytes]) -> None:
        async for event in stream.events():
            await sink.send(key=event.key, value=event.value)

    return agent


async def main(servers: str, hops: int, folder: str) -> None:
    app = pipeline(servers, hops, folder)
    await app.start()
    while app.rebalancing or not app.consumer.assignment():
        await asyncio.sleep(0.05)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], int(sys.argv[2]), sys.argv[3]))
