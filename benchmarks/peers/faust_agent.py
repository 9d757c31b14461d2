"""A Faust agent that does nothing with what it reads, on Faust's own settings but for what keeps it quiet.

Prints seconds and processor seconds from its first record to its last, as JSON.
Run: python faust_agent.py SERVERS GROUP TOPIC COUNT FOLDER; the group's committed offsets say where it begins.
"""

import asyncio
import json
import sys
import time

import faust
import uvloop
from faust_app import quiet_app


async def main(servers: str, group: str, topic: str, count: int, folder: str) -> None:
    app = quiet_app(group, servers, folder, stream_wait_empty=False)
    done = asyncio.get_running_loop().create_future()

    @app.agent(app.topic(topic, value_serializer="json"))
    async def nothing(stream: faust.Stream) -> None:
        seen, begun, used = 0, 0.0, 0.0
        async for _ in stream:
            if not seen:
                begun, used = time.monotonic(), time.process_time()
            seen += 1
            if seen == count:
                done.set_result({"seconds": time.monotonic() - begun, "cpu_s": time.process_time() - used})

    await app.start()
    print(json.dumps(await done), flush=True)
    await app.stop()


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5]))
