"""What is to be done, imperative: derived from state, never remembered (design §1)."""

from typing import Annotated, Literal

from pydantic import Field, JsonValue, TypeAdapter

from app.core.approval_card import ApprovalCard
from app.core.events import Moment, Phase
from app.core.ids import message_id
from app.core.model import Frozen, Instant, JsonObject, read_record
from app.core.planning import Prepared
from app.core.rollback_notice import RollbackCard
from app.core.runbook import MetricCheck
from app.core.steps import Step

Kind = Literal["kubernetes", "http", "shell", "slack"]
PLACED = "/placed"
STEP_KINDS: tuple[Kind, ...] = ("kubernetes", "http", "shell", "slack")


class StepCommand(Frozen):
    """Prepare, apply or take back one step.

    phase: ``prepare`` plans only; ``apply`` plans again and applies; ``rollback`` applies an inverse.
    expected_digest: the plan that was approved; another plan is not applied but announced. None asks for no check.
    expected: what a rollback must still find. variables: what templates and ``when`` see.
    simulated: outputs of earlier steps do not exist yet (a dry run). revoked: it was cancelled before it was known
    to have started; whoever has not begun it answers that it never will. secrets_needed: by name, those of all steps
    while nothing has been done yet, so that a missing one stops the execution before its first side effect.
    secrets_named: those of all steps always, because what one step sent may come back in the answer to any other.
    ready: whether the step needs no rendering, as an inverse that was derived from what was found. plan_only: a
    rollback that has to be approved first is planned, and nothing is changed.
    begun: the plan that an earlier attempt began to apply, so that this one can go on with it instead of taking what
    that one left for how it was before; None on a first attempt.
    """

    type: Literal["step"] = "step"
    command_id: str
    tenant: str
    execution_id: str
    run: int
    step_index: int
    phase: Phase
    attempt: int
    step: Step
    variables: JsonObject
    expected_digest: str | None = None
    expected: JsonValue = None
    simulated: bool = False
    revoked: bool = False
    secrets_needed: tuple[str, ...] = ()
    secrets_named: tuple[str, ...] = ()
    ready: bool = False
    plan_only: bool = False
    begun: Prepared | None = None

    @property
    def topic(self) -> str:
        """Where it is sent."""
        return f"step-commands.{self.step.type}"


class MetricCommand(Frozen):
    """Read the metric of the post-action check once.

    moment: before the first step, or after the last one. not_before: what was measured earlier tells nothing about
    the steps, None where it may be of any time.
    """

    type: Literal["metric"] = "metric"
    moment: Moment = "after"
    command_id: str
    tenant: str
    execution_id: str
    run: int
    attempt: int
    check: MetricCheck
    service_id: str
    not_before: Instant | None = None

    @property
    def topic(self) -> str:
        """Where it is sent."""
        return "step-commands.metric"


class NoticeCommand(Frozen):
    """Post or change one message about a request for approval, or about the rollback: its request is 0.

    request, notice: the number of the step's request, and the message's place among its notices. version: of the
    request, as the card shows it. to: a channel, or a subject who is told in person. channel_id, ts: where the message
    stands, None while that is not known; the id of a command that knows it ends in PLACED, so that it is another one.
    thread_ts: the message it answers, None for one of its own. doubtful: it may have been posted, and nobody knows
    where. With a card that has ended and no ts nothing is posted; what was posted meanwhile is changed.
    """

    type: Literal["notice"] = "notice"
    command_id: str
    tenant: str
    execution_id: str
    run: int
    step_index: int
    request: int
    notice: int
    version: int
    to: str
    channel_id: str | None
    ts: str | None
    thread_ts: str | None
    card: ApprovalCard | RollbackCard
    doubtful: bool = False

    @property
    def message(self) -> str:
        """Names the message, in all its versions."""
        return message_id(self.execution_id, self.run, self.step_index, self.request, self.notice)

    @property
    def before(self) -> tuple[tuple[int, str], ...]:
        """The other commands that there may be about the message up to this version: versions and ids."""
        numbered = ((version, f"{self.message}/{version}") for version in range(self.version + 1))
        names = ((version, name) for version, one in numbered for name in (one, one + PLACED))
        return tuple((version, name) for version, name in names if name != self.command_id)

    @property
    def topic(self) -> str:
        """Where it is sent."""
        return "step-commands.slack"


Command = StepCommand | MetricCommand | NoticeCommand
COMMANDS: TypeAdapter[Command] = TypeAdapter(Annotated[Command, Field(discriminator="type")])


def write_command(command: Command) -> bytes:
    """The command as JSON."""
    return command.model_dump_json().encode()


def read_command(raw: bytes | None) -> Command:
    """Read one record of a step-commands topic.

    Raises RecordRefused.
    """
    command: Command = read_record(raw, COMMANDS)
    return command
