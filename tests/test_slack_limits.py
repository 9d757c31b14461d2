"""What Slack takes of blocks and modals, and what it does not."""

import pytest
from slack_limits import about_blocks, about_view

REASON = {
    "type": "input",
    "block_id": "reason",
    "label": {"type": "plain_text", "text": "Why"},
    "element": {"type": "plain_text_input", "action_id": "text", "min_length": 1, "max_length": 3000},
}
MODAL = {
    "type": "modal",
    "callback_id": "c" * 255,
    "private_metadata": "m" * 3000,
    "title": {"type": "plain_text", "text": "t" * 24},
    "submit": {"type": "plain_text", "text": "t" * 24},
    "blocks": [REASON, *[{"type": "divider"}] * 99],
}


def button(action_id: str, value: str = "approval-1", **more) -> dict:
    text = {"type": "plain_text", "text": action_id.title()[:75]}
    return {"type": "button", "action_id": action_id, "text": text, "value": value, **more}


@pytest.mark.parametrize(
    ("blocks", "reason"),
    [
        ([{"type": "divider"}] * 51, "no more than 50 items"),
        ([{"type": "section", "text": {"type": "mrkdwn", "text": "a" * 3001}}], "3000 characters"),
        ([{"type": "section", "text": {"type": "mrkdwn", "text": ""}}], "more than 0 characters"),
        ([{"type": "section", "text": {"type": "mrkdwn", "text": "a", "emoji": True}}], "emoji"),
        ([{"type": "section"}], "text or fields"),
        ([{"type": "section", "fields": [{"type": "mrkdwn", "text": "a" * 2001}]}], "less than 2001"),
        ([{"type": "context", "elements": [{"type": "mrkdwn", "text": "a" * 3001}]}], "less than 3001"),
        ([{"type": "header", "text": {"type": "plain_text", "text": "a" * 151}}], "150 characters"),
        ([{"type": "header", "text": {"type": "mrkdwn", "text": "a"}}], "must be plain_text"),
        ([{"type": "divider", "block_id": "b" * 256}], "255 characters"),
        ([{"type": "divider", "block_id": "b"}] * 2, "already exists"),
        ([{"type": "divider", "colour": "red"}], "additional property: colour"),
        ([{"type": "buttons"}], "unsupported type: buttons"),
        (["divider"], "array of objects"),
    ],
)
def test_blocks(blocks, reason):
    assert reason in about_blocks(blocks)[0]


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ([button("a" * 256)], "255 characters"),
        ([button("a", "v" * 2001)], "2000 characters"),
        ([button("a", text={"type": "plain_text", "text": "t" * 76})], "75 characters"),
        ([button("a", text={"type": "mrkdwn", "text": "t"})], "must be plain_text"),
        ([button("a", style="green")], "style"),
        ([button("a", color="red")], "additional property: color"),
        ([button("a"), button("a")], "already exists"),
        ([button(f"a{n}") for n in range(26)], "25 elements"),
        ([{"type": "plain_text_input", "action_id": "a"}], "unsupported type: plain_text_input"),
        ([{"type": "knob", "action_id": "a"}], "unsupported type: knob"),
        ([], "at least 1 item"),
    ],
)
def test_elements(elements, reason):
    assert reason in str(about_blocks([{"type": "actions", "elements": elements}]))


def test_what_is_at_its_limit_passes():
    confirm = {part: {"type": "plain_text", "text": "t" * 30} for part in ("title", "text", "confirm", "deny")}
    wide = button("a" * 255, "v" * 2000, text={"type": "plain_text", "text": "t" * 75}, style="danger", confirm=confirm)
    text = {"type": "mrkdwn", "text": "a" * 3000, "verbatim": True}
    fields = [{"type": "mrkdwn", "text": "a" * 2000}] * 10
    blocks = [
        {"type": "section", "text": text, "fields": fields, "accessory": wide, "block_id": "b" * 255},
        {"type": "actions", "elements": [button(f"a{n}") for n in range(25)]},
        {"type": "context", "elements": [text] * 10},
        {"type": "header", "text": {"type": "plain_text", "text": "a" * 150, "emoji": True}},
        *[{"type": "divider"}] * 46,
    ]
    assert about_blocks(blocks) == about_view(MODAL) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"title": {"type": "plain_text", "text": "t" * 25}}, "24 characters"),
        ({"title": "Reject"}, "must be plain_text"),
        ({"title": {"text": "t"}}, "invalid view"),
        ({"blocks": "none"}, "array of objects"),
        ({"title": {"type": "mrkdwn", "text": "t"}}, "must be plain_text"),
        ({"submit": {"type": "plain_text", "text": "t" * 25}}, "24 characters"),
        ({"submit": None}, "must be"),
        ({"private_metadata": "m" * 3001}, "3000 characters"),
        ({"callback_id": "c" * 256}, "255 characters"),
        ({"blocks": [{"type": "divider"}] * 101}, "no more than 100 items"),
        ({"blocks": [REASON | {"label": {"type": "mrkdwn", "text": "Why"}}]}, "must be plain_text"),
        ({"blocks": [REASON | {"element": {"type": "plain_text_input", "max_length": 3001}}]}, "at most 3000"),
        (
            {"blocks": [REASON | {"element": {"type": "button", "text": {"type": "plain_text", "text": "b"}}}]},
            "element",
        ),
        ({"type": "dialog"}, "must be modal"),
        ({"colour": "red"}, "additional property"),
    ],
)
def test_modals(change, reason):
    assert reason in str(about_view(MODAL | change))
