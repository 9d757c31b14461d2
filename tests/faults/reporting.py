"""What runs came to, as a table by kind of fault: printed, and written as JSON and Markdown."""

import json
import statistics
from pathlib import Path
from typing import Any

from faults.plans import KINDS
from faults.runs import Result

COLUMNS = ("fault", "times", "lost", "doubled", "diverged", "recovery s, median", "recovery s, max")


def table(results: list[Result]) -> list[dict[str, Any]]:
    """One row a kind, and one for all.

    Something that went wrong counts for the fault that began last before the execution was requested or, where none
    did, for the first one after it.
    """
    rows = []
    for kind in KINDS:
        recovered = [
            result.recovery_s[one.fault.number]
            for result in results
            for one in result.injected
            if one.fault.kind == kind
        ]
        if recovered:
            wrong = [sort for result in results for sort, blamed in _blamed(result) if blamed == kind]
            rows.append(_row(kind, recovered, wrong))
    everything = [seconds for result in results for seconds in result.recovery_s.values()]
    return [*rows, _row("all", everything, [sort for result in results for sort, _ in _blamed(result)])]


def _row(kind: str, recovered: list[float], wrong: list[str]) -> dict[str, Any]:
    counts = {sort: wrong.count(sort) for sort in ("lost", "doubled", "diverged")}
    middle = statistics.median(recovered) if recovered else 0.0
    seconds = (round(middle, 1), round(max(recovered, default=0.0), 1))
    return dict(zip(COLUMNS, (kind, len(recovered), *counts.values(), *seconds), strict=True))


def _blamed(result: Result) -> list[tuple[str, str]]:
    """Each thing that went wrong, with the kind of the fault that it counts for."""
    found = []
    for wrong in result.violations:
        before = [one for one in result.injected if one.begun <= wrong.at]
        near = max(before, key=lambda one: one.begun) if before else min(result.injected, key=lambda one: one.begun)
        found.append((wrong.sort, near.fault.kind))
    return found


def markdown(rows: list[dict[str, Any]]) -> str:
    """The table as Markdown."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    lines += ["| " + " | ".join(str(row[name]) for name in COLUMNS) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def shown(result: Result) -> list[str]:
    """A run in a few lines; every violation with what is needed to look for it."""
    counts = ", ".join(f"{count} {status}" for status, count in sorted(result.statuses.items()))
    head = f"seed {result.plan.seed}: {'good' if result.good else 'BROKEN'}; {result.anomalies} anomalies, "
    head += f"{result.effects} side effects; {counts}; a worker ended by itself {len(result.restarts)} times"
    wrong = [f"  {one.sort}: {one.execution_id}: {one.what}" for one in result.violations[:40]]
    said = [f"  {line}" for line in (*result.notes, *result.restarts)]
    return [head, *said, *wrong]


def write(results: list[Result], folder: Path) -> None:
    """Write both files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = table(results)
    runs = [
        {
            "seed": result.plan.seed,
            "good": result.good,
            "plan": result.plan.lines(),
            "anomalies": result.anomalies,
            "side_effects": result.effects,
            "statuses": result.statuses,
            "restarts": result.restarts,
            "notes": result.notes,
            "recovery_s": result.recovery_s,
            "violations": [one._asdict() for one in result.violations],
        }
        for result in results
    ]
    (folder / "faults.json").write_text(json.dumps({"table": rows, "runs": runs}, indent=2) + "\n")
    seeds = ", ".join(str(result.plan.seed) for result in results)
    (folder / "faults.md").write_text(f"Seeds {seeds}\n\n{markdown(rows)}")
