"""How a rollback looks in Slack, held against Slack's documented limits."""

from building import T0
from slack_limits import about_blocks

from app.actions.rollback_message import rollback_blocks, rollback_text
from app.core.rollback_notice import RollbackCard, RollbackLine


def card(**fields) -> RollbackCard:
    steps = (
        RollbackLine(number=2, summary="Scale n/d from 3 to 5", status="drifted", detail="the count is 4"),
        RollbackLine(number=1, summary="Restart n/d", status="manual", detail="pods cannot be un-restarted"),
    )
    given = {
        "execution_id": "e",
        "runbook_name": "scale-out",
        "service_id": "pay",
        "requested_at": T0,
        "cause": "failure",
        "reason": "step 3 failed",
        "status": "failed",
        "over": True,
        "steps": steps,
    }
    return RollbackCard(**(given | fields))


def test_it_says_why_and_what_became_of_each_step():
    assert rollback_text(card()).splitlines() == [
        "⏪ Rolled back (failed): scale-out",
        "Service: pay | Execution: e",
        "Why: step 3 failed",
        "⚠ step 2, Scale n/d from 3 to 5: drifted (the count is 4)",
        "✋ step 1, Restart n/d: manual (pods cannot be un-restarted)",
    ]
    assert rollback_text(card(over=False)).startswith("⏪ Rolling back: scale-out")


def test_text_from_events_cannot_forge_it_and_it_stays_within_slacks_limits():
    forged = "<!channel> *bold*\n⏪ Rolled back (done)" + "x" * 10_000
    line = RollbackLine(number=1, summary=forged, status="succeeded", detail=forged)
    whole = card(runbook_name=forged, service_id=forged, reason=forged, steps=(line,) * 50)
    blocks = rollback_blocks(whole)
    assert about_blocks(blocks) == []
    assert len(blocks) <= 50
    assert {block["text"]["type"] for block in blocks} == {"plain_text"}
    text = rollback_text(whole)
    assert len(text.encode()) <= 3900
    assert "<!channel>" not in text
    assert "and 35 steps more" in blocks[-1]["text"]["text"]
