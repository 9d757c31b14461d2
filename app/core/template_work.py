"""What rendering a template may cost: every operation is charged before it is done, and all of them share one purse.

A unit is about what one character costs to copy. Filters, tests and methods are charged for all that they are given and
all that they give; the few that make much of little are judged by what they would make. So neither time nor memory
grows with what a template's author or an event can write.
"""

import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from jinja2 import pass_context
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context
from jinja2.utils import _PassArg

MAX_WORK = 32 * 1024 * 1024
"""For all templates of one step: some tenths of a second at the very worst, and as many characters."""
MAX_TEXT = 2 * 1024 * 1024  # characters of any one value on the way; what a step may give back fits in
MAX_COUNT = 10_000  # of parts that a filter may be asked to make
MAX_WIDTH = 999  # of a formatted field
NODE = 32  # units: a step of a loop, an entry of a list
WORK = "the work of this rendering"
"""Among the variables; no template can write such a name."""
WIDTHS = re.compile(r"%[-+ #0]*(\*|\d*)(?:\.(\*|\d*))?")
SORTING = 10 * NODE  # units an entry: Jinja calls a function of its own for each
AT_ONCE = frozenset({"length", "count", "default", "d"})
"""Filters that look at their value only, however large it is."""
SEVERAL = (list, tuple, dict, set, frozenset)


class Work:
    """What is left of the purse."""

    def __init__(self, units: int = MAX_WORK) -> None:
        """Start with all of it."""
        self.left = units

    def charge(self, units: int) -> None:
        """Take units out; raises SecurityError when they are not there."""
        self.left -= units
        if self.left < 0:
            raise SecurityError("the templates do more work than one step may")

    def charge_for(self, value: object) -> None:
        """Charge for handling a whole value, what it holds twice counted twice.

        Raises SecurityError, also for a text that is too long by itself.
        """
        waiting, left = [value], self.left
        while waiting and left >= 0:
            one = waiting.pop()
            left -= NODE
            if isinstance(one, str):
                left -= len(one)
                if len(one) > MAX_TEXT:
                    raise SecurityError(f"a value has more than {MAX_TEXT} characters on the way")
            elif isinstance(one, dict):
                waiting.extend(one)
                waiting.extend(one.values())
            elif isinstance(one, SEVERAL):
                waiting.extend(one)
        self.charge(self.left - left)

    def counted(self, values: Iterable[Any]) -> Iterable[Any]:
        """The same values, each charged for as one step."""
        if isinstance(values, Collection):
            self.charge(NODE * len(values))
            return values
        return self._one_by_one(values)

    def _one_by_one(self, values: Iterable[Any]) -> Iterator[Any]:
        for value in values:
            self.charge(NODE)
            yield value

    def taken(self, value: Any) -> Any:
        """An argument: a stream of values is counted as it is read, anything else charged for now."""
        if isinstance(value, Iterator):
            return self._one_by_one(value)
        self.charge_for(value)
        return value


def work_of(context: Context) -> Work:
    """The purse of a rendering."""
    work: Work = context.parent[WORK]
    return work


@pass_context
def counted(context: Context, values: Any) -> Any:
    """What a loop goes over."""
    return work_of(context).counted(values) if isinstance(values, Iterable) else values


@pass_context
def charged(context: Context, value: Any) -> Any:
    """A value that is compared, or was cut out of another."""
    return work_of(context).taken(value)


@pass_context
def joined(context: Context, values: list[Any]) -> str:
    """What ``a ~ b ~ c`` gives."""
    work_of(context).charge_for(values)
    return "".join(map(str, values))


