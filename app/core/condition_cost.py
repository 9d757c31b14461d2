"""What a condition may cost, judged before it runs: the library cannot be stopped once it has begun.

The library itself counts the steps of loops (10,000 for one condition, however they are nested) and bounds how deep an
expression is nested. What it does not count is what each step looks at: a whole list, or a text that is put together.
So the variables that the text names are weighed, those inside a loop as often as the loop may turn.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from pydantic import JsonValue

MAX_STEPS = 10_000  # of all loops of a condition, by the library itself
MAX_COST = 30_000_000  # units of about a character: a tenth of a second, a second at the worst
MAX_DATA = 1_500_000  # units: more than all that a condition ever sees
NODE = 16  # units: an entry of a list or an object
LOOPS = frozenset({"all", "exists", "exists_one", "map", "filter"})
TOKEN = re.compile(
    r"""
    //[^\n]*
    | [rRbB]{0,2} (?: \"{3}.*?\"{3} | '{3}.*?'{3} | "(?:\\.|[^"\\])*" | '(?:\\.|[^'\\])*' )
    | (?P<name>[A-Za-z_][A-Za-z0-9_]*)
    | (?P<mark>\S)
    """,
    re.VERBOSE | re.DOTALL,
)
"""A raw text that ends in a backslash is read too far: then more is charged, or a name is missed that is a text's."""
NOT_NAMES = frozenset({"true", "false", "null", "in"})


class Reference(NamedTuple):
    """A variable that the text names: inside how many loops, and whether one of them brings it."""

    name: str
    depth: int
    brought: bool


class Shape(NamedTuple):
    """What of a condition's text decides its cost; entries: the most that a list written in it can have."""

    references: tuple[Reference, ...]
    entries: int

    def why_too_costly(self, variables: Mapping[str, JsonValue]) -> str | None:
        """Why it is not run over these variables; None when it may be."""
        loops = any(one.depth for one in self.references)
        if not loops and len(self.references) * MAX_DATA <= MAX_COST:
            return None
        named = {one.name for one in self.references} & variables.keys()
        weights = {name: weight(variables[name]) for name in named}
        total = sum(weigh for weigh, _ in weights.values())
        longest = max([self.entries, *(length for _, length in weights.values())])
        cost = 0
        for name, depth, brought in self.references:
            turns = min(MAX_STEPS, longest ** (depth - brought))
            cost += turns * (NODE + (total if brought else weights.get(name, (0, 0))[0]))
        return f"would look at too much data for a condition ({cost} units of {MAX_COST})" if cost > MAX_COST else None


def shape_of(source: str) -> Shape:
    """The shape of a condition that compiles."""
    return Shape(tuple(_references(list(TOKEN.finditer(source)))), source.count(",") + 1)


def _references(tokens: list[re.Match[str]]) -> Iterator[Reference]:
    open_loops: list[str | None] = []  # for each open parenthesis the variable that its loop brings, None for no loop
    texts = ["", "", *(token[0] for token in tokens), "", ""]
    for place, token in enumerate(tokens, start=2):
        text, before, after = texts[place], texts[place - 1], texts[place + 1]
        if text == "(":
            loop = before in LOOPS and texts[place - 2] == "."
            open_loops.append(after if loop else None)
        elif text == ")" and open_loops:
            open_loops.pop()
        elif token["name"] and text not in NOT_NAMES and after != "(" and not _is_field(before, texts[place - 2]):
            brought = [name for name in open_loops if name is not None]
            yield Reference(text, len(brought), text in brought)


def _is_field(before: str, earlier: str) -> bool:
    """Whether a name follows a value and a dot; a dot without a value before it begins a name of its own."""
    return before == "." and bool(re.search(r"[\w\])}\"'`]$", earlier))


def weight(value: JsonValue) -> tuple[int, int]:
    """Of a value the units it weighs, and the length of its longest list or object."""
    units, longest, waiting = 0, 0, [value]
    while waiting:
        one = waiting.pop()
        units += NODE
        match one:
            case str():
                units += len(one)
            case list():
                longest = max(longest, len(one))
                waiting.extend(one)
            case dict():
                longest = max(longest, len(one))
                waiting.extend(one.values())
                units += sum(map(len, one))
            case _:
                pass
    return units, longest
