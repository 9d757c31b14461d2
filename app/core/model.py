"""The one model configuration, and how a validation error becomes problems with paths."""

import contextlib
import difflib
import hashlib
import json
import types
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin

import orjson
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, JsonValue, TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from app.core.errors import Problem, RecordRefused

FIRST_INSTANT, LAST_INSTANT = datetime(1900, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)
FIRST_INSTANT_S, LAST_INSTANT_S = FIRST_INSTANT.timestamp(), LAST_INSTANT.timestamp()


def _within_reach(value: datetime) -> datetime:
    """A moment that deadlines can be counted from, in any time zone."""
    surely = FIRST_INSTANT.year < value.year < LAST_INSTANT.year - 1  # comparing moments of two zones takes longer
    if not surely and not FIRST_INSTANT <= value < LAST_INSTANT:
        raise ValueError("must be in the years 1900 to 8999")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_within_reach)]
"""A moment: always aware; written as RFC 3339."""


def moment_at(epoch_s: float) -> datetime | None:
    """The moment so many seconds after the epoch, aware UTC; None where it is outside the years of an Instant."""
    return datetime.fromtimestamp(epoch_s, UTC) if FIRST_INSTANT_S <= epoch_s < LAST_INSTANT_S else None


JsonObject = dict[str, JsonValue]
PLAIN = frozenset({str, int, float, bool, type(None)})
MAX_PROBLEMS = 100
MAX_RECORD_DEPTH = 100  # of a record on our own topics: some hold what else is at most 32 deep
MAX_RECORD_PROBLEMS, MAX_TOLD = 20, 200  # of a record: how many are told, and how many characters of each


with contextlib.suppress(AttributeError):
    # It is there for private attributes, which no model here has, and for extra fields by their name, as which nobody
    # reads them. With it CPython cannot take the short way to any attribute of any model: 40 ns a read instead of 10.
    delattr(BaseModel, "__getattr__")

_new = object.__new__
_set_values = BaseModel.__dict__["__dict__"].__set__
_set_given = BaseModel.__dict__["__pydantic_fields_set__"].__set__
_set_extra = BaseModel.__dict__["__pydantic_extra__"].__set__
_set_private = BaseModel.__dict__["__pydantic_private__"].__set__


class Frozen(BaseModel):
    """A value: immutable, closed, finite numbers only."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """As pydantic's, in a fifth of its time: a fold copies several values for each event."""
        if deep or self.__pydantic_extra__ is not None or self.__pydantic_private__ is not None:
            return super().model_copy(update=update, deep=deep)
        return replaced(self, {} if update is None else update)


Value = TypeVar("Value", bound=Frozen)
Made = TypeVar("Made", bound=BaseModel)


def replaced(value: Value, changes: Mapping[str, Any]) -> Value:
    """The value with these fields changed, unchecked; for models that have no other fields than their own.

    Which fields were given is not kept up: nobody asks, and noting it would take as long as the copy.
    """
    return made(type(value), {**value.__dict__, **changes}, value.__pydantic_fields_set__)


def made(kind: type[Made], values: dict[str, Any], given: set[str]) -> Made:
    """A value with these values of all its fields, in their order, unchecked; they are its own from now on.

    given: the names of the fields that were not left out.
    """
    value = _new(kind)
    _set_values(value, values)
    _set_given(value, given)
    _set_extra(value, None)
    _set_private(value, None)
    return value


def canonical(value: object) -> str:
    """JSON text that is the same for equal values: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: object) -> str:
    """SHA-256, in hex, of the canonical JSON of a JSON-able value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def problems_of(error: ValidationError, root: type[BaseModel]) -> list[Problem]:
    """What pydantic found, each with a readable path and, for an unknown field, the nearest known one.

    At most 100: more are only counted. A list that is too short only because its entries are wrong is not told.
    """
    details = error.errors(include_url=False)
    wrong = {detail["loc"][:-depth] for detail in details for depth in range(1, len(detail["loc"]))}
    told = [detail for detail in details if detail["type"] != "too_short" or detail["loc"] not in wrong]
    problems = [_problem(detail, root) for detail in told[:MAX_PROBLEMS]]
    more = len(told) - len(problems)
    return [*problems, Problem("", f"and {more} more problems")] if more else problems


