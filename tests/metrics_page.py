"""A worker's ``/metrics`` as Prometheus reads it."""

from prometheus_client.parser import text_string_to_metric_families
from waiting import until


class Metrics:
    """The metrics of the worker behind an API."""

    def __init__(self, api) -> None:
        self._api = api

    async def text(self) -> str:
        async with self._api.session.get(f"{self._api.url}/metrics") as answer:
            return await answer.text()

    async def names(self) -> set[str]:
        """Every name that a query may use, also of those that have no sample yet."""
        found = set()
        for family in text_string_to_metric_families(await self.text()):
            ends = {"counter": ["_total"], "histogram": ["_bucket", "_count", "_sum"]}.get(family.type, [""])
            found |= {family.name + end for end in ends}
        return found

    async def value(self, name: str, **labels: str) -> float | None:
        """One sample; None where there is none."""
        found = [
            sample.value
            for family in text_string_to_metric_families(await self.text())
            for sample in family.samples
            if sample.name == name and sample.labels == labels
        ]
        return found[0] if found else None

    async def reach(self, expected: float, name: str, **labels: str) -> None:
        """Wait until a sample has this value."""

        async def reached():
            return await self.value(name, **labels) == expected

        await until(reached)
