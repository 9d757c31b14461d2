"""What `make bench` collects: figures with their sides, measured in turn in one run, and the ratio between them."""

import json
import statistics
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    """One row of the table.

    sides: the values of all rounds by side, in `unit`; the first side is ours, the second what it stands beside, any
    further ones are shown only. A figure without a second side is shown without a ratio.
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
        medians = [statistics.median(values) for values in self.sides.values()]
        return medians[0] / medians[1] if len(medians) > 1 and medians[1] else None

    @property
    def met(self) -> bool | None:
        """Whether the goal is met; None where there is none."""
        if self.at_most is None and self.at_least is None:
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
