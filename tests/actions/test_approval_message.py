"""The message that asks for approval: the product page's lines, Slack's limits, and nothing that text could forge."""

import re
from datetime import timedelta

import pytest
from building import T0, plan, scale, slack, story
from slack_limits import about_blocks, about_view
from slack_sdk.models.blocks import Block

from app.actions.approval_message import APPROVE, REJECT, blocks_of, one_line, reason_view, text_of
from app.clients.slack import escape
from app.core.anomaly import anomaly_of
from app.core.approval import Vote
from app.core.approval_card import ApprovalCard
from app.core.planning import Inverse, Prepared

STEP = scale(require_approval=True, approval_channel="#ops")
SCALE = Prepared.of(
    "Scale production/payment-api from 3 to 5",
    params={"namespace": "production", "deployment": "payment-api", "replicas": 5},
    inverse=Inverse(
        step={
            "type": "kubernetes",
            "action": "scale",
            "namespace": "production",
            "deployment": "payment-api",
            "replicas": 3,
        }
    ),
)


def card(*steps, a_plan=SCALE, **changes) -> ApprovalCard:
    anomaly = anomaly_of(
        {"service_id": "payment-api", "metric_name": "cpu", "anomaly_score": 0.93}, anomaly_id="a", received_at=T0
    )
    s = story(*(steps or (slack(), STEP, slack())), name="scale-out-payment-api")
    s.state = s.state.now(request=s.state.request.model_copy(update={"anomaly": anomaly}))
    while s.state.cursor < len(s.state.steps) and not s.state.runbook.steps[s.state.cursor].require_approval:
        s.does()
    return s.prepared(a_plan).notices[0].card.model_copy(update=changes)


def ids(blocks):
    return [one["action_id"] for block in blocks if block["type"] == "actions" for one in block["elements"]]


def texts_of(blocks):
    texts = [block["text"]["text"] for block in blocks if "text" in block]
    return texts + [one["text"] for block in blocks if block["type"] == "context" for one in block["elements"]]


def said(blocks):
    """All text that is shown, one line each."""
    return "\n".join(texts_of(blocks)).splitlines()


def assert_slack_takes(blocks):
    assert about_blocks(blocks) == []
    texts = [block["text"] for block in blocks if "text" in block]
    counted = [one["text"] if one["type"] == "mrkdwn" else escape(one["text"]) for one in texts]
    assert max(len(text.encode()) for text in counted) <= 3900
    assert max(len(text) for text in counted) <= 3000
    for block in Block.parse_all(blocks):
        block.validate_json()


def test_it_says_what_the_product_page_shows():
    assert text_of(card(), T0).splitlines() == [
        "⚡ Runbook: scale-out-payment-api",
        "Service: payment-api | Score: 0.93 | Step 2 of 3",
        "",
        "Action: Scale production/payment-api from 3 to 5",
        "Namespace: production",
        "Undo: scale production/payment-api (replicas 3)",
        "Timeout in: 10 minutes (at 03:10 UTC)",
    ]
    blocks = blocks_of(card(), T0)
    assert said(blocks) == [line for line in text_of(card(), T0).splitlines() if line]
    assert ids(blocks) == [APPROVE, REJECT]
    assert_slack_takes(blocks)


@pytest.mark.parametrize(
    ("state", "ended", "line"),
    [
        ("approved", "approved by ann", "✅ approved by ann"),
        ("rejected", "rejected by bob: no", "❌ rejected by bob: no"),
        ("expired", "nobody approved it in time", "⌛ nobody approved it in time"),
        ("superseded", "the plan changed", "↻ the plan changed"),
        ("withdrawn", "cancelled by cy", "⏹ cancelled by cy"),
    ],
)
def test_once_decided_the_buttons_are_gone_and_it_says_how_it_ended(state, ended, line):
    blocks = blocks_of(card(state=state, ended=ended), T0)
    assert ids(blocks) == []
    assert said(blocks)[-1] == line
    assert_slack_takes(blocks)


def test_who_has_agreed_so_far_and_what_changed():
    waiting = story(scale(require_approval=True, approval_channel="#c", approvals_required=2), by="op").prepared(SCALE)
    waiting.noticed().at(5).decided(by="ann", comment="looks right")
    (update,) = waiting.notices
    lines = said(blocks_of(update.card.model_copy(update={"changed": "it was “x”"}), T0 + timedelta(seconds=570)))
    assert lines[lines.index("Approved 1 of 2") + 1] == "• ann at 03:00:05 UTC (“looks right”)"
    assert "The plan has changed since it was approved: it was “x”" in lines
    assert "Requested by: op" in lines
    assert lines[-1] == "Timeout in: 30 seconds (at 03:10 UTC)"


