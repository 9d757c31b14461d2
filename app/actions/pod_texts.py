"""How pods are told of in summaries and messages."""

from collections.abc import Sequence


def count(number: int, noun: str = "pod") -> str:
    """``1 pod``, ``3 pods``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def some(names: Sequence[str], shown: int = 10) -> str:
    """The first names, and how many more there are."""
    more = len(names) - shown
    told = ", ".join(names[:shown])
    return f"{told} and {more} more" if more > 0 else told
