"""A request for approval: what was asked, who answered, and the messages that tell of it."""

from collections.abc import Iterator
from typing import Literal, Self

from app.core.events import ApprovalDecided, Decision, Source
from app.core.model import Frozen, Instant
from app.core.planning import Prepared

ApprovalState = Literal["pending", "approved", "rejected", "expired", "superseded", "withdrawn"]
NoticeKind = Literal["ask", "remind", "escalate", "rollback"]


class Vote(Frozen):
    """One person's decision that counted."""

    by: str
    decision: Decision
    at: Instant
    source: Source
    comment: str = ""

    @classmethod
    def of(cls, event: ApprovalDecided) -> Self:
        """The vote in a decision."""
        return cls(by=event.by, decision=event.decision, at=event.at, source=event.source, comment=event.comment)


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
    """One request for approval, bound to the digest of a plan.

    plan: what would be done. number: counts the requests of one step, from 1. remind_at, escalate_at: None where there
    is nothing to do, or it is done. escalated: whether those of ``escalate_to`` were told and may decide too. changed:
    how the plan differs from the one that was approved before, empty for a first request. ended: who decided, or why
    nobody can any more; empty while it waits.
    """

    digest: str
    plan: Prepared
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

    @property
    def version(self) -> int:
        """Counts what can be seen of it: each vote, its end, and that another request took its place."""
        return len(self.votes) + (self.state != "pending") + (self.state == "superseded")

    @property
    def ask(self) -> Notice | None:
        """The message that asked; None where nobody was asked in Slack."""
        return next((one for one in self.notices if one.kind == "ask"), None)

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
