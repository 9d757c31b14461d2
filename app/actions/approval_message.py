"""How a request for approval looks in Slack: blocks, and a text where blocks cannot be shown.

Whatever comes from outside stands in plain text, on one line, cut: it can neither mention, link, format nor pretend to
be a line of ours. A slack step's own message is quoted. All of it stays below what Slack takes, counted as Slack does:
with its three control characters escaped, chat.update's text in bytes.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from app.clients.slack import Blocks, escape
from app.core.approval import Vote
from app.core.approval_card import ApprovalCard

APPROVE, REJECT = "runbook_approve", "runbook_reject"
REASON_VIEW, REASON_BLOCK, REASON_INPUT = "runbook_reject_reason", "reason", "text"
MAX_LINE, MAX_LINE_BYTES, MAX_HEADER = 400, 460, 150  # six lines are in one section
MAX_SECTION, MAX_BYTES = 2900, 3900
MAX_VOTES = 12  # ten that agree and one that does not are the most there can be
HALF_ENTITY = re.compile(r"&[a-z]*\Z")
MARKS = {"approved": "✅", "rejected": "❌", "expired": "⌛", "superseded": "↻", "withdrawn": "⏹"}
PREFIXES = {"ask": "", "remind": "Still waiting: ", "escalate": "Nobody has decided yet: "}


def text_of(card: ApprovalCard, now: datetime, *, clickable: bool = True) -> str:
    """The whole message as escaped mrkdwn, for notifications and clients without blocks.

    clickable: whether clicks reach us; where they do not, it says how else to decide.
    """
    lines = [PREFIXES[card.kind] + _title(card), _facts(card), "", *_plan(card), *_changed(card), *_votes(card)]
    last = [_ended(card)] if card.state != "pending" else [_time_left(card, now)]
    if card.state == "pending" and not clickable:
        last.insert(0, _other_way(card))
    end = escape("\n".join(["", *last]))
    return shortened(escape("\n".join(lines)), MAX_BYTES - len(end.encode()), MAX_BYTES) + end


def blocks_of(card: ApprovalCard, now: datetime, *, clickable: bool = True) -> Blocks:
    """The message as Block Kit blocks; with buttons while it can be decided by a click, without any after that."""
    pending = card.state == "pending"
    blocks = [_header(PREFIXES[card.kind] + _title(card)), _plain("\n".join([_facts(card), *_plan(card)]))]
    if card.text is not None:
        blocks.append(_quote(card.text))
    blocks += map(_plain, (*_changed(card), *_votes(card)))
    if pending:
        blocks.append(_buttons(card) if clickable else _plain(_other_way(card)))
    blocks.append(_context(_time_left(card, now) if pending else _ended(card)))
    return blocks


def reason_view(private_metadata: str) -> dict[str, Any]:
    """The dialog that asks why something is rejected; the reason may be left out."""
    question = {
        "type": "input",
        "block_id": REASON_BLOCK,
        "optional": True,
        "label": {"type": "plain_text", "text": "Why is it rejected?"},
        "element": {"type": "plain_text_input", "action_id": REASON_INPUT, "multiline": True, "max_length": 2000},
    }
    return {
        "type": "modal",
        "callback_id": REASON_VIEW,
        "private_metadata": private_metadata,
        "title": {"type": "plain_text", "text": "Reject"},
        "submit": {"type": "plain_text", "text": "Reject"},
        "close": {"type": "plain_text", "text": "Back"},
        "blocks": [question],
    }


def one_line(value: object) -> str:
    """A value on one line and not too long: no control character, no line end, no turn of the writing direction."""
    printable = "".join(char if char.isprintable() else " " for char in str(value))
    text = " ".join(printable.split())
    size = 0
    for place, char in enumerate(text):
        size += len(escape(char).encode())
        if place == MAX_LINE or size > MAX_LINE_BYTES:
            return text[: place - 1] + "…"
    return text


def _title(card: ApprovalCard) -> str:
    return f"⚡ Runbook: {one_line(card.runbook_name)}"


def _facts(card: ApprovalCard) -> str:
    step = f"Step {card.step_number} of {card.step_count}"
    score = None if card.anomaly_score is None else f"Score: {card.anomaly_score:.2f}"
    facts = (f"Service: {one_line(card.service_id or 'none named')}", score, step)
    return " | ".join(fact for fact in facts if fact)


def _plan(card: ApprovalCard) -> list[str]:
    lines = [f"Action: {'take back: ' if card.takes_back else ''}{one_line(card.summary)}"]
    if card.step_name is not None:
        lines.insert(0, f"Step: {one_line(card.step_name)}")
    if card.namespace is not None:
        lines.append(f"Namespace: {one_line(card.namespace)}")
    lines.append(f"Undo: {one_line(card.undo)}")
    if card.requested_by is not None:
        lines.append(f"Requested by: {one_line(card.requested_by)}")
    return lines


def _changed(card: ApprovalCard) -> list[str]:
    return [f"The plan has changed since it was approved: {one_line(card.changed)}"] if card.changed else []


def _votes(card: ApprovalCard) -> Iterator[str]:
    """How many have agreed, and a line for each."""
    yes = [vote for vote in card.votes if vote.decision == "approve"]
    if card.required > 1 or yes:
        yield f"Approved {len(yes)} of {card.required}" + ("" if yes else ": nobody yet")
    yield from map(_vote, yes[-MAX_VOTES:])


def _vote(vote: Vote) -> str:
    said = f" (“{vote.comment}”)" if vote.comment else ""
    return "• " + one_line(f"{vote.by} at {vote.at:%H:%M:%S} UTC{said}")


def _other_way(card: ApprovalCard) -> str:
    """How to decide where no click can reach us."""
    name = one_line(card.reference.execution_id)
    return f"To decide: runbooks approve {name}, runbooks reject {name}, or POST /api/v1/executions/{name}/approvals"


def _ended(card: ApprovalCard) -> str:
    when = f" at {card.votes[-1].at:%H:%M:%S} UTC" if card.votes and card.state in {"approved", "rejected"} else ""
    return f"{MARKS[card.state]} {one_line(card.ended)}{when}"


def _time_left(card: ApprovalCard, now: datetime) -> str:
    seconds = max(0.0, (card.deadline - now).total_seconds())
    left = f"{round(seconds / 60)} minutes" if seconds >= 90 else f"{round(seconds)} seconds"
    return f"Timeout in: {left} (at {card.deadline:%H:%M} UTC)"


def _header(text: str) -> dict[str, Any]:
    return {"type": "header", "text": {"type": "plain_text", "text": text[:MAX_HEADER], "emoji": False}}


def _plain(text: str) -> dict[str, Any]:
    return {"type": "section", "text": {"type": "plain_text", "text": text, "emoji": False}}


def _context(text: str) -> dict[str, Any]:
    return {"type": "context", "elements": [{"type": "plain_text", "text": text, "emoji": False}]}


def _quote(text: str) -> dict[str, Any]:
    quoted = "\n".join(f"> {line}" for line in escape(text).splitlines())
    shown = shortened(quoted, MAX_BYTES, MAX_SECTION)
    return {"type": "section", "text": {"type": "mrkdwn", "text": shown, "verbatim": True}}


def shortened(escaped: str, most_bytes: int, most: int) -> str:
    """Escaped text with at most so many bytes and characters; never half of an entity."""
    if len(escaped) <= most and len(escaped.encode()) <= most_bytes:
        return escaped
    cut = escaped[: most - 1].encode()[: most_bytes - len("…".encode())].decode(errors="ignore")
    return HALF_ENTITY.sub("", cut) + "…"


def _buttons(card: ApprovalCard) -> dict[str, Any]:
    value = card.reference.text()
    approve = {"text": {"type": "plain_text", "text": "✅ Approve"}, "style": "primary", "action_id": APPROVE}
    reject = {"text": {"type": "plain_text", "text": "❌ Reject"}, "style": "danger", "action_id": REJECT}
    return {"type": "actions", "elements": [{"type": "button", "value": value, **one} for one in (approve, reject)]}
