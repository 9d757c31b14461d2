"""What a workspace holds: messages with their history, modals, and the tickets that Slack gives out."""

import copy
import itertools
import secrets
import time
from dataclasses import dataclass, field
from typing import Any

Json = dict[str, Any]


class Refusal(Exception):
    """Slack's ok:false with this code."""

    def __init__(self, code: str, reasons: list[str] | None = None) -> None:
        super().__init__(code)
        self.body: Json = {"ok": False, "error": code}
        if reasons:
            self.body |= {"errors": reasons, "response_metadata": {"messages": [f"[ERROR] {one}" for one in reasons]}}


@dataclass(frozen=True)
class Call:
    """A call as it arrived; at: monotonic seconds."""

    method: str
    arguments: Json
    token: str | None
    at: float


@dataclass
class Message:
    """A message: Slack's object after each change, oldest first. user_id: who alone sees it, of an ephemeral one."""

    channel_id: str
    ts: str
    versions: list[Json]
    user_id: str | None = None
    deleted: bool = False

    @property
    def shown(self) -> Json:
        """The message as it is now."""
        return self.versions[-1]

    @property
    def text(self) -> str:
        return self.shown["text"]

    @property
    def blocks(self) -> list[Json]:
        return self.shown.get("blocks", [])

    @property
    def thread_ts(self) -> str | None:
        return self.shown.get("thread_ts")

    @property
    def metadata(self) -> Json | None:
        return self.shown.get("metadata")

    @property
    def buttons(self) -> list[str]:
        """The action ids of what can be clicked now."""
        return [element["action_id"] for _, element in elements_of(self.blocks) if element["type"] == "button"]


@dataclass
class ModalView:
    """A modal that was opened for a person: Slack's object after each change, and the last errors that it shows."""

    user_id: str
    versions: list[Json]
    is_open: bool = True
    errors: dict[str, str] = field(default_factory=dict)

    @property
    def shown(self) -> Json:
        """The modal as it is now."""
        return self.versions[-1]

    @property
    def id(self) -> str:
        return self.shown["id"]


@dataclass
class Delivery:
    """An interaction that was sent to the app, and what came of it.

    status and answer: the acknowledgement (over Socket Mode 200 and its payload); None when none came in time.
    error: what the person sees gone wrong; None when all is well. late: Slack stopped waiting.
    """

    payload: Json
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    status: int | None = None
    answer: Any = None
    error: str | None = None
    late: bool = False


@dataclass
class Trigger:
    """A trigger id that was given out; at: monotonic seconds."""

    user_id: str
    at: float
    used: bool = False


@dataclass
class ResponseUrl:
    """A response_url that was given out: what was clicked and by whom; at: monotonic seconds."""

    user_id: str
    message: Message
    at: float
    uses: int = 0


class Names:
    """Ids that never repeat: timestamps of messages, and whatever else Slack counts."""

    def __init__(self) -> None:
        self._count = itertools.count(1)

    def ts(self) -> str:
        """A timestamp that is later than every earlier one."""
        return f"{int(time.time())}.{next(self._count):06d}"

    def id(self, prefix: str) -> str:
        """An id such as C0000001."""
        return f"{prefix}{next(self._count):07d}"

    def trigger_id(self) -> str:
        """As Slack's: three parts, the last random."""
        return f"{next(self._count)}.{int(time.time())}.{secrets.token_hex(16)}"


def as_stored(blocks: list[Json], names: Names) -> list[Json]:
    """The blocks as Slack keeps them: with ids where the app gave none."""
    stored = copy.deepcopy(blocks)
    for block in stored:
        block.setdefault("block_id", names.id("b"))
    for _, element in elements_of(stored):
        element.setdefault("action_id", names.id("a"))
    return stored


def elements_of(blocks: list[Json]) -> list[tuple[Json, Json]]:
    """Every element that a person can act on, each with its block."""
    found = []
    for block in blocks:
        candidates = [*block.get("elements", []), block.get("accessory"), block.get("element")]
        actable = block["type"] in {"actions", "section", "input"}
        found += [(block, one) for one in candidates if actable and one is not None and one["type"] != "image"]
    return found
