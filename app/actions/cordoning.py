"""The cordon of a drain: whose it is decides whether it is taken back."""

from typing import Literal

from app.actions.writes import Writes
from app.clients.kubernetes import Node, Nodes, check_same
from app.core.errors import PermanentError, TemporaryError

State = Literal["untouched", "sent", "ours", "found", "returning", "returned"]
TOLD: dict[State, str] = {
    "untouched": "it was not cordoned",
    "sent": "nobody knows whether it is cordoned: that was not answered",
    "ours": "it is still cordoned",
    "found": "it was cordoned by somebody else and stays so",
    "returning": "nobody knows whether it is uncordoned again: that was not answered",
    "returned": "it is uncordoned again",
}


class Cordoning:
    """The cordon of one node, as it goes.

    state: ``sent`` and ``returning`` wait for an answer; ``found``: somebody else had cordoned it.
    """

    def __init__(self, nodes: Nodes, node: str, writes: Writes, *, uid: str, ours_before: bool) -> None:
        """ours_before: a cordon that is there already is of an earlier attempt of this very step."""
        self._nodes = nodes
        self._node = node
        self._writes = writes
        self._uid = uid
        self._ours_before = ours_before
        self.state: State = "untouched"

    async def cordon(self) -> None:
        """Cordon the node, unless it is; raises as Nodes.mark, and may be tried again."""
        found = await self._nodes.read(self._node)
        check_same(found, self._uid)
        if found.unschedulable:
            self.state = "ours" if self.state == "sent" or self._ours_before else "found"
            return
        await self._writes.answered(self._cordon(found))

    async def _cordon(self, found: Node) -> None:
        self.state = "ours" if await self._marked(found, "sent", unschedulable=True) else "found"

    async def take_back(self) -> None:
        """Uncordon the node if this step cordoned it; raises as Nodes.mark."""
        if self.state not in {"sent", "ours"}:
            return
        found = await self._nodes.read(self._node)
        check_same(found, self._uid)
        if found.unschedulable:
            await self._marked(found, "returning", unschedulable=False)
            self.state = "returned"
        elif self.state == "ours":
            self.state = "returned"

    @property
    def unanswered(self) -> bool:
        """Whether nobody knows how the node is."""
        return self.state in {"sent", "returning"}

    @property
    def cordoned(self) -> bool | None:
        """Whether the node is cordoned; None when nobody knows."""
        return None if self.unanswered else self.state in {"ours", "found"}

    async def _marked(self, found: Node, waiting: State, *, unschedulable: bool) -> bool:
        """Whether that changed the node; what was refused or never sent leaves the state as it was."""
        was, self.state = self.state, waiting
        try:
            return await self._nodes.mark(found, unschedulable=unschedulable)
        except (PermanentError, TemporaryError):
            self.state = was
            raise
