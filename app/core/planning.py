"""What a step will do, known before it does it: the prepared plan and what it leaves behind."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, JsonValue, TypeAdapter, field_validator

from app.core.model import Frozen, JsonObject, canonical, digest, replaced
from app.core.steps import Step

OUTPUT_LIMIT = 64 * 1024  # bytes of captured output, design §7
OUTPUTS_LIMIT = 1024 * 1024  # of all outputs of one execution: they travel in every command, and in its state
OUTPUT_ALWAYS = 2 * 1024  # what a step may give back however much the ones before it did
PLAN_LIMIT = 64 * 1024  # bytes of one plan as JSON

OutcomeName = Literal["succeeded", "failed", "unknown"]


STEPS: TypeAdapter[Step] = TypeAdapter(Step)


class Inverse(Frozen):
    """The step that takes an applied one back.

    step: a step definition as JSON. expected: what must still be there, or the inverse has drifted. declared: whether
    the runbook's author wrote it, so that its templates are rendered when it runs; a derived one is ready to run.
    """

    step: JsonObject
    expected: JsonValue = None
    declared: bool = False

    @field_validator("step")
    @classmethod
    def _is_a_step(cls, value: JsonObject) -> JsonObject:
        STEPS.validate_python(value)
        return value


class Prepared(Frozen):
    """What one step will do.

    summary: one sentence a person approves. params: the rendered parameters, secrets by name only.
    before, after: the value it finds and the one it leaves; None where the action has none.
    inverse: how it is taken back; None means manual_reason says why it cannot be. digest: of all it says when it is
    made, also where params are no longer kept.
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

    def undo(self) -> str:
        """How it would be taken back, in a few words; what nobody but a person can undo is marked."""
        if self.inverse is None:
            return f"⚠ only by hand: {self.manual_reason or 'it has no inverse'}"
        said = f" ({self.manual_reason})" if self.manual_reason else ""
        return step_in_words(self.inverse.step) + said

    def done_with(self) -> Self:
        """What is kept of it once nothing is carried out by it any more."""
        return replaced(self, {"params": {}}) if self.params else self


def step_in_words(step: JsonObject) -> str:
    """A step's definition in a few words: its action, where, and the rest."""
    place = "/".join(str(step[name]) for name in ("namespace", "deployment", "node", "host") if name in step)
    rest = {name: value for name, value in step.items() if name not in PLACES}
    more = ", ".join(f"{name} {value}" for name, value in rest.items())
    return " ".join(
        part for part in (str(step.get("action", step["type"])), place, f"({more})" if more else "") if part
    )


PLACES = frozenset({"type", "action", "namespace", "deployment", "node", "host"})


def fitted(value: JsonValue, limit: int) -> tuple[JsonValue, bool]:
    """The value if its JSON has at most ``limit`` bytes, else the beginning of it as text; and whether it was cut."""
    if size_of(value) <= limit:
        return value, False
    text = value if isinstance(value, str) else canonical(value)
    while (size := size_of(text)) > limit:
        text = text[: len(text) * limit // (size + 1)]
    return text, True


def size_of(value: JsonValue | Mapping[str, JsonValue]) -> int:
    """How many bytes the value has as JSON."""
    return len(canonical(value).encode())


class ActionFailure(Frozen):
    """Why a step did not succeed.

    temporary: whether trying again may help. delay_s: how long the other side asked to wait, in seconds. drifted:
    whether an inverse found what it would take back otherwise than the execution had left it, and let it be.
    """

    message: Annotated[str, Field(max_length=8192)]
    temporary: bool = False
    delay_s: float | None = None
    drifted: bool = False


class Outcome(Frozen):
    """How applying a step ended.

    output: what it gave back, JSON, at most 64 KiB; truncated says that more was dropped.
    """

    outcome: OutcomeName
    output: JsonValue = None
    error: ActionFailure | None = None
    truncated: bool = False

    @property
    def is_final(self) -> bool:
        """Whether it leaves nothing to try again."""
        if self.outcome == "failed":
            return self.error is None or not self.error.temporary
        return self.outcome == "succeeded"

    def within(self, limit: int) -> Self:
        """The outcome with an output of at most ``limit`` bytes."""
        output, cut = fitted(self.output, limit)
        return self.model_copy(update={"output": output, "truncated": True}) if cut else self