def bounded_filter(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """A filter or test that is charged for."""
    wants = _PassArg.from_obj(plain)
    judge = JUDGES.get(name)

    @pass_context
    def run(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        if name in AT_ONCE:
            return plain(*_lead(wants, context), value, *args, **kwargs)
        work = work_of(context)
        if judge is not None:
            value = judge(work, value, args, kwargs)
        given = [work.taken(one) for one in (value, *args)]
        named = {key: work.taken(one) for key, one in kwargs.items()}
        return work.taken(plain(*_lead(wants, context), *given, **named))

    return run


def _lead(wants: _PassArg | None, context: Context) -> tuple[Any, ...]:
    """What a filter of Jinja's is given before its value."""
    match wants:
        case _PassArg.context:
            return (context,)
        case _PassArg.eval_context:
            return (context.eval_ctx,)
        case _PassArg.environment:
            return (context.environment,)
        case _:
            return ()


def bounded_call(work: Work, method: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Call a method of a text, a list or an object, charged for; it is one of METHODS."""
    owner, name = method.__self__, method.__name__  # type: ignore[attr-defined]
    if name not in METHODS.get(type(owner), ()):
        raise SecurityError(f"the method {name} is not available")
    work.taken(owner)
    if isinstance(owner, str) and name in METHOD_JUDGES:
        args = METHOD_JUDGES[name](work, owner, args)
    given = [work.taken(one) for one in args]
    return work.taken(method(*given, **kwargs))


METHODS: Mapping[type, Collection[str]] = {
    str: (
        *("upper", "lower", "casefold", "title", "capitalize", "swapcase", "strip", "lstrip", "rstrip"),
        *("split", "rsplit", "splitlines", "partition", "rpartition", "removeprefix", "removesuffix"),
        *("startswith", "endswith", "find", "rfind", "index", "rindex", "count", "replace", "join"),
        *("isdigit", "isdecimal", "isnumeric", "isalpha", "isalnum", "isspace", "islower", "isupper", "istitle"),
    ),
    dict: ("get", "keys", "values", "items"),
    list: ("index", "count"),
    tuple: ("index", "count"),
}


def _method_replace(work: Work, text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    _replaced(work, text, args, {})
    return args


def _method_join(work: Work, text: str, args: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(_parts(work, one, text) if isinstance(one, Iterable) else one for one in args)


METHOD_JUDGES: Mapping[str, Callable[[Work, str, tuple[Any, ...]], tuple[Any, ...]]] = {
    "replace": _method_replace,
    "join": _method_join,
}


def _parts(work: Work, values: Iterable[Any], between: object) -> list[Any]:
    """The values to be joined, charged for with what stands between them."""
    parts = list(work.counted(values))
    work.charge(len(parts) * len(str(between)))
    work.charge_for(parts)
    return parts


Args = tuple[Any, ...]
Named = Mapping[str, Any]


def _argument(args: Args, kwargs: Named, place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else kwargs.get(name, default)


def _replaced(work: Work, value: Any, args: Args, kwargs: Named) -> Any:
    old, new = (str(_argument(args, kwargs, place, name, "")) for place, name in enumerate(("old", "new")))
    text = str(value)
    work.charge(len(text) + (text.count(old) if old else len(text) + 1) * len(new))
    return value


def _sorted(work: Work, value: Any, _: Args, __: Named) -> Any:
    values = list(work.counted(value)) if isinstance(value, Iterator) else value
    work.charge(SORTING * len(values))
    return values


def _joined_filter(work: Work, value: Any, args: Args, kwargs: Named) -> Any:
    return _parts(work, value, _argument(args, kwargs, 0, "d", "")) if isinstance(value, Iterable) else value


def _formatted(work: Work, value: Any, _: Args, __: Named) -> Any:
    for found in WIDTHS.finditer(str(value)):
        for width in found.groups():
            if width and (width == "*" or len(width) > len(str(MAX_WIDTH))):
                raise SecurityError(f"a field of the format is wider than {MAX_WIDTH}")
    work.charge(str(value).count("%") * 2 * MAX_WIDTH)
    return value


def _wrapped(work: Work, value: Any, args: Args, kwargs: Named) -> Any:
    between = _argument(args, kwargs, 2, "wrapstring", None)
    work.charge(len(str(value)) * (1 + len(str(between or ""))))
    return value


def _number_within(bound: int, name: str, place: int = 0) -> Callable[[Work, Any, Args, Named], Any]:
    def judge(_: Work, value: Any, args: Args, kwargs: Named) -> Any:
        given = _argument(args, kwargs, place, name, 0)
        if isinstance(given, int | float) and not -bound <= given <= bound:
            raise SecurityError(f"{name} is over {bound}")
        return value

    return judge


def _sum(_: Work, value: Any, args: Args, kwargs: Named) -> Any:
    if not isinstance(_argument(args, kwargs, 1, "start", 0), int | float):
        raise SecurityError("only numbers are summed up")
    return value


def _as_json(_: Work, value: Any, args: Args, kwargs: Named) -> Any:
    indent = _argument(args, kwargs, 0, "indent", None)
    if indent is not None and not (isinstance(indent, int) and 0 <= indent <= 8):
        raise SecurityError("indent is over 8")
    return value


JUDGES: Mapping[str, Callable[[Work, Any, Args, Named], Any]] = {
    "batch": _number_within(MAX_COUNT, "linecount"),
    "slice": _number_within(MAX_COUNT, "slices"),
    "round": _number_within(64, "precision"),
    "replace": _replaced,
    "join": _joined_filter,
    "format": _formatted,
    "wordwrap": _wrapped,
    "sum": _sum,
    **dict.fromkeys(("sort", "dictsort", "groupby", "unique", "min", "max"), _sorted),
    "tojson": _as_json,
}
"""What else is asked of filters that make much of little; each gives the value to go on with."""
