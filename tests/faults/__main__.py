"""``make faults`` and ``make soak``: see docs/faults.md.

Run: PYTHONPATH=.:tests:tests/system .venv/bin/python -m faults [--faults 200] [--seed 1] [--per-run 10] [--rate 6]
"""

import argparse
import asyncio
import contextlib
import logging
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults import soaking
from faults.plans import FULL, KINDS, SHORT, Plan, make_plan
from faults.reporting import markdown, shown, table, write
from faults.runs import Result, run
from faults.worlds import remove
from postgresql import programs
from sshd import Sshd, running_sshd

RESULTS = Path("benchmarks/results")


def say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def shell_target() -> Iterator[Sshd | None]:
    """A real sshd; None, and a line that says so, where there can be none."""
    with contextlib.ExitStack() as stack:
        try:
            server = stack.enter_context(running_sshd())
        except pytest.skip.Exception as missing:
            say(f"no shell steps: {missing}")
            server = None
        yield server


def plans(given: argparse.Namespace) -> Iterator[Plan]:
    """The run of each seed from the first on, until there are enough faults."""
    profile = SHORT if given.short else FULL
    database = given.database or (None if programs() else "sqlite")
    for number in range(-(-given.faults // given.per_run)):
        count = min(given.per_run, given.faults - number * given.per_run)
        yield make_plan(given.seed + number, count, profile, given.rate, database, tuple(given.only))


async def one_run(plan: Plan, sshd: Sshd | None) -> Result:
    """Do one run; what it left behind is kept where something was wrong."""
    folder = Path(tempfile.mkdtemp(prefix=f"faults-{plan.seed}-", dir="/tmp"))
    result = await run(plan, folder, sshd, say)
    for line in shown(result):
        say(line)
    if result.good:
        remove(folder)
    else:
        say(f"  its logs are kept: {folder}")
    return result


def faults(given: argparse.Namespace) -> int:
    """All runs; 1 when one was broken."""
    results: list[Result] = []
    with shell_target() as sshd:
        for plan in plans(given):
            begun = time.monotonic()
            results.append(asyncio.run(one_run(plan, sshd)))
            say(f"  took {time.monotonic() - begun:.0f} s\n")
            write(results, RESULTS)
    say(markdown(table(results)))
    broken = [result.plan.seed for result in results if not result.good]
    for seed in broken:
        say(f"again: make faults SEED={seed} FAULTS={given.per_run}")
    return 1 if broken else 0


def main() -> int:
    """Read the command line and do it."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=200, help="how many faults in all")
    parser.add_argument("--per-run", type=int, default=10, help="how many of them in one run")
    parser.add_argument("--seed", type=int, default=1, help="of the first run; each run has the next one")
    parser.add_argument("--rate", type=float, default=6.0, help="anomalies a second")
    parser.add_argument("--database", choices=("sqlite", "postgresql"), help="of the history; else the seed chooses")
    parser.add_argument("--only", choices=KINDS, nargs="+", default=KINDS, help="these kinds of faults")
    parser.add_argument("--short", action="store_true", help="short faults and leases, as in the test")
    parser.add_argument("--soak", type=float, metavar="MINUTES", help="no faults: load, and the workers' memory")
    given = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)  # the harness's own clients see every fault, too
    if given.soak:
        return asyncio.run(soaking.soak(given.soak, given.rate, RESULTS, say))
    return faults(given)


if __name__ == "__main__":
    sys.exit(main())
