"""Nothing lost, nothing doubled: a short run with one fault of each kind; ``make faults`` does many long ones."""

import tempfile
from pathlib import Path

import pytest
from faults.plans import FULL, KINDS, SHORT, make_plan
from faults.reporting import shown
from faults.runs import run
from faults.worlds import remove


def test_a_seed_gives_the_same_plan_and_has_each_kind_once_before_any_comes_again():
    plan = make_plan(7, 12, FULL, 6.0)
    assert plan == make_plan(7, 12, FULL, 6.0)
    assert plan != make_plan(8, 12, FULL, 6.0)
    assert sorted(fault.kind for fault in plan.faults[: len(KINDS)]) == sorted(KINDS)


@pytest.mark.timeout(900)
async def test_nothing_is_lost_and_nothing_is_doubled_whatever_breaks(sshd):
    folder = Path(tempfile.mkdtemp(prefix="faults-"))  # the shell's account must get in
    result = await run(make_plan(1, len(KINDS), SHORT, 4.0, "sqlite"), folder, sshd, print)
    assert result.good, "\n".join([*shown(result), f"logs: {folder}"])
    remove(folder)
