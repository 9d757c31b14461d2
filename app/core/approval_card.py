"""What a message about a request for approval says, as data: how it looks is the client's business."""

from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any

from pydantic import Field, JsonValue

from app.core.approval import MAX_WORDS, Approval, ApprovalState, Notice, NoticeKind, Vote, cut
from app.core.execution import Execution
from app.core.model import Frozen, Instant, canonical
from app.core.planning import Prepared, step_in_words
from app.core.steps import Step


class RequestReference(Frozen):
    """Which request a button stands for: its value, as text, is JSON."""

    tenant: str
    execution_id: str
    run: int
    step: Annotated[int, Field(ge=0)]
    request: int
    digest: str

    def text(self) -> str:
        """For a button's value."""
        return self.model_dump_json()


class ApprovalCard(Frozen):
    """All that a message about a request says.

    summary: the prepared plan. undo: how it would be taken back, or why it cannot be. takes_back: whether it is the
    step that is taken back. text: a slack step's own message, None for other steps. required: how many have to agree.
    changed: since the plan approved before.
    """

    reference: RequestReference
    kind: NoticeKind
    runbook_name: str
    service_id: str | None
    anomaly_score: float | None
    requested_by: str | None
    step_number: int
    step_count: int
    step_name: str | None
    summary: str
    namespace: str | None
    undo: str
    takes_back: bool = False
    text: str | None
    requested_at: Instant
    deadline: Instant
    state: ApprovalState
    votes: tuple[Vote, ...]
    required: int
    changed: str
    ended: str

    def may_be_posted(self, at: datetime) -> bool:
        """Whether there is still something to decide."""
        return self.state == "pending" and at < self.deadline


def card_of(execution: Execution, index: int, approval: Approval, notice: Notice) -> ApprovalCard:
    """The card of one of a step's requests."""
    step = execution.runbook.steps[index]
    anomaly = execution.request.anomaly
    score = execution.request.context.get("anomaly_score") if anomaly is None else anomaly.anomaly_score
    return ApprovalCard(
        reference=reference_of(execution, index, approval),
        kind=notice.kind,
        runbook_name=execution.runbook.name,
        service_id=execution.service_id,
        anomaly_score=score if isinstance(score, int | float) and not isinstance(score, bool) else None,
        requested_by=execution.request.requested_by,
        step_number=index + 1,
        step_count=len(execution.steps),
        step_name=step.name,
        summary=approval.summary,
        namespace=approval.namespace,
        undo=approval.undo,
        takes_back=approval not in execution.steps[index].requests,
        text=approval.text,
        requested_at=approval.requested_at,
        deadline=approval.deadline,
        state=approval.state,
        votes=approval.votes,
        required=step.approvals_required,
        changed=approval.changed,
        ended=approval.ended,
    )


def reference_of(execution: Execution, index: int, approval: Approval) -> RequestReference:
    """What names the request."""
    return RequestReference(
        tenant=execution.tenant,
        execution_id=execution.execution_id,
        run=execution.run,
        step=index,
        request=approval.number,
        digest=approval.digest,
    )


TAKES_BACK = "it is itself the way back"


def undo_of(step: Step, plan: Prepared) -> str:
    """How a step's plan would be taken back, in a few words: by what the runbook declares, or as the plan says."""
    if step.rollback is None:
        return plan.undo()
    declared = step.rollback.model_dump(mode="json", exclude_defaults=True)
    return f"by the step the runbook declares: {step_in_words(declared)}"


MAX_DIFFERENCES = 5


def difference(old: Prepared, new: Prepared) -> str:
    """What a new plan says otherwise than the one that was approved."""
    told = [f"it was “{old.summary}” and is “{new.summary}”"] if old.summary != new.summary else []
    for name in ("params", "before", "after"):
        told += _different(name, getattr(old, name), getattr(new, name))
    return cut("; ".join(told[:MAX_DIFFERENCES]) or "how it would be taken back is different", MAX_WORDS)


def _different(path: str, old: JsonValue, new: JsonValue) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted(old.keys() | new.keys()):
            yield from _different(f"{path}.{name}", old.get(name), new.get(name))
    elif old != new:
        yield f"{path} was {_short(old)} and is {_short(new)}"


def _short(value: Any) -> str:
    text = canonical(value)
    return text if len(text) <= 80 else text[:79] + "…"
