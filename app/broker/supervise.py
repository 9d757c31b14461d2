"""A process between us and Java: when we die, however we die, it ends Java.

Run as a script: ``supervise.py LOG GRACE_S COMMAND…``. Its standard input is a pipe that only the parent holds; end of
file means that the parent is gone or wants it stopped. Java is also tied to this process by the kernel where it can.
It imports nothing of the project, so that it starts at once.
"""

import ctypes
import os
import signal
import subprocess  # what it is for # nosec B404
import sys
import threading

PR_SET_PDEATHSIG = 1


def tie_to_parent() -> None:
    """Ask Linux to kill this process when its parent dies; elsewhere nothing happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def main(log: str, grace_s: float, command: list[str]) -> int:
    """Run the command until it ends or standard input does; its exit status."""
    with open(log, "ab") as output:  # noqa: PTH123 - pathlib costs start-up time here
        java = subprocess.Popen(  # our own command, no shell # nosec B603
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            preexec_fn=tie_to_parent,  # noqa: PLW1509 - this process has one thread yet
        )

    def end_with_parent() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
            pass
        java.terminate()
        try:
            java.wait(grace_s)
        except subprocess.TimeoutExpired:
            java.kill()

    print(java.pid, flush=True)
    threading.Thread(target=end_with_parent, daemon=True).start()
    return java.wait()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2]), sys.argv[3:]))
