"""What was measured, and which of it a reading of the metric may be judged by."""

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Literal, NamedTuple

from app.core.runbook import MetricCheck

Result = Literal["value", "no_data", "stale", "unclear", "error"]


class Found(NamedTuple):
    """One series' value, in the metric's own unit; measured_at None: nobody can say, as for what was computed."""

    value: float
    measured_at: datetime | None = None


class Measured(NamedTuple):
    """What a reading gave. value: None means no data, and detail says why."""

    value: float | None
    detail: str
    result: Result


def failed(why: str) -> Measured:
    """A reading that could not be made."""
    return Measured(None, why, "error")


def measured(found: Sequence[Found], check: MetricCheck, since: datetime, doubt: str = "") -> Measured:
    """The value to judge by: of several series the worst.

    since: what was measured earlier does not count. doubt: why there may be more series than these, empty when there
    are not. A value beyond its bound counts beside any doubt; a good one only where nothing is missing.
    """
    if not found:
        return Measured(None, doubt or "nothing was measured", "unclear" if doubt else "no_data")
    fresh = [one.value for one in found if one.measured_at is None or one.measured_at >= since]
    if not fresh:
        newest = max(one.measured_at for one in found if one.measured_at is not None)
        return Measured(None, f"the newest was measured at {_said(newest)}, before {_said(since)}", "stale")
    numbers = [value for value in fresh if math.isfinite(value)]
    worst = check.worst(numbers) if numbers else None
    told = f"the worst of {len(fresh)} series" if len(fresh) > 1 else ""
    if len(fresh) < len(found):
        told = f"{told or 'one series'}, without {len(found) - len(fresh)} measured before {_said(since)}"
    if worst is not None and check.why_bad(worst) is not None:
        return Measured(worst, told, "value")
    odd = [value for value in fresh if not math.isfinite(value)]
    if odd:
        some = f" in {len(odd)} of {len(fresh)} series" if len(fresh) > 1 else ""
        return Measured(None, f"the value is {odd[0]:+}{some}".replace("+nan", "NaN"), "unclear")
    return Measured(None, doubt, "unclear") if doubt else Measured(worst, told, "value")


def _said(at: datetime) -> str:
    return at.isoformat(timespec="seconds")
