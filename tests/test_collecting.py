"""A process that folds a log looks for cycles rarely."""

import gc

from app.collecting import NEW_VALUES, collect_rarely


def test_cycles_are_still_collected_but_rarely():
    before = gc.get_threshold()
    try:
        collect_rarely()
        assert gc.isenabled()
        assert gc.get_threshold() == (NEW_VALUES, *before[1:])
    finally:
        gc.unfreeze()
        gc.set_threshold(*before)
