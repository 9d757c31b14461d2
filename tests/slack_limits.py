"""What Slack refuses of blocks, views and texts: its documented limits, in the words of its answers.

slack_sdk's models know most of the limits of single fields; what they let pass (unknown fields, empty and overlong
texts, mrkdwn on a button, double ids, inputs outside of an input block) is checked here. Limits count characters.
Source: docs.slack.dev/reference/block-kit and /reference/views.
"""

from collections.abc import Callable, Iterator
from typing import Any

from slack_sdk.errors import SlackObjectFormationError
from slack_sdk.models.blocks import Block, BlockElement
from slack_sdk.models.views import View

Json = dict[str, Any]
Complaints = Iterator[str]

MESSAGE_TEXT_MAX = 40_000
UPDATE_TEXT_MAX = 4000  # of chat.update, where bytes are counted to be on the safe side
MESSAGE_BLOCKS_MAX = 50
MODAL_BLOCKS_MAX = 100
TEXT_MAX = 3000
FIELD_MAX = 2000
ID_MAX = 255
TEXT_FIELDS = {"plain_text": {"type", "text", "emoji"}, "mrkdwn": {"type", "text", "verbatim"}}


def about_blocks(blocks: Any, most: int = MESSAGE_BLOCKS_MAX, at: str = "/blocks") -> list[str]:
    """Every reason why Slack would refuse these blocks; empty when it takes them."""
    if not isinstance(blocks, list) or not all(isinstance(block, dict) for block in blocks):
        return [_at(at, "must be an array of objects")]
    found = [_at(at, f"no more than {most} items allowed [{len(blocks)}]")] if len(blocks) > most else []
    for index, block in enumerate(blocks):
        found += _about_block(block, f"{at}/{index}")
    return [*found, *_about_doubles("block_id", blocks, at)]


def about_view(view: Any) -> list[str]:
    """Every reason why Slack would refuse to open this modal; empty when it takes it."""
    if not isinstance(view, dict) or view.get("type") != "modal":
        return [_at("/view/type", "must be modal")]
    try:
        parsed = View(**(view | {"blocks": [{"type": "divider"}]}))
    except (AttributeError, KeyError, TypeError) as error:  # slack_sdk builds no model of it
        return [_at("/view", f"invalid view: {error}")]
    found = [_at(f"/view/{key}", "invalid additional property") for key in parsed.additional_attributes]
    found += _about_model(parsed, "/view")
    for part in ("title", "submit", "close"):
        if part in view or part == "title":
            found += _about_plain_text(view.get(part), f"/view/{part}")
    blocks = view.get("blocks")
    if isinstance(blocks, list) and not view.get("submit") and any(_is(block, "input") for block in blocks):
        found.append(_at("/view/submit", "must be there when an input block is"))
    return found + about_blocks(blocks, MODAL_BLOCKS_MAX, "/view/blocks")


def about_message_metadata(metadata: Any) -> list[str]:
    """Every reason why Slack would refuse this metadata of a message; an empty object removes it."""
    if not isinstance(metadata, dict):
        return [_at("/metadata", "must be an object")]
    kinds = (metadata.get("event_type"), str), (metadata.get("event_payload"), dict)
    if metadata and not all(isinstance(given, kind) for given, kind in kinds):
        return [_at("/metadata", "must have event_type, a string, and event_payload, an object")]
    return []


def _about_block(block: Json, at: str) -> list[str]:
    try:
        parsed = Block.parse(block)
    except (AttributeError, KeyError, TypeError) as error:  # slack_sdk builds no model of it
        return [_at(at, f"invalid block: {error}")]
    if parsed is None:
        return [_at(f"{at}/type", f"unsupported type: {block.get('type')}")]
    found = [_at(at, f"invalid additional property: {key}") for key in block.keys() - parsed.attributes]
    found += _about_model(parsed, at)
    for inner, inner_at in _objects(block, at):
        rule = RULES.get(inner.get("type", ""), _about_element)
        found += rule(inner, inner_at)
    elements = block.get("elements")
    return [*found, *(_about_doubles("action_id", elements, at) if isinstance(elements, list) else [])]


def _about_model(model: Any, at: str) -> Complaints:
    try:
        model.to_dict()  # validates what is within, too
    except SlackObjectFormationError as error:
        yield _at(at, str(error))


