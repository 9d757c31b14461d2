"""How a secret may come back: as it is, or as some encoder on the way wrote it.

A form is a sequence of units, one for each character of the value, and a unit holds all ways to write it: servers mix
them. Letters and digits have one way, so a pattern of a form is hardly longer than the value.
"""

import base64
import html
import json
import re
from urllib.parse import quote_plus

Unit = tuple[str, ...]
Form = tuple[Unit, ...]

MIN_LINE = 8  # a shorter line of a longer secret says little, and may be an ordinary word
ALPHABETS = (b"+/", b"-_")
LONGEST_WAY = 24  # characters that one character of a value is ever written as


def forms_of(value: str) -> list[Form]:
    """The value itself, each long line of it, and it in base64, alone or between other bytes."""
    lines = {line for one in value.splitlines() if len(line := one.strip()) >= MIN_LINE}
    written = [tuple(map(_unit, text)) for text in sorted({value, value.strip(), *lines} - {""})]
    return [*written, *(tuple((char,) for char in text) for text in sorted(_in_base64(value)))]


def pattern_of(form: Form) -> str:
    """The regular expression that finds the form.

    It captures nothing, and every branch of it begins with a character: only so is a search for many forms fast.
    """
    rest = "".join(_any_of(unit) for unit in form[1:])
    return "|".join(re.escape(way) + rest for way in form[0])


def _any_of(unit: Unit) -> str:
    return re.escape(unit[0]) if len(unit) == 1 else f"(?:{'|'.join(map(re.escape, unit))})"


def begun_at_end(form: Form, text: str) -> int:
    """How many characters at the text's end may be a form's beginning that was cut off."""
    longest = sum(len(max(unit, key=len)) for unit in form)
    return next(
        (len(text) - at for at in range(max(0, len(text) - longest), len(text)) if _runs_out(form, text, at)), 0
    )


def _runs_out(form: Form, text: str, at: int) -> bool:
    """Whether the text, read from there, follows the form until the text ends."""
    for unit in form:
        rest = text[at : at + LONGEST_WAY]
        if any(way.startswith(rest) for way in unit) and at + len(rest) == len(text):
            return True
        way = next((way for way in unit if rest.startswith(way)), None)
        if way is None:
            return False
        at += len(way)
    return False


def _unit(char: str) -> Unit:
    """All ways to write one character, the longest first."""
    if char.isascii() and (char.isalnum() or char in "_.~-"):
        return (char,)
    raw = char.encode()
    in_json = json.dumps(char)[1:-1]
    percent = "".join(f"%{byte:02X}" for byte in raw)
    hexes = "".join(f"\\u{unit:04x}" for unit in _utf16(char))
    ways = {
        char,
        in_json,
        json.dumps(in_json)[1:-1],
        "\\" + char,
        hexes,
        percent,
        quote_plus(char),
        html.escape(char),
        f"&#{ord(char)};",
        f"&#x{ord(char):x};",
        "".join(f"\\x{byte:02x}" for byte in raw),
        raw.decode("latin-1"),
    }
    both = ways | {percent.lower(), hexes.upper().replace("\\U", "\\u")}
    return tuple(sorted(both, key=lambda one: (-len(one), one)))


def _utf16(char: str) -> list[int]:
    raw = char.encode("utf-16-be")
    return [int.from_bytes(raw[at : at + 2], "big") for at in range(0, len(raw), 2)]


def _in_base64(value: str) -> set[str]:
    """What base64 makes of the value at each of the three places it may begin at, but for what its neighbours decide.

    With the last character of its own where nothing follows the value.
    """
    raw = value.encode()
    found = set()
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + raw)
        first, last = -(-before * 8 // 6), (before + len(raw)) * 8 // 6
        for part in (whole[first:last], whole[first:].rstrip(b"="), whole[first:]):
            found |= {part.translate(bytes.maketrans(b"+/", alphabet)).decode() for alphabet in ALPHABETS}
    return found
