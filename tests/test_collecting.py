"""A process that folds a log looks for cycles rarely, and never in what is loaded."""

import asyncio
import gc
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest

from app.cli import _work
from app.collecting import NEW_VALUES, collect_rarely
from app.core.errors import RunbooksError


@pytest.fixture
def thresholds():
    before = gc.get_threshold()
    gc.unfreeze()
    yield before
    gc.unfreeze()
    gc.set_threshold(*before)


def is_rare(before):
    return gc.isenabled() and gc.get_freeze_count() > 0 and gc.get_threshold() == (NEW_VALUES, *before[1:])


def test_cycles_are_still_collected_but_rarely(thresholds):
    assert not is_rare(thresholds)
    collect_rarely()
    assert is_rare(thresholds)


async def test_so_does_a_worker_as_soon_as_it_runs(thresholds):
    class Failing:
        @asynccontextmanager
        async def running(self):
            failure = asyncio.get_running_loop().create_future()
            failure.set_result(ValueError("out of order"))
            assert not is_rare(thresholds)
            yield SimpleNamespace(failure=failure)

    with pytest.raises(RunbooksError, match="out of order"):
        await _work(Failing())
    assert is_rare(thresholds)
