"""Nodes: whether they take pods."""

from typing import Literal

from pydantic import JsonValue

from app.clients.kubernetes.answers import Answer, Metadata
from app.clients.kubernetes.connection import Connection, Request
from app.clients.kubernetes.names import checked
from app.clients.kubernetes.refusals import refused_with
from app.core.errors import PermanentError


class NodeSpec(Answer):
    """Whether it is cordoned; the field is left out when it is not."""

    unschedulable: bool = False


class Node(Answer):
    """A node; its uid changes when it is made anew under the same name."""

    kind: Literal["Node"]
    metadata: Metadata
    spec: NodeSpec = NodeSpec()

    @property
    def name(self) -> str:
        """Its name."""
        return self.metadata.name

    @property
    def uid(self) -> str:
        """Which of all nodes that ever had the name it is."""
        return self.metadata.uid

    @property
    def unschedulable(self) -> bool:
        """Whether it is cordoned."""
        return self.spec.unschedulable


class Nodes:
    """The nodes of a cluster."""

    def __init__(self, connection: Connection) -> None:
        """Nothing is asked yet."""
        self._connection = connection

    async def read(self, name: str) -> Node:
        """The node as it is now; raises PermanentError (no such node, no right) or TemporaryError."""
        return await self._connection.ask(Request("GET", _path(name), f"node {name}", "get nodes"), Node)

    async def mark(self, node: Node, *, unschedulable: bool, dry_run: bool = False) -> bool:
        """Cordon or uncordon the node if it still is as it was read: tested and changed by the API in one request.

        Whether this changed it; False when it was marked already, then and now.
        Raises PermanentError when it is another node now, and as read; OutcomeUnknown when no answer came.
        """
        if node.unschedulable == unschedulable:
            return False
        patch: JsonValue = [
            {"op": "test", "path": "/metadata/uid", "value": node.uid},
            # a field that is left out tests equal to null
            {"op": "test", "path": "/spec/unschedulable", "value": True if node.unschedulable else None},
            {"op": "add", "path": "/spec/unschedulable", "value": unschedulable},
        ]
        what, right = f"node {node.name}", "patch nodes"
        try:
            request = Request("PATCH", _path(node.name), what, right, writes=True, dry_run=dry_run, body=patch)
            await self._connection.ask(request, Node)
        except PermanentError as error:
            if not refused_with(error, 422):
                raise
            found = await self.read(node.name)
            check_same(found, node.uid)
            if found.unschedulable != unschedulable:
                raise
            return False
        return True


def check_same(node: Node, uid: str) -> None:
    """Raises PermanentError when the node is not the one with this uid: it was made anew, and is another machine."""
    if node.uid != uid:
        raise PermanentError(f"{node.name} is another node now: its uid was {uid}, and is {node.uid}")


def _path(name: str) -> str:
    return f"/api/v1/nodes/{checked('node', name)}"
