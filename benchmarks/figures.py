"""What `make bench` collects: figures with their sides, measured in turn in one run, and the ratio between them.

A part (benchmarks/PART.py) reads its command line with `part_arguments` and ends with `report`.
"""

import argparse
import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    sides: the values of all rounds by side, in `unit`; the first side is ours, the second what it stands beside, any
    further ones are shown only. A figure without a second side is shown without a ratio. A side with no values could
    not be measured here (`note` says why): then there is neither a ratio nor a verdict.
    goal: what the ratio (ours by beside) or the value should be, in words, with `at_most` or `at_least` for the machine
    (of the ratio where there is one, else of our median); neither where the figure is only shown.
    note: what a reader must know to read it right, e.g. what the peer does not do.
    """

    name: str
    unit: str
    sides: dict[str, list[float]]
    goal: str = ""
    at_most: float | None = None
    at_least: float | None = None
    note: str = ""
    more: dict[str, float] = field(default_factory=dict)

    @property
    def ratio(self) -> float | None:
        """Median of ours by median of what it stands beside; None where there is nothing beside it."""
        if len(self.sides) < 2 or not self.is_complete:
            return None
        ours, beside = (statistics.median(values) for values in list(self.sides.values())[:2])
        return ours / beside if beside else None

    @property
    def is_complete(self) -> bool:
        """Whether ours, and what it stands beside where there is such a thing, was measured."""
        return bool(self.sides) and all(list(self.sides.values())[:2])

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none, or where it could not be measured."""
        if not self.is_complete or (self.at_most is None and self.at_least is None):
            return None
        ratio = self.ratio
        value = statistics.median(next(iter(self.sides.values()))) if ratio is None else ratio
        return (self.at_most is None or value <= self.at_most) and (self.at_least is None or value >= self.at_least)


def write_figures(path: Path, figures: Iterable[Figure]) -> None:
    """Write figures as JSON, for the suite that asked for them."""
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=1))


def read_figures(path: Path) -> list[Figure]:
    """The figures of a file that `write_figures` wrote."""
    return [Figure(**row) for row in json.loads(path.read_text())]


@dataclass(frozen=True)
class PartArguments:
    """What a part is asked.

    rounds: how often each side is measured; the sides take turns.
    short: small numbers, a few seconds in all: it shows that the part still runs, not how fast anything is.
    figures: where the suite reads the figures; None when a person runs the part.
    """

    rounds: int
    short: bool
    figures: Path | None


def part_arguments(about: str, rounds: int = 3) -> PartArguments:
    """Read the command line of a part; about: its docstring, rounds: how many it takes to be sure enough."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=None, help=f"rounds of each side, {rounds} when not given")
    parser.add_argument("--short", action="store_true", help="small numbers: does it still run?")
    parser.add_argument("--figures", type=Path, help="write the figures here, as JSON")
    given = parser.parse_args()
    return PartArguments(given.rounds or (1 if given.short else rounds), given.short, given.figures)


def report(arguments: PartArguments, figures: Iterable[Figure]) -> None:
    """What a part ends with: its table for a person, its figures for the suite."""
    figures = list(figures)
    print(table(figures), *(f"{figure.name}: {figure.note}" for figure in figures if figure.note), sep="\n", flush=True)
    if arguments.figures is not None:
        write_figures(arguments.figures, figures)


COLUMNS = ("figure", "ours: median [min..max]", "beside it: median [min..max]", "ratio", "goal", "met")


def table(figures: Iterable[Figure], failures: Iterable[str] = ()) -> str:
    """The figures as one Markdown table, ended by what failed."""
    empty = [""] * (len(COLUMNS) - 2)
    rows = [COLUMNS, *(_row(figure) for figure in figures), *((one, *empty, "**failed**") for one in failures)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(COLUMNS))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


def _row(figure: Figure) -> tuple[str, ...]:
    ours, *others = figure.sides.items()
    beside = "; ".join(f"{name} {_spread(values)}" for name, values in others)
    ratio = "" if figure.ratio is None else f"{figure.ratio:.3g}"
    met = {True: "yes", False: "**no**", None: "" if figure.is_complete else "not measured"}[figure.met]
    return (f"{figure.name} ({figure.unit})", _spread(ours[1]), beside, ratio, figure.goal, met)


def _spread(values: list[float]) -> str:
    if not values:
        return "not measured"
    return f"{shown_number(statistics.median(values))} [{shown_number(min(values))}..{shown_number(max(values))}]"


def shown_number(value: float) -> str:
    """Three figures that count, and thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
