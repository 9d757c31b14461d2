"""A request for approval: what was asked, who answered, and the messages that tell of it."""

from collections.abc import Iterator
from typing import Any, Literal, Self

from pydantic import model_validator

from app.core.events import ApprovalDecided, Decision, Source
from app.core.model import Frozen, Instant
from app.core.planning import Prepared

ApprovalState = Literal["pending", "approved", "rejected", "expired", "superseded", "withdrawn"]
NoticeKind = Literal["ask", "remind", "escalate", "rollback"]


MAX_WORDS, MAX_REPLACED = 3000, 100
"""Characters of a text that is kept with a request: one that waits, and one that another has replaced."""


def words_of(plan: Prepared, undo: str, *, with_text: bool = False) -> dict[str, str | None]:
    """What a request keeps of its plan, by field; text is kept of a slack step's."""
    namespace, text = plan.params.get("namespace"), plan.params.get("message") if with_text else None
    return {
        "summary": cut(plan.summary, MAX_WORDS),
        "undo": cut(undo, MAX_WORDS),
        "namespace": cut(namespace, MAX_WORDS) if isinstance(namespace, str) else None,
        "text": cut(text, MAX_WORDS) if isinstance(text, str) else None,
    }


def cut(text: str, limit: int) -> str:
    """The text, or its beginning and a mark where it has more than limit characters."""
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


class Vote(Frozen):
    """One person's decision that counted."""

    by: str
    decision: Decision
    at: Instant
    source: Source
    comment: str = ""

    @classmethod
    def of(cls, event: ApprovalDecided, comment: str) -> Self:
        """The vote in a decision, with what is kept of its comment."""
        return cls(by=event.by, decision=event.decision, at=event.at, source=event.source, comment=comment)


class Notice(Frozen):
    """One message about a request.

    to: a channel, or a subject who is told in person. state: due until it is posted or could not be; unknown where
    Slack's answer was lost and nobody could look. channel_id, ts: where Slack put it. shown: the version of the request
    that it shows, or that it was last tried for. error: why it could not be posted or changed.
    """

    kind: NoticeKind
    to: str
    state: Literal["due", "posted", "failed", "unknown"] = "due"
    channel_id: str | None = None
    ts: str | None = None
    shown: int = 0
    error: str | None = None

    def now(self, **changes: object) -> Self:
        """The notice with these fields changed."""
        return self.model_copy(update=changes)


class Approval(Frozen):
    """One request for approval, bound to the digest of a plan, which is the step's while the request is its latest.

    summary, undo, namespace: of the plan, as its messages say it. text: a slack step's own message, None for any other.
    number: counts the requests of one step, from 1. remind_at, escalate_at: None where there
    is nothing to do, or it is done. escalated: whether those of ``escalate_to`` were told and may decide too. changed:
    how the plan differs from the one that was approved before, empty for a first request. ended: who decided, or why
    nobody can any more; empty while it waits.
    """

    digest: str
    summary: str
    undo: str
    namespace: str | None = None
    text: str | None = None
    requested_at: Instant
    deadline: Instant
    number: int = 1
    state: ApprovalState = "pending"
    votes: tuple[Vote, ...] = ()
    notices: tuple[Notice, ...] = ()
    remind_at: Instant | None = None
    escalate_at: Instant | None = None
    escalated: bool = False
    changed: str = ""
    ended: str = ""

    @model_validator(mode="before")
    @classmethod
    def _as_written_before(cls, given: Any) -> Any:
        """A request of a state from when requests kept their whole plan."""
        if not isinstance(given, dict) or "plan" not in given:
            return given
        plan = Prepared.model_validate(given["plan"])
        return {name: value for name, value in given.items() if name != "plan"} | words_of(plan, plan.undo())

    @property
    def version(self) -> int:
        """Counts what can be seen of it: each vote, its end, and that another request took its place."""
        return len(self.votes) + (self.state != "pending") + (self.state == "superseded")

    @property
    def ask(self) -> Notice | None:
        """The message that asked; None where nobody was asked in Slack."""
        return next((one for one in self.notices if one.kind == "ask"), None)

    def replaced(self, why: str) -> Self:
        """The approval once another request has taken its place."""
        return self.in_short().now(state="superseded", ended=why)

    def in_short(self) -> Self:
        """What the messages of an earlier request need, and who had decided."""
        votes = tuple(vote.model_copy(update={"comment": cut(vote.comment, MAX_REPLACED)}) for vote in self.votes)
        notices = tuple(one.now(error=one.error and cut(one.error, MAX_REPLACED)) for one in self.notices)
        words = {name: cut(getattr(self, name), MAX_REPLACED) for name in ("summary", "undo", "changed")}
        return self.now(text=None, votes=votes, notices=notices, **words)

    def now(self, **changes: object) -> Self:
        """The approval with these fields changed."""
        return self.model_copy(update=changes)

    def with_notice(self, place: int, **changes: object) -> Self:
        """The approval with one of its notices changed."""
        changed = self.notices[place].now(**changes)
        return self.now(notices=(*self.notices[:place], changed, *self.notices[place + 1 :]))

    def to_be_told(self) -> Iterator[int]:
        """The places of the notices that are to be posted, or that show an older version.

        Once the request has ended, those too that are not known to be posted: a post may still be on its way, and what
        it brings must not keep its buttons.
        """
        for place, notice in enumerate(self.notices):
            if (notice.state == "due" and self.state == "pending") or (
                (notice.state == "posted" or self.state != "pending") and notice.shown < self.version
            ):
                yield place
