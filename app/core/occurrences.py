"""Which anomalies have a request of their own: one that comes again has the id of the one before."""

from collections.abc import Collection
from typing import Any

from app.core.anomaly import Anomaly

Content = tuple[Any, ...]
COMPARED = ("value", "anomaly_score", "severity", "service_id", "metric_name")


class Occurrences:
    """Each request takes an anomaly of its id that came before it and is not taken yet: the last that says the same.

    So every anomaly that was matched has its own, however late the workers were, and one that was not has none. Only
    those are held whose request has not come yet.
    """

    def __init__(self, alone: Collection[int] = ()) -> None:
        """alone: places of anomalies of which it is known that no request is theirs."""
        self._alone = alone
        self._untaken: dict[str, list[tuple[int, Content]]] = {}

    def is_alone(self, anomaly_id: str, body: dict[str, Any], place: int) -> bool:
        """One anomaly as it was published, whose id has a request later: whether that is surely not its own."""
        if place in self._alone:
            return True
        content = *map(body.get, COMPARED), body.get("labels") or {}
        self._untaken.setdefault(anomaly_id, []).append((place, content))
        return False

    def requested(self, anomaly: Anomaly) -> None:
        """One request for an anomaly."""
        untaken = self._untaken.get(anomaly.anomaly_id)
        if untaken is None:
            return
        content = *(getattr(anomaly, name) for name in COMPARED), anomaly.labels
        same = (at for at in reversed(range(len(untaken))) if untaken[at][1] == content)
        untaken.pop(next(same, -1))
        if not untaken:
            del self._untaken[anomaly.anomaly_id]

    def found_alone(self) -> frozenset[int]:
        """The places of all that no request took."""
        return frozenset(place for untaken in self._untaken.values() for place, _ in untaken)
