"""``$NAME`` and ``${NAME}``: how a runbook names a secret. The values are known to the executor alone (design §7)."""

import re
from collections.abc import Iterator

from pydantic import JsonValue

REFERENCE = re.compile(r"\$(?:\$|\{([A-Z_][A-Z0-9_]*)\}|([A-Z_][A-Z0-9_]*))")
"""A reference in group 1 or 2, or ``$$`` for a dollar sign."""
LITERAL = re.compile(r"\$\$|\$\{[A-Z_][A-Z0-9_]*\}|\$([A-Z_][A-Z0-9_]*)|\$")


def names_in(value: JsonValue) -> Iterator[str]:
    """The secrets that the strings of a JSON value ask for, in the order they stand; keys ask for none."""
    match value:
        case str():
            yield from (name for found in REFERENCE.finditer(value) if (name := found[1] or found[2]))
        case dict():
            for inner in value.values():
                yield from names_in(inner)
        case list():
            for inner in value:
                yield from names_in(inner)
        case _:
            pass


def as_plain(text: str) -> str:
    """Foreign text that will stand beside references: it can name no secret."""
    return text.replace("$", "$$")


def as_written(text: str) -> str:
    """What a template's author wrote: references in braces, so that what is rendered beside them cannot change them."""
    return LITERAL.sub(lambda found: f"${{{found[1]}}}" if found[1] else "$$" if found[0] == "$" else found[0], text)
