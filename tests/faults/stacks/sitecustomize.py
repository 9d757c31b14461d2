"""Loaded by the workers of the harness when Python starts: at SIGUSR2 one says where its tasks and threads are."""

import asyncio
import faulthandler
import gc
import signal
import sys
import traceback


def _say(_number: int, _frame: object) -> None:
    faulthandler.dump_traceback(sys.__stderr__)
    for loop in [one for one in gc.get_objects() if isinstance(one, asyncio.AbstractEventLoop)]:
        for task in asyncio.all_tasks(loop):
            lines = [f"TASK {task.get_name()}"]
            awaited = task.get_coro()
            while awaited is not None:
                frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None)
                if frame is not None:
                    lines += [line.rstrip() for line in traceback.format_stack(frame)[-1:]]
                inner = getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None)
                if inner is None and frame is None:
                    lines.append(f"  on {awaited!r}"[:300])
                awaited = inner
            sys.__stderr__.write("\n".join(lines) + "\n")
    sys.__stderr__.flush()


signal.signal(signal.SIGUSR2, _say)
