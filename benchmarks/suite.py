"""`make bench`: every part in a process of its own, one after the other, and one table of what they found.

A part that fails, hangs or is missing is told in the table and in the exit status, and the others still run.
Writes benchmarks/results/bench.json and bench.md; with --only or --short to files of their own, which git ignores.
Run: .venv/bin/python benchmarks/suite.py [--rounds N] [--short] [--only PART ...]
"""

import argparse
import contextlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil
from figures import Figure, read_figures, table

PARTS = (
    "matching",
    "rulebook",
    "latency",
    "throughput",
    "storm",
    "history",
    "starting",
    "audit",
    "backtest",
)
"""The parts: benchmarks/PART.py, in the order in which they run."""
PACKAGES = (
    "aiohttp",
    "aiokafka",
    "asyncssh",
    "cel-expr-python",
    "faust-streaming",
    "orjson",
    "pydantic",
    "sqlalchemy",
    "uvloop",
)
HERE = Path(__file__).parent
LONGEST_S, LONGEST_SHORT_S = 3600, 300
"""A part that runs longer hangs, and is ended. A short one takes 5 to 15 s, and far longer beside other work."""


@dataclass(frozen=True)
class Ran:
    """How a part went; failure: in words, None where it gave its figures."""

    part: str
    seconds: float
    figures: list[Figure]
    failure: str | None = None


def machine() -> dict[str, object]:
    """What a reader needs to know of the machine and the code: figures do not travel without it."""
    commit = _git("rev-parse", "--short=12", "HEAD")
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": f"{commit}, with changes" if _git("status", "--porcelain", "--untracked-files=no") else commit,
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load_average_at_the_beginning": [round(value, 2) for value in os.getloadavg()],
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def _git(*arguments: str) -> str:
    try:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def run_part(part: str, options: Sequence[str], longest_s: float, folder: Path = HERE, said: Path | None = None) -> Ran:
    """Run one part to its end; folder: where PART.py is; said: a file for what it says, None to let it be seen."""
    script = folder / f"{part}.py"
    if not script.exists():
        return Ran(part, 0, [], "missing: there is no such file")
    begun = time.monotonic()
    # its own checkout, whatever the environment has installed
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    environment = os.environ | {"PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        found = Path(name) / "figures.json"
        output = None if said is None else stack.enter_context(said.open("w"))
        error = None if said is None else subprocess.STDOUT
        process = subprocess.Popen(
            [sys.executable, str(script), *options, "--figures", str(found)],
            env=environment,
            cwd=HERE.parent,
            stdout=output,
            stderr=error,
            start_new_session=True,
        )
        stack.enter_context(_group(process))
        try:
            status = process.wait(timeout=longest_s)
        except subprocess.TimeoutExpired:
            return Ran(part, time.monotonic() - begun, [], f"not ended after {longest_s:g} s")
        seconds = time.monotonic() - begun
        if status:
            return Ran(part, seconds, [], f"exit status {status}")
        return Ran(part, seconds, read_figures(found)) if found.exists() else Ran(part, seconds, [], "no figures")


@contextlib.contextmanager
def _group(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """End a part together with all that it started, a broker for one."""
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def written(ran: Sequence[Ran], about: dict[str, object], target: Path) -> str:
    """Write target.json and target.md; the text of the latter."""
    target.parent.mkdir(exist_ok=True)
    parts = [asdict(one) | {"seconds": round(one.seconds, 1)} for one in ran]
    target.with_suffix(".json").write_text(json.dumps({"about": about, "parts": parts}, indent=1) + "\n")
    figures = [figure for one in ran for figure in one.figures]
    failures = [f"{one.part}: {one.failure}" for one in ran if one.failure]
    notes = [f"- {figure.name}: {figure.note}" for figure in figures if figure.note]
    packages = ", ".join(f"{name} {found}" for name, found in about["packages"].items())
    minutes = sum(one.seconds for one in ran) / 60
    text = f"""# What `make bench` found

{about["date"]}, commit {about["commit"]}, {about["cores"]} cores, {about["memory_gb"]} GB, {about["system"]},
load average {about["load_average_at_the_beginning"]} at the beginning, {minutes:.0f} minutes.
Python {about["python"]}, {packages}.

Figures do not travel from one machine to another; ratios of sides that took turns in one run nearly do.

{table(figures, failures)}
"""
    text += "\n" + "\n".join(notes) + "\n" if notes else ""
    target.with_suffix(".md").write_text(text)
    return text


def one_by_one(parts: Sequence[str], options: Sequence[str]) -> list[Ran]:
    """Run the parts undisturbed, for their figures."""
    ran: list[Ran] = []
    begun = time.monotonic()
    for number, part in enumerate(parts, 1):
        print(f"== {part}, part {number} of {len(parts)} ({time.monotonic() - begun:.0f} s)", flush=True)
        ran.append(run_part(part, options, LONGEST_S))
        if ran[-1].failure:
            print(f"== {part}: {ran[-1].failure}", flush=True)
    return ran


def all_at_once(parts: Sequence[str], options: Sequence[str]) -> list[Ran]:
    """Run a few parts at a time, for nothing but whether they run; each tells what it said when it has ended."""
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as name, ThreadPoolExecutor(max(2, len(os.sched_getaffinity(0)))) as pool:
        outputs = {part: Path(name) / part for part in parts}
        running = {
            pool.submit(run_part, part, options, LONGEST_SHORT_S, said=said): part for part, said in outputs.items()
        }
        for number, done in enumerate(as_completed(running), 1):
            ran, said = done.result(), outputs[running[done]]
            print(f"== {ran.part}, {number} of {len(parts)} done ({time.monotonic() - begun:.0f} s)")
            print(said.read_text() if said.exists() else "", end="")
            print(f"== {ran.part}: {ran.failure or 'ran'} in {ran.seconds:.0f} s", flush=True)
        return [done.result() for done in running]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help="rounds of each side; each part has its own number when not given")
    parser.add_argument("--short", action="store_true", help="small numbers: do they still run?")
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=f"of {', '.join(PARTS)}")
    given = parser.parse_args()
    parts = tuple(part for part in PARTS if part in (given.only or PARTS))
    options = [*(["--short"] if given.short else []), *(["--rounds", str(given.rounds)] if given.rounds else [])]
    about, begun = machine(), time.monotonic()
    ran = all_at_once(parts, options) if given.short else one_by_one(parts, options)
    name = "short" if given.short else "only" if given.only else "bench"
    print("\n" + written(ran, about, HERE / "results" / name), flush=True)
    failed = [one.part for one in ran if one.failure]
    print(f"{len(parts) - len(failed)} of {len(parts)} parts ran in {time.monotonic() - begun:.0f} s", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
