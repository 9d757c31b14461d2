"""What is kept of what a step gave back: secrets masked, at most 64 KiB as JSON."""

from collections.abc import Mapping

from pydantic import JsonValue

from app.actions.scene import Scene
from app.core.model import canonical


def masked_text(scene: Scene, text: str, *, cut: bool) -> str:
    """The text with the tenant's secrets masked; cut: its end may be the beginning of one."""
    secrets = scene.clients.secrets
    return secrets.mask_cut(scene.tenant, text) if cut else secrets.mask(scene.tenant, text)


def fitted(value: JsonValue, limit: int) -> tuple[JsonValue, bool]:
    """The value if its JSON has at most ``limit`` bytes, else the beginning of it as text; and whether it was cut."""
    if size(value) <= limit:
        return value, False
    text = value if isinstance(value, str) else canonical(value)
    while (found := size(text)) > limit:
        text = text[: len(text) * limit // (found + 1)]
    return text, True


def size(value: JsonValue | Mapping[str, JsonValue]) -> int:
    """How many bytes its JSON has."""
    return len(canonical(value).encode())
