"""How long to wait between two looks at something that takes its time."""

from collections.abc import Iterator

FIRST_S = 0.1
LONGEST_S = 2.0


def growing() -> Iterator[float]:
    """Seconds, without end: short at first, doubling up to 2."""
    pause = FIRST_S
    while True:
        yield pause
        pause = min(pause * 2, LONGEST_S)
