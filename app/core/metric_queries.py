"""Query templates: PromQL in which ``{{ metric_name }}`` and ``{{ service_id }}`` stand for what is asked about.

What is filled in can come from an event, so it never becomes a part of the query's text: in quotes it is escaped, in a
regular expression it stands for itself, and outside of quotes only a metric's name may stand.
"""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Any, NamedTuple, Self, assert_never

from pydantic import GetCoreSchemaHandler
from pydantic_core import CoreSchema, core_schema

from app.core.errors import TemplateError

MAX_TEMPLATE = 4096
METRIC_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")
NAMES = ("metric_name", "service_id")
CLOSING = {"(": ")", "[": "]", "{": "}"}
_HOLE = r"(?P<hole>\{\{ \s* (?P<name>[^{}]*?) \s* \}\}) | (?P<open_hole>\{\{)"
_OUTSIDE = re.compile(
    _HOLE
    + r"""| (?P<quote>["'`]) | (?P<regex>[=!]~) | (?P<bracket>[()\[\]{}]) | (?P<blank>\s+ | \#[^\n]*) | (?P<text>.)""",
    re.VERBOSE | re.DOTALL,
)
_IN_QUOTES = re.compile(_HOLE + r"""| (?P<escape>\\.) | (?P<quote>["'`]) | (?P<text>.)""", re.VERBOSE | re.DOTALL)
_IN_BACKTICKS = re.compile(_HOLE + r"""| (?P<quote>`) | (?P<text>.)""", re.VERBOSE | re.DOTALL)
_TOKENS = {"": _OUTSIDE, '"': _IN_QUOTES, "'": _IN_QUOTES, "`": _IN_BACKTICKS}
_SELECTOR = re.compile(
    r"""(?: [a-zA-Z_:][a-zA-Z0-9_:]* \s* )?
    (?: \{ (?: [^"'`{}\#] | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' | `[^`]*` )* \} )?""",
    re.VERBOSE | re.DOTALL,
)


class Place(Enum):
    """Where in the query something is filled in."""

    bare = "bare"
    string = "string"
    regex = "regex"


class Hole(NamedTuple):
    """What is filled in, and where."""

    name: str
    place: Place


class QueryTemplate(NamedTuple):
    """A template that was parsed: texts as they stand, and holes."""

    parts: tuple[str | Hole, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse it; raises TemplateError that says what is wrong."""
        if not text.strip():
            raise TemplateError("the query is empty")
        if len(text) > MAX_TEMPLATE:
            raise TemplateError(f"the query has more than {MAX_TEMPLATE} characters")
        return cls(tuple(_Parser().parts_of(text)))

    @classmethod
    def __get_pydantic_core_schema__(cls, _source: Any, _handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(cls._validated, core_schema.str_schema(strict=True))

    @classmethod
    def _validated(cls, text: str) -> Self:
        try:
            return cls.parse(text)
        except TemplateError as error:
            raise ValueError(str(error)) from error

    def query(self, metric_name: str, service_id: str) -> str:
        """The query about one metric of one service.

        Raises TemplateError when the metric's name cannot stand where it is wanted, or the service's is empty: a
        matcher of an empty label takes series of no service at all.
        """
        values = {"metric_name": metric_name, "service_id": service_id}
        return "".join(part if isinstance(part, str) else _filled_in(part, values[part.name]) for part in self.parts)


def _filled_in(hole: Hole, value: str) -> str:
    if not value:
        raise TemplateError(f"there is no {hole.name} to ask about: set it in rollback_metric_check")
    match hole.place:
        case Place.bare:
            if METRIC_NAME.fullmatch(value) is None:
                raise TemplateError(
                    f"{value!r} is no metric's name in PromQL: give it a query of its own in the queries file"
                )
            return value
        case Place.string:
            return _escaped(value)
        case Place.regex:
            return _escaped(re.escape(value))
        case _:
            assert_never(hole.place)


def _escaped(text: str) -> str:
    return "".join(one if one.isascii() and one.isprintable() and one not in "\"'\\" else _code(one) for one in text)


def _code(character: str) -> str:
    number = ord(character)
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}" if number < 0x10000 else f"\\U{number:08x}"


def is_selector(query: str) -> bool:
    """Whether the query only selects series, so that ``timestamp()`` of it tells when they were measured."""
    text = query.strip()
    return bool(text) and _SELECTOR.fullmatch(text) is not None


class _Parser:
    """Follows quotes and brackets through a template."""

    def __init__(self) -> None:
        self._quote = ""
        self._after_regex = False
        self._brackets: list[str] = []

    def parts_of(self, text: str) -> Iterator[str | Hole]:
        at = 0
        while found := _TOKENS[self._quote].match(text, at):
            at = found.end()
            match found.lastgroup:
                case "hole":
                    yield self._hole(found["name"])
                    continue
                case "open_hole":
                    raise TemplateError("a {{ is not closed")
                case "quote":
                    self._at_quote(found[0])
                case "regex":
                    self._after_regex = True
                case "bracket":
                    self._at_bracket(found[0])
                case "text" if not self._quote:
                    self._after_regex = False
            yield found[0]
        if self._quote or self._brackets:
            raise TemplateError(f"a {self._quote or self._brackets[-1]} is not closed")

    def _hole(self, name: str) -> Hole:
        if name not in NAMES:
            raise TemplateError(
                f"{{{{ {name} }}}} is not known: there are {{{{ metric_name }}}} and {{{{ service_id }}}}"
            )
        if self._quote == "`":
            raise TemplateError(f"{{{{ {name} }}}} cannot stand between backticks, where nothing can be escaped")
        if self._quote:
            return Hole(name, Place.regex if self._after_regex else Place.string)
        if name == "service_id":
            raise TemplateError('{{ service_id }} must stand in quotes: service_id="{{ service_id }}"')
        return Hole(name, Place.bare)

    def _at_quote(self, quote: str) -> None:
        if not self._quote:
            self._quote = quote
        elif self._quote == quote:
            self._quote, self._after_regex = "", False

    def _at_bracket(self, bracket: str) -> None:
        if bracket in CLOSING:
            self._brackets.append(bracket)
        elif not self._brackets or CLOSING[self._brackets.pop()] != bracket:
            raise TemplateError(f"a {bracket} closes nothing")


DEFAULT_QUERY = '{{ metric_name }}{service_id="{{ service_id }}"}'
