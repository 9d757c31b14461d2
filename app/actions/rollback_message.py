"""How a rollback looks in Slack; whatever comes from outside stands in plain text, on one line, cut."""

from typing import Any

from app.actions.approval_message import one_line, shortened
from app.clients.slack import Blocks, escape
from app.core.rollback_notice import RollbackCard, RollbackLine

MARKS = {"succeeded": "✅", "manual": "✋", "drifted": "⚠", "failed": "❌", "unknown": "❓", "halted": "⏹"}
MAX_SHOWN = 15
MAX_BYTES = 3900


def rollback_text(card: RollbackCard) -> str:
    """The whole message as escaped mrkdwn, for notifications and clients without blocks."""
    lines = [_title(card), _facts(card), *map(_line, card.steps)]
    return shortened(escape("\n".join(lines)), MAX_BYTES, MAX_BYTES)


def rollback_blocks(card: RollbackCard) -> Blocks:
    """The message as Block Kit blocks."""
    shown = [_line(step) for step in card.steps[:MAX_SHOWN]]
    if len(card.steps) > MAX_SHOWN:
        shown.append(f"and {len(card.steps) - MAX_SHOWN} steps more")
    header = {"type": "header", "text": {"type": "plain_text", "text": _title(card)[:150], "emoji": False}}
    return [header, _plain(_facts(card)), *map(_plain, shown)]


def _title(card: RollbackCard) -> str:
    state = f"Rolled back ({card.status})" if card.over else "Rolling back"
    return f"⏪ {state}: {one_line(card.runbook_name)}"


def _facts(card: RollbackCard) -> str:
    service = one_line(card.service_id or "none named")
    return f"Service: {service} | Execution: {one_line(card.execution_id)}\nWhy: {one_line(card.reason)}"


def _line(step: RollbackLine) -> str:
    said = f" ({one_line(step.detail)})" if step.detail else ""
    return f"{MARKS.get(step.status, '…')} step {step.number}, {one_line(step.summary)}: {step.status}{said}"


def _plain(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "plain_text", "text": text, "emoji": False}}