def _objects(value: Any, at: str) -> Iterator[tuple[Json, str]]:
    """The object itself and every object within, each with where it is."""
    if isinstance(value, dict):
        yield value, at
        for key, inner in value.items():
            yield from _objects(inner, f"{at}/{key}")
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _objects(inner, f"{at}/{index}")


def _about_text(given: Json, at: str) -> Complaints:
    text = given.get("text")
    if not isinstance(text, str) or not text:
        yield _at(f"{at}/text", "must be more than 0 characters")
    elif len(text) > TEXT_MAX:
        yield _at(f"{at}/text", f"must be less than {TEXT_MAX + 1} characters")
    for key in given.keys() - TEXT_FIELDS[given["type"]]:
        yield _at(at, f"invalid additional property: {key}")


def _about_plain_text(given: Any, at: str) -> Complaints:
    if not _is(given, "plain_text"):
        yield _at(at, "must be plain_text")
    else:
        yield from _about_text(given, at)


def _about_section(section: Json, at: str) -> Complaints:
    for index, one in enumerate(section.get("fields") or []):
        if isinstance(one, dict) and len(str(one.get("text", ""))) > FIELD_MAX:
            yield _at(f"{at}/fields/{index}/text", f"must be less than {FIELD_MAX + 1} characters")
    if _is(section.get("accessory"), "plain_text_input"):
        yield _at(f"{at}/accessory", "unsupported type: plain_text_input")


def _about_actions(actions: Json, at: str) -> Complaints:
    elements = actions.get("elements")
    if not isinstance(elements, list) or not elements:
        yield _at(f"{at}/elements", "must have at least 1 item")
        return
    for index, one in enumerate(elements):
        if _is(one, "plain_text_input"):
            yield _at(f"{at}/elements/{index}", "unsupported type: plain_text_input")


def _about_input(block: Json, at: str) -> Complaints:
    if not _is(block.get("label"), "plain_text"):
        yield _at(f"{at}/label", "must be plain_text")
    if not isinstance(block.get("element"), dict):
        yield _at(f"{at}/element", "must be there")


def _about_header(header: Json, at: str) -> Complaints:
    if not _is(header.get("text"), "plain_text"):
        yield _at(f"{at}/text", "must be plain_text")


def _about_button(button: Json, at: str) -> Complaints:
    yield from _about_element(button, at)
    if not _is(button.get("text"), "plain_text"):
        yield _at(f"{at}/text", "must be plain_text")


def _about_text_input(element: Json, at: str) -> Complaints:
    yield from _about_element(element, at)
    least, most = element.get("min_length", 0), element.get("max_length", TEXT_MAX)
    if not (isinstance(least, int) and isinstance(most, int) and 0 <= least <= most and 1 <= most <= TEXT_MAX):
        yield _at(at, f"min_length and max_length must be in order and at most {TEXT_MAX}")


def _about_element(element: Json, at: str) -> Complaints:
    if "type" not in element or _known_block(element):
        return
    parsed = BlockElement.parse(element)
    if parsed is None:
        yield _at(f"{at}/type", f"unsupported type: {element['type']}")
        return
    for key in element.keys() - parsed.attributes:
        yield _at(at, f"invalid additional property: {key}")


def _about_doubles(name: str, objects: list[Any], at: str) -> Complaints:
    given = [one[name] for one in objects if isinstance(one, dict) and one.get(name)]
    for double in sorted({one for one in given if given.count(one) > 1}):
        yield _at(at, f"`{name}` {double!r} already exists")


def _known_block(given: Json) -> bool:
    return given["type"] in {one.type for one in Block.__subclasses__()}


def _is(given: Any, kind: str) -> bool:
    return isinstance(given, dict) and given.get("type") == kind


def _at(where: str, what: str) -> str:
    return f"{what} [json-pointer:{where}]"


RULES: dict[str, Callable[[Json, str], Complaints]] = {
    "plain_text": _about_text,
    "mrkdwn": _about_text,
    "section": _about_section,
    "actions": _about_actions,
    "input": _about_input,
    "header": _about_header,
    "button": _about_button,
    "plain_text_input": _about_text_input,
}