FORGERIES = [
    "<!channel> <@U1> <https://evil.example|click>",
    "x\n✅ approved by the boss",
    "x\r\u2028✅ approved by the boss",
    "\u202eevorppa",
    "*bold* _it_ ~no~ `code` > quote",
    "y" * 20_000,
    "&lt;!here&gt;",
    "&" * 20_000,
    "\N{FIRE}" * 20_000,
    "\n" * 20_000 + "x",
]


@pytest.mark.parametrize("text", FORGERIES)
def test_text_from_outside_can_neither_mention_nor_pretend_nor_overflow(text):
    forged = card(
        service_id=text, summary=text, namespace=text, undo=text, step_name=text, requested_by=text, changed=text
    )
    blocks = blocks_of(forged, T0)
    assert_slack_takes(blocks)
    assert all(block.get("text", {}).get("type", "plain_text") == "plain_text" for block in blocks)
    assert not any(line.startswith("✅") for line in said(blocks))
    fallback = text_of(forged, T0)
    assert "<" not in fallback
    assert not any(line.startswith("✅") for line in fallback.splitlines())
    assert len(fallback.encode()) <= 3900
    assert fallback.splitlines()[-1] == "Timeout in: 10 minutes (at 03:10 UTC)"


@pytest.mark.parametrize("text", FORGERIES)
def test_a_slack_steps_own_message_is_quoted(text):
    step = slack(require_approval=True, channel="#c")
    asked = Prepared.of("Post", params={"channel": "#c", "message": text}, manual_reason="no")
    blocks = blocks_of(card(step, a_plan=asked), T0)
    (quote,) = (block["text"]["text"] for block in blocks if block.get("text", {}).get("type") == "mrkdwn")
    assert "<" not in quote
    assert all(line.startswith(">") for line in quote.removesuffix("…").splitlines())
    assert len(quote) <= 3000
    assert len(quote.encode()) <= 3900
    assert re.sub("&(amp|lt|gt);", "", quote).count("&") == 0
    assert_slack_takes(blocks)


@pytest.mark.parametrize("text", [*FORGERIES, "x"])
@pytest.mark.parametrize("state", ["pending", "rejected"])
def test_eleven_votes_with_long_words_are_within_the_limits(text, state):
    votes = tuple(
        Vote(by=(f"{number} " + text)[:200], decision="approve", at=T0, source="slack", comment=text[:2000])
        for number in range(10)
    )
    no = Vote(by="no", decision="reject", at=T0, source="api", comment=text)
    crowded = card(
        a_plan=Prepared.of(text[:2000], params={"namespace": text[:2000]}, manual_reason=text[:2000]),
        votes=(*votes, no),
        required=11,
        changed=text,
        state=state,
        ended=f"rejected by no: {text}",
        text=text,
    )
    blocks = blocks_of(crowded, T0)
    assert_slack_takes(blocks)
    assert len(blocks) <= 50
    assert sum(line.startswith("• ") for line in said(blocks)) == 10
    assert len(text_of(crowded, T0).encode()) <= 3900


def test_where_no_click_can_reach_us_it_says_how_else_to_decide():
    blocks, text = blocks_of(card(), T0, clickable=False), text_of(card(), T0, clickable=False)
    line = "To decide: runbooks approve e, runbooks reject e, or POST /api/v1/executions/e/approvals"
    assert ids(blocks) == []
    assert said(blocks)[-2] == text.splitlines()[-2] == line
    assert_slack_takes(blocks)
    ended = card(state="approved", ended="approved by ann")
    assert line not in said(blocks_of(ended, T0, clickable=False))


def test_without_score_or_service_it_still_reads():
    bare = card(service_id=None, anomaly_score=None)
    assert text_of(bare, T0).splitlines()[1] == "Service: none named | Step 2 of 3"
    assert one_line(" a\tb\n") == "a b"


def test_reminders_and_escalations_say_what_they_are():
    assert text_of(card(kind="remind"), T0).startswith("Still waiting: ⚡")
    assert text_of(card(kind="escalate"), T0).startswith("Nobody has decided yet: ⚡")


def test_the_dialog_for_a_reason_is_one_slack_takes():
    assert about_view(reason_view("x" * 500)) == []


def test_a_plan_without_an_inverse_says_why():
    assert "Undo: ⚠ only by hand: it cannot be taken back" in text_of(card(a_plan=plan()), T0)
