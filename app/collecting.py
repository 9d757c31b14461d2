"""The garbage collector in a command that reads a long log: values that are folded hold no cycles."""

import gc

NEW_VALUES = 20_000
"""So many new values before the youngest are looked at: Python's 700 are passed some hundred times a second."""


def collect_rarely() -> None:
    """Look for cycles seldom from now on, and never in what is loaded already."""
    gc.freeze()
    gc.set_threshold(NEW_VALUES, *gc.get_threshold()[1:])
