"""Executions and requests for approval as a person reads them in a terminal."""

import json
from typing import Any

from app.core.plain_text import one_line

MAX_SHOWN = 2000  # characters of what a step would be carried out with


def request_lines(item: dict[str, Any]) -> list[str]:
    """One request for approval as a person reads it: what would be done, and the digest that binds a yes to it."""
    approval, plan = item["approval"], item["plan"]
    given = json.dumps(item["params"])
    told = [
        ("does", one_line(item["summary"])),
        ("with", f"{given[:MAX_SHOWN]} …" if len(given) > MAX_SHOWN else given if item["params"] else ""),
        ("finds", json.dumps(plan["before"]) if plan["before"] is not None else ""),
        ("leaves", json.dumps(plan["after"]) if plan["after"] is not None else ""),
        ("undo", one_line(item["undo"])),
        ("changed", one_line(approval["changed"] or "")),
        ("agreed", one_line(", ".join(approval["by"]))),
        ("until", approval["deadline"]),
        ("digest", approval["digest"]),
        ("not you", one_line(item["why_not"] or "")),
    ]
    head = f"{item['execution_id']}  {item['runbook_name']}, step {item['step'] + 1} of {item['step_count']}"
    return [head, *(f"    {name:8} {text}" for name, text in told if text)]


def timeline(item: dict[str, Any]) -> list[str]:
    """One execution as a person reads it."""
    marks = {"succeeded": "✓", "planned": "·", "failed": "✗", "unknown": "?", "skipped": "-", "awaiting_approval": "…"}
    lines = [
        "",
        f"execution {item['execution_id']}",
        f"  runbook {item['runbook_name']} v{item['runbook_version']}, anomaly {item['trigger_anomaly_id']}",
    ]
    for step in item["steps"]:
        at = (step["finished_at"] or step["started_at"] or "")[11:23]
        mark = marks.get(step["status"], " ")
        lines.append(f"  {at:12} {mark} {step['index'] + 1}. {step['summary'] or step['type']}: {step['status']}")
        if step["error"]:
            lines.append(f"  {'':12}      {step['error']}")
        if step["approval"] and step["approval"]["by"]:
            said = step["approval"]["ended"] or f"decided so far by {', '.join(step['approval']['by'])}"
            lines.append(f"  {'':12}      {said}")
    for step in item["rollback"]["steps"]:
        at = (step["finished_at"] or step["started_at"] or "")[11:23]
        mark = marks.get(step["status"], " ")
        said = step["summary"] or step["reason"] or "take it back"
        lines.append(f"  {at:12} {mark} back {step['index'] + 1}. {said}: {step['status']}")
        if step["error"] and step["error"] != said:
            lines.append(f"  {'':12}      {step['error']}")
    took = f" in {item['duration_seconds']:.3f} s" if item["duration_seconds"] is not None else ""
    reason = f" ({item['reason']})" if item["reason"] else ""
    rollback = "" if item["rollback"]["status"] == "none" else f"; rollback {item['rollback']['status']}"
    return [one_line(line) for line in (*lines, f"  {item['status']}{took}{reason}{rollback}", "")]
