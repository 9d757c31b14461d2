"""The parts of an execution's state: its steps, the way back, the check after it."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal, Self

from pydantic import JsonValue, model_validator

from app.core.approval import Approval, Notice
from app.core.guards import Effect, End, Guard
from app.core.model import Frozen, Instant, made
from app.core.planning import Inverse, Prepared

StepStatus = Literal[
    "pending",  # a command is due
    "awaiting_approval",
    "approved",  # the command to apply is due
    "started",
    "backing_off",
    "planned",  # a dry run's end
    "succeeded",
    "failed",
    "unknown",
    "skipped",
    "halted",
    "manual",  # a rollback that only a person can do
    "drifted",  # a rollback that found something else than was left, and let it be
]


PLANS = ("plan", "begun_before")  # the fields of a step that hold one


class StepState(Frozen):
    """One step, forward or back.

    attempt: the number in the current command's id. failures: attempts that ended without success. begun_this: whether
    the plan has been begun to be applied; begun_before: the plan that was last begun, where it is another one. So each
    plan stands here once. superseded: earlier requests, whose plans were no longer what would be done, or
    that an earlier rollback of the same execution ended with.
    """

    status: StepStatus = "pending"
    attempt: int = 1
    failures: int = 0
    plan: Prepared | None = None
    begun_this: bool = False
    begun_before: Prepared | None = None
    approval: Approval | None = None
    superseded: tuple[Approval, ...] = ()
    output: JsonValue = None
    truncated: bool = False
    error: str | None = None
    started_at: Instant | None = None
    finished_at: Instant | None = None
    lease_until: Instant | None = None
    retry_at: Instant | None = None

    @model_validator(mode="before")
    @classmethod
    def _as_written_before(cls, given: Any) -> Any:
        """A state from before each plan stood in it once, or from before requests kept what they need of it."""
        if not isinstance(given, dict):
            return given
        approval, begun = given.get("approval"), given.get("begun")
        changed = {name: value for name, value in given.items() if name != "begun"} if "begun" in given else given
        if begun is not None:
            same = begun == given.get("plan")
            changed |= {"begun_this": True} if same else {"begun_before": begun}
        if isinstance(approval, dict) and not {"plan", "summary"} & approval.keys():
            changed = {**changed, "approval": {**approval, "plan": given.get("plan")}}
        return changed

    @property
    def begun(self) -> Prepared | None:
        """The plan that was last begun to be applied; None when none was."""
        return self.plan if self.begun_this else self.begun_before

    def now(self, **changes: Any) -> Self:
        """The step with these fields changed, ``begun`` too; a plan by which nothing more is done is kept in short."""
        return self.changed(changes)

    def changed(self, given: Mapping[str, Any]) -> Self:
        """The same, for changes that are at hand."""
        values = {**self.__dict__, **given}
        if "begun" in given or "plan" in given:
            begun, plan = values.pop("begun") if "begun" in given else self.begun, values["plan"]
            same = begun is not None and (begun is plan or begun == plan)
            values["begun_this"], values["begun_before"] = same, None if same else begun
        if given.get("finished_at") is not None and self.is_over_when(values["status"]):
            for name in PLANS:
                plan = values[name]
                if plan is not None:
                    values[name] = plan.done_with()
        return made(type(self), values, self.__pydantic_fields_set__)

    def is_over_when(self, status: StepStatus) -> bool:  # noqa: ARG002 - it is where it is taken back
        """Whether nothing will be carried out by its plan any more once it has ended like this."""
        return True

    @property
    def requests(self) -> tuple[Approval, ...]:
        """All its requests for approval, the first one first."""
        return self.superseded if self.approval is None else (*self.superseded, self.approval)

    def with_request(self, approval: Approval) -> Self:
        """The step with this request in place of the one of the same number; the same step where it has none."""
        same = approval.number
        if all(one.number != same for one in self.requests):
            return self
        if self.approval is not None and self.approval.number == same:
            return self.now(approval=approval)
        return self.now(superseded=tuple(approval if one.number == same else one for one in self.superseded))


class RollbackStep(StepState):
    """Taking one forward step back.

    index: the forward step's. inverse: None when only a person can do it, and reason says why.
    """

    index: int
    inverse: Inverse | None = None
    reason: str | None = None

    def is_over_when(self, status: StepStatus) -> bool:
        """Whether it was taken back: what was not may be tried again, and goes on with the plan it had begun."""
        return status == "succeeded"


RollbackCause = Literal["failure", "halt", "metric", "no_data", "person"]


class FirstEnd(Frozen):
    """How an execution ended that was taken back later; at, offset: of the event that ended it."""

    at: Instant
    offset: int
    end: End


class Rollback(Frozen):
    """The way back, in the order it is walked.

    cause: failure of a step, a halt, what the metric check found or did not find, or a person's word. by: who asked
    for the rollback of an execution that had ended, None for one that began by itself; asked_at: when, and
    ended_before: when it had ended. first_end: how it had ended before anybody asked for the first of its rollbacks.
    begun_at: None in a state from before it was kept. number: counts the rollbacks of one execution. notice: the
    message that tells of it, None where the runbook and the settings name no place.
    """

    reason: str
    steps: tuple[RollbackStep, ...]
    cause: RollbackCause = "failure"
    by: str | None = None
    asked_at: Instant | None = None
    ended_before: Instant | None = None
    first_end: FirstEnd | None = None
    begun_at: Instant | None = None
    number: int = 1
    notice: Notice | None = None

    def pending(self) -> int | None:
        """The position of the step being taken back, None when all have ended."""
        return next((place for place, step in enumerate(self.steps) if step.status not in WALKED), None)

    def halted(self, reason: str, at: datetime) -> Self:
        """The rollback with all that has not ended left as it is."""
        left = {"status": "halted", "error": reason, "finished_at": at}
        steps = tuple(step if step.status in WALKED else step.now(**left) for step in self.steps)
        return self.model_copy(update={"steps": steps})


WALKED = frozenset({"succeeded", "failed", "unknown", "manual", "drifted", "halted"})


class Reading(Frozen):
    """One reading of the metric.

    at: when it was asked for. value: in the metric's own unit; None means no data, and detail says why.
    """

    at: Instant
    value: float | None
    detail: str = ""


class Verification(Frozen):
    """The metric check after the last step.

    check_at: when the next reading is to be asked for. due: it has been. attempt: the number in the current command's
    id. unanswered: how often nobody answered for this reading. readings: those there are, the first one first.
    """

    check_at: Instant
    due: bool = False
    attempt: int = 1
    unanswered: int = 0
    lease_until: Instant | None = None
    readings: tuple[Reading, ...] = ()

    def now(self, **changes: Any) -> Self:
        """The verification with these fields changed."""
        return self.model_copy(update=changes)


class StartVerdict(Frozen):
    """What the guards said; offset: of the record that says so, which is its place in the line."""

    effect: Effect
    guard: Guard | None
    reason: str
    offset: int
