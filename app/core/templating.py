"""Parameters in Jinja2: sandboxed, strict about what is undefined, bounded in size.

``$NAME`` is not a template: secrets are resolved where they are sent, and never here. Where they will be, only what the
runbook's author wrote can name one: what an expression gives is made plain first.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateSyntaxError, Undefined, pass_context
from jinja2.exceptions import SecurityError, UndefinedError
from jinja2.exceptions import TemplateError as JinjaError
from jinja2.ext import Extension
from jinja2.lexer import TOKEN_DATA, Token, TokenStream
from jinja2.runtime import Context
from pydantic import JsonValue

from app.core.errors import NotKnownYet, TemplateError
from app.core.secret_references import as_plain, as_written
from app.core.template_sandbox import Sandbox
from app.core.template_work import WORK, Work, work_of

WORD_BEGINS, WORD_ENDS = "\x02", "\x03"
"""Around what an expression gave, in a text that is still to be taken apart; no value can hold them."""
MAX_RENDERED = 64 * 1024
UNKNOWN_END = ": known after it runs>>"


def _not_known(unknown: "Unknown", *_: object) -> Any:
    raise NotKnownYet(f"{unknown} decides")


class Unknown:
    """A value that only the real run will know; a dry run shows it by its path.

    What would have to look into it raises NotKnownYet: to loop over it, to compare or to count it.
    """

    def __init__(self, path: str) -> None:
        """Remember the path, as ``steps[0].output``."""
        self._path = path

    def __getattr__(self, name: str) -> "Unknown":
        if name.startswith("__"):
            raise AttributeError(name)
        return Unknown(f"{self._path}.{name}")

    def __getitem__(self, key: object) -> "Unknown":
        return Unknown(f"{self._path}[{key!r}]")

    def __str__(self) -> str:
        return f"<<{self._path}{UNKNOWN_END}"

    __html__ = __str__
    __iter__ = __bool__ = __len__ = __contains__ = __int__ = __float__ = __index__ = _not_known
    __lt__ = __le__ = __gt__ = __ge__ = __eq__ = __ne__ = __hash__ = _not_known
    __add__ = __radd__ = __sub__ = __rsub__ = __mul__ = __rmul__ = __truediv__ = __rtruediv__ = _not_known
    __floordiv__ = __rfloordiv__ = __mod__ = __rmod__ = __pow__ = __rpow__ = __neg__ = __pos__ = __call__ = _not_known


class _References(Extension):
    """Keeps the references to secrets that a template's author wrote, and no others."""

    def filter_stream(self, stream: TokenStream) -> Iterator[Token]:
        for token in stream:
            is_data = token.type == TOKEN_DATA
            yield Token(token.lineno, token.type, as_written(token.value)) if is_data else token


def _made_plain(value: Any) -> Any:
    """An expression's value, as a text that names no secret."""
    return value if isinstance(value, Undefined) else as_plain(_said(value))


def _plain(value: Any) -> Any:
    """An expression's value, as a text."""
    return value if isinstance(value, Undefined) else _said(value)


def _said(value: Any) -> str:
    if callable(value) and not isinstance(value, Unknown):
        raise SecurityError("the expression gives a method, not a value")
    return str(value)


def _json_of(value: object) -> Any:
    """What the filter ``tojson`` makes of a value that is no JSON."""
    if isinstance(value, Unknown):
        return _not_known(value)
    if isinstance(value, Undefined):
        return str(value)  # which raises that it is undefined
    raise TypeError(f"{type(value).__name__} is no JSON")


def _marked(value: Any) -> Any:
    """An expression's value between marks, without any of its own."""
    if isinstance(value, Undefined):
        return value
    return WORD_BEGINS + _said(value).replace(WORD_BEGINS, "").replace(WORD_ENDS, "") + WORD_ENDS


def _environment(finalize: Callable[[Any], Any], **options: Any) -> Sandbox:
    @pass_context
    def charged(context: Context, value: Any) -> Any:
        work_of(context).charge_for(value)
        return finalize(value)

    environment = Sandbox(undefined=StrictUndefined, finalize=charged, **options)
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "default": _json_of}
    return environment


_PLAIN = _environment(_plain)
_WITH_SECRETS = _environment(_made_plain, extensions=[_References])
_IN_PIECES = _environment(_marked)


def is_template(text: str) -> bool:
    """Whether the text holds a template."""
    return "{{" in text or "{%" in text


@lru_cache(maxsize=4096)
def _compiled(source: str, environment: Sandbox = _PLAIN) -> Template:
    try:
        return environment.from_string(source)
    except TemplateSyntaxError as error:
        raise TemplateError(f"is not a template: {error.message}, line {error.lineno}") from error
    except (SyntaxError, RecursionError, MemoryError, ValueError, OverflowError) as error:
        # Python's own compiler has limits, and Jinja does not translate what it says when they are met
        raise TemplateError("is not a template: it is nested too deep, or holds a number that is too long") from error


def check_template(text: str) -> None:
    """Compile the text when it is a template.

    Raises TemplateError.
    """
    if is_template(text):
        _compiled(text)


def render(
    value: JsonValue,
    variables: Mapping[str, Any],
    path: str = "",
    *,
    with_secrets: bool = False,
    work: Work | None = None,
) -> JsonValue:
    """Render every string inside a JSON value, keys left as they are.

    with_secrets: references to secrets will be resolved in the result; only those that the templates hold stay some.
    work: what all templates of a step may cost together; None is one of its own for this value.
    Raises TemplateError naming the path below the value.
    """
    work = work or Work()
    match value:
        case str():
            environment = _WITH_SECRETS if with_secrets else _PLAIN
            return _text(value, variables, path, environment, work) if is_template(value) else value
        case dict():
            return {
                key: render(inner, variables, f"{path}.{key}" if path else key, with_secrets=with_secrets, work=work)
                for key, inner in value.items()
            }
        case list():
            return [
                render(inner, variables, f"{path}[{index}]", with_secrets=with_secrets, work=work)
                for index, inner in enumerate(value)
            ]
        case _:
            return value


def render_pieces(source: str, variables: Mapping[str, Any], path: str) -> list[str]:
    """The rendered text in pieces: what the template's author wrote, and in every second place what an expression gave.

    Raises TemplateError naming the path.
    """
    text = _text(source, variables, path, _IN_PIECES, Work()) if is_template(source) else source
    return [piece for part in text.split(WORD_BEGINS) for piece in part.split(WORD_ENDS, 1)]


def _text(source: str, variables: Mapping[str, Any], path: str, environment: Sandbox, work: Work) -> str:
    where = f"{path}: " if path else ""
    pieces: list[str] = []
    size = 0
    try:
        for piece in _compiled(source, environment).generate({**variables, WORK: work}):
            size += len(piece)
            if size > MAX_RENDERED:
                raise TemplateError(f"{where}renders to more than {MAX_RENDERED} characters")
            pieces.append(piece)
    except UndefinedError as error:
        raise TemplateError(f"{where}{error.message}") from error
    except RecursionError as error:
        raise TemplateError(f"{where}a value is nested too deep") from error
    except (JinjaError, TypeError, ValueError, ArithmeticError, LookupError, AttributeError) as error:
        raise TemplateError(f"{where}{type(error).__name__}: {error}") from error
    return "".join(pieces)