def _problem(detail: ErrorDetails, root: type[BaseModel]) -> Problem:
    parts, owner = _walk(detail["loc"], root)
    path = _path(parts)
    if detail["type"] == "extra_forbidden":
        names = sorted(owner.model_fields) if owner else []
        near = difflib.get_close_matches(str(parts[-1]), names, n=1, cutoff=0.5)
        return Problem(path, "unknown field", near[0] if near else None)
    if detail["type"] == "union_tag_invalid":
        given, known = detail["ctx"]["tag"], str(detail["ctx"]["expected_tags"]).replace("'", "").split(", ")
        near = difflib.get_close_matches(given, known, n=1, cutoff=0.5)
        field = str(detail["ctx"]["discriminator"]).strip("'")
        where = f"{path}.{field}" if path else field
        return Problem(where, f"'{given}' is not one of {', '.join(known)}", near[0] if near else None)
    if detail["type"] == "union_tag_not_found":
        field = str(detail["ctx"]["discriminator"]).strip("'")
        return Problem(f"{path}.{field}" if path else field, "field is required")
    return Problem(path, _message(detail))


def _message(detail: ErrorDetails) -> str:
    if detail["type"] == "missing":
        return "field is required"
    text = detail["msg"].removeprefix("Value error, ")
    return text[:1].lower() + text[1:]


def _path(parts: list[int | str]) -> str:
    text = ""
    for part in parts:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def _walk(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[list[int | str], type[BaseModel] | None]:
    """Follow pydantic's location through the models; drop the union tags it mixes in."""
    parts: list[int | str] = []
    kinds: list[Any] = [root]
    owner: type[BaseModel] | None = root
    for part in loc:
        models = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)]
        tagged = [model for model in models if len(models) > 1 and _carries_tag(model, part)]
        if tagged:
            kinds = list(tagged)
            continue
        owner = next((model for model in models if part in model.model_fields), models[0] if models else None)
        parts.append(part)
        kinds = list(_inside(owner, part, kinds))
    return parts, owner


def _carries_tag(model: type[BaseModel], tag: int | str) -> bool:
    return any(tag in get_args(field.annotation) for field in model.model_fields.values())


def _inside(owner: type[BaseModel] | None, part: int | str, kinds: list[Any]) -> Iterator[Any]:
    if owner is not None:
        if part in owner.model_fields:
            yield from _flat(owner.model_fields[str(part)].annotation)
        return
    for kind in kinds:
        for argument in get_args(kind):
            yield from _flat(argument)


def _flat(annotation: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _flat(get_args(annotation)[0])
    elif origin in {Union, types.UnionType}:
        for argument in get_args(annotation):
            yield from _flat(argument)
    else:
        yield annotation


def as_text(text: str) -> str:
    """The text with lone surrogates written as escapes: no record can hold them."""
    return text.encode("utf-8", errors="backslashreplace").decode()


def read_record(raw: bytes | None, adapter: TypeAdapter[Any]) -> Any:
    """Read one record of our own topics.

    Raises RecordRefused with the paths that are wrong, some of them where there are many.
    """
    return validated(read_document(raw), adapter)


def read_document(raw: bytes | None) -> Any:
    """The JSON in one record of our own topics. Raises RecordRefused."""
    if raw is None:
        raise RecordRefused([Problem("", "the record has no value")])
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise RecordRefused([Problem("", f"not JSON: {error}")]) from error
    # counting brackets is cheap, and there are never fewer of them than levels
    if raw.count(b"{") + raw.count(b"[") > MAX_RECORD_DEPTH and depth_of(body, MAX_RECORD_DEPTH) > MAX_RECORD_DEPTH:
        raise RecordRefused([Problem("", f"nested deeper than {MAX_RECORD_DEPTH}")])
    return body


def validated(body: Any, adapter: TypeAdapter[Any]) -> Any:
    """What the JSON of a record says. Raises RecordRefused as ``read_record``."""
    try:
        return adapter.validator.validate_python(body)  # TypeAdapter's own wrapper costs as much as a small value
    except ValidationError as error:
        raise RecordRefused(_record_problems(error)) from error


def _record_problems(error: ValidationError) -> list[Problem]:
    details = error.errors(include_url=False, include_context=False, include_input=False)
    problems = [
        Problem(".".join(map(str, detail["loc"]))[:MAX_TOLD], detail["msg"][:MAX_TOLD])
        for detail in details[:MAX_RECORD_PROBLEMS]
    ]
    more = len(details) - len(problems)
    return [*problems, Problem("", f"and {more} more problems")] if more else problems


def depth_of(value: object, limit: int) -> int:
    """How deep objects and arrays are nested; stops counting at limit + 1."""
    deepest, level = 0, _that_hold_more([value])
    while level and deepest <= limit:
        deepest += 1
        level = [
            one for outer in level for one in _that_hold_more(outer if isinstance(outer, list) else outer.values())
        ]
    return deepest


def _that_hold_more(values: Iterable[object]) -> list[Any]:
    return [value for value in values if type(value) not in PLAIN and isinstance(value, Mapping | list)]
