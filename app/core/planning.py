"""What a step will do, known before it does it: the prepared plan and what it leaves behind."""

from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue

from app.core.model import Frozen, JsonObject, digest

OUTPUT_LIMIT = 64 * 1024  # bytes of captured output, design §7

OutcomeName = Literal["succeeded", "failed", "unknown"]


class Inverse(Frozen):
    """The step that takes an applied one back.

    step: a step definition as JSON, ready to run. expected: what must still be there, or the inverse has drifted.
    """

    step: JsonObject
    expected: JsonValue = None


class Prepared(Frozen):
    """What one step will do.

    summary: one sentence a person approves. params: the rendered parameters, secrets by name only.
    before, after: the value it finds and the one it leaves; None where the action has none.
    inverse: how it is taken back; None means manual_reason says why it cannot be.
    """

    summary: str
    params: JsonObject = Field(default_factory=dict)
    before: JsonValue = None
    after: JsonValue = None
    inverse: Inverse | None = None
    manual_reason: str | None = None
    digest: str = ""

    @classmethod
    def of(cls, summary: str, **fields: Any) -> Self:
        """Make a plan and stamp it with the digest of all it says."""
        plan = cls(summary=summary, **fields)
        return plan.model_copy(update={"digest": digest(plan.model_dump(mode="json", exclude={"digest"}))})


class ActionFailure(Frozen):
    """Why a step did not succeed.

    temporary: whether trying again may help. delay_s: how long the other side asked to wait, in seconds.
    """

    message: Annotated[str, Field(max_length=8192)]
    temporary: bool = False
    delay_s: float | None = None


class Outcome(Frozen):
    """How applying a step ended.

    output: what it gave back, JSON, at most 64 KiB; truncated says that more was dropped.
    """

    outcome: OutcomeName
    output: JsonValue = None
    error: ActionFailure | None = None
    truncated: bool = False
