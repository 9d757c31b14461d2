"""What templates give to a shell command: never text of the command, always a word of its own.

Each expression becomes a parameter, ``"${1}"``, and its value the argument that fills it in. The shell itself then
keeps any value from being read as part of the command, whatever stands in it.
"""

import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from app.core.errors import TemplateError
from app.core.templating import render_pieces

PARAMETER = re.compile(r'("?)\$\{([1-9][0-9]?)\}("?)')
MAX_WORDS = 99


def render_command(
    source: str, variables: Mapping[str, Any], given: Sequence[str], path: str
) -> tuple[str, tuple[str, ...]]:
    """The command with parameters where expressions stood, and all its arguments: those given, then the values.

    Raises TemplateError naming the path.
    """
    pieces = render_pieces(source, variables, path)
    command, quote = pieces[0], _open_quote(pieces[0], "")
    arguments = list(given)
    for value, written in zip(pieces[1::2], pieces[2::2], strict=True):
        arguments.append(_word(value, len(arguments), path))
        command += _parameter(len(arguments), quote, path) + written
        quote = _open_quote(written, quote)
    return command, tuple(arguments)


def shown(command: str, arguments: Sequence[str]) -> str:
    """The command as a person reads it: the values in their places."""

    def fill(found: re.Match[str]) -> str:
        number = int(found[2])
        if number > len(arguments):
            return found[0]
        value = arguments[number - 1]
        return shlex.quote(value) if found[1] and found[3] else f"{found[1]}{value}{found[3]}"

    return PARAMETER.sub(fill, command)


def _word(value: str, before: int, path: str) -> str:
    if "\x00" in value:
        raise TemplateError(f"{path}: a value holds a NUL, and no argument can")
    if before >= MAX_WORDS:
        raise TemplateError(f"{path}: more than {MAX_WORDS} arguments")
    return value


def _parameter(number: int, quote: str, path: str) -> str:
    """How the shell is told to fill it in as one word."""
    if quote == "'":
        raise TemplateError(f"{path}: a template stands in single quotes, where the shell fills nothing in: use double")
    return f"${{{number}}}" if quote else f'"${{{number}}}"'


def _open_quote(text: str, quote: str) -> str:
    """The quote that is open at the end of the text; quote is the one open at its beginning, empty for none.

    It only decides whether a word is split at blanks: what a value says is never read as a command.
    """
    escaped = False
    for char in text:
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
    return quote
