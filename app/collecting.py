"""The garbage collector of a process that folds a log: values hold no cycles, and what is loaded stays."""

import gc

NEW_VALUES = 20_000
"""So many new values before the youngest are looked at: Python's 700 are passed some hundred times a second."""


def collect_rarely() -> None:
    """Look for cycles seldom from now on, and never in what is loaded already.

    To look through all that a worker has loaded takes a tenth of a second and more, in which nothing else happens.
    """
    gc.freeze()
    gc.set_threshold(NEW_VALUES, *gc.get_threshold()[1:])
