"""Real parts that a machine may lack: what is missing is said once, loudly, at the end of the run."""

from typing import NoReturn

import pytest

MISSING: set[str] = set()


def missing_part(name: str) -> NoReturn:
    """Skip the test, and have the run say at its end that this part was missing."""
    MISSING.add(name)
    pytest.skip(f"{name} is not on this machine")
