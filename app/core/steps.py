"""The steps of a runbook: one model a kind, closed, every field with its bounds."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, JsonValue, field_validator, model_validator

from app.core.conditions import checked_condition
from app.core.model import Frozen
from app.core.secret_references import names_in
from app.core.templating import is_template

MAX_REPLICAS = 100_000
MAX_DIGITS = 4000  # of a number written as text; Python reads no longer ones
Text = Annotated[str, Field(max_length=16384)]
ShortText = Annotated[str, Field(min_length=1, max_length=1024)]
Minutes = Annotated[float, Field(gt=0, le=7 * 24 * 60)]
Seconds = Annotated[float, Field(gt=0, le=24 * 60 * 60)]
OnUnknown = Literal["attention", "retry", "fail"]
VariableName = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]{0,99}$")]
UserName = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_.-]{0,31}$")]
CONTROL = frozenset(map(chr, range(32))) - set("\t\n\r") | {"\x7f"}
NOT_IN_ROLLBACK = frozenset(
    {"rollback", "when", "continue_on_failure", "require_approval", "approval_timeout_minutes", "approvals_required"}
    | {"approvers", "allow_self_approval", "approval_channel", "escalate_to", "retries", "on_unknown"}
)
"""What a step that takes another one back cannot have: nobody is asked again, and it has tries of its own."""
SLOW_TIMEOUT_S = 300.0  # for steps that wait until pods have moved

HARMLESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # idempotent, RFC 9110 section 9.2.2


class Retries(Frozen):
    """How often a step that failed for the moment is tried again.

    max_attempts: 1 means no second try. backoff_seconds doubles each time up to max_backoff_seconds.
    """

    max_attempts: Annotated[int, Field(ge=1, le=20)] = 1
    backoff_seconds: Seconds = 1.0
    max_backoff_seconds: Seconds = 60.0


class StepFields(Frozen):
    """What every kind of step may carry."""

    name: ShortText | None = None
    require_approval: bool = False
    approval_timeout_minutes: Minutes | None = None
    approvals_required: Annotated[int, Field(ge=1, le=10)] = 1
    approvers: tuple[ShortText, ...] = ()
    allow_self_approval: bool = False
    approval_channel: ShortText | None = None
    escalate_to: Annotated[tuple[ShortText, ...], Field(max_length=20)] = ()
    timeout_seconds: Seconds = 30.0
    retries: Retries = Retries()
    when: str | None = None
    on_unknown: OnUnknown | None = None
    continue_on_failure: bool = False
    rollback: "Step | None" = None

    @field_validator("rollback")
    @classmethod
    def _plain_rollback(cls, value: "Step | None") -> "Step | None":
        fields = {} if value is None else type(value).model_fields
        given = {name for name in NOT_IN_ROLLBACK & fields.keys() if getattr(value, name) != fields[name].default}
        if given:
            raise ValueError(f"takes a step back and has no {', '.join(sorted(given))} of its own")
        return value

    @field_validator("when")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return checked_condition(value)

    secret_fields: ClassVar[frozenset[str]] = frozenset()
    """The fields in which ``$NAME`` is a secret."""
    keeps_time: ClassVar[bool] = False
    """Whether its action ends by itself when timeout_seconds are over, and says how far it came."""

    def secret_names(self) -> tuple[str, ...]:
        """The secrets that the step needs, and the one that takes it back."""
        content = self.model_dump(mode="json", include=set(self.secret_fields))
        return (*names_in(content), *(self.rollback.secret_names() if self.rollback else ()))

    @property
    def harmless_twice(self) -> bool:
        """Whether applying the step twice does no harm."""
        return False

    @property
    def unknown_policy(self) -> OnUnknown:
        """What an unknown outcome leads to (design §2)."""
        return self.on_unknown or ("retry" if self.harmless_twice else "attention")


class KubernetesFields(StepFields):
    """What every Kubernetes step carries; its writes hold preconditions, so a second one does no harm."""

    type: Literal["kubernetes"]

    @property
    def harmless_twice(self) -> bool:
        """True: preconditions guard every write."""
        return True


class DeploymentFields(KubernetesFields):
    """A step that acts on one deployment."""

    namespace: ShortText
    deployment: ShortText


class NodeFields(KubernetesFields):
    """A step that acts on one node."""

    node: ShortText


class KubernetesScale(DeploymentFields):
    """Set a deployment's replica count; replicas may be a template that renders to a whole number."""

    action: Literal["scale"]
    replicas: int | str

    @field_validator("replicas", mode="before")
    @classmethod
    def _whole_number(cls, value: object) -> int | str:
        if isinstance(value, str) and is_template(value):
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value) if len(value) <= MAX_DIGITS else MAX_REPLICAS + 1
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_REPLICAS:
            raise ValueError(f"must be a whole number from 0 to {MAX_REPLICAS}, or a template that gives one")
        return value


class KubernetesRestart(DeploymentFields):
    """Delete a deployment's pods one at a time, each after the one before has a Ready replacement.

    strategy: ``rollout`` lets the deployment replace them under its own rules instead.
    """

    keeps_time: ClassVar[bool] = True

    action: Literal["restart"]
    strategy: Literal["delete", "rollout"] = "delete"
    timeout_seconds: Seconds = SLOW_TIMEOUT_S


class KubernetesRolloutUndo(DeploymentFields):
    """Go back to an earlier revision's pod template: to_revision's, or the one before the current.

    to_template: the ``pod-template-hash`` to go to instead; revision numbers move, hashes stay.
    """

    action: Literal["rollout-undo"]
    to_revision: Annotated[int, Field(ge=1)] | None = None
    to_template: ShortText | None = None

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.to_revision is not None and self.to_template is not None:
            raise ValueError("holds both to_revision and to_template: give one of them")
        return self


class KubernetesCordon(NodeFields):
    """Mark a node as unschedulable."""

    action: Literal["cordon"]


class KubernetesUncordon(NodeFields):
    """Mark a node as schedulable again."""

    action: Literal["uncordon"]


class KubernetesDrain(NodeFields):
    """Cordon a node and evict its pods, but for those of daemon sets and mirror pods.

    force: evict pods that nothing would bring back, too. delete_emptydir_data: evict pods whose emptyDir volumes are
    lost with them, too. grace_period_seconds: None leaves it to each pod.
    """

    keeps_time: ClassVar[bool] = True

    action: Literal["drain"]
    force: bool = False
    delete_emptydir_data: bool = False
    grace_period_seconds: Annotated[int, Field(ge=0, le=24 * 60 * 60)] | None = None
    timeout_seconds: Seconds = SLOW_TIMEOUT_S


KubernetesStep = Annotated[
    KubernetesScale
    | KubernetesRestart
    | KubernetesRolloutUndo
    | KubernetesCordon
    | KubernetesUncordon
    | KubernetesDrain,
    Field(discriminator="action"),
]


class HttpStep(StepFields):
    """Call an HTTP endpoint; ``$NAME`` in url, headers, body and form is a secret, resolved only when it is sent.

    body: text is sent as it is, all else as JSON. form: sent as application/x-www-form-urlencoded, instead of a body.
    expected_status: the answers that are a success; empty means every 2xx.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset({"url", "headers", "body", "form"})
    keeps_time: ClassVar[bool] = True  # only the client knows whether the request had left when the time was over

    type: Literal["http"]
    method: Literal["GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"] = "GET"
    url: ShortText
    headers: dict[str, Text] = Field(default_factory=dict)
    body: JsonValue = None
    form: dict[str, Text] | None = None
    expected_status: Annotated[tuple[Annotated[int, Field(ge=100, le=599)], ...], Field(max_length=50)] = ()

    @property
    def action(self) -> str:
        """The method, as history's ``action``."""
        return self.method

    @property
    def harmless_twice(self) -> bool:
        """Whether the method is idempotent."""
        return self.method in HARMLESS_METHODS

    @field_validator("url")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not (value.startswith(("http://", "https://", "$")) or is_template(value)):
            raise ValueError("must start with http:// or https://")
        return value

    @model_validator(mode="after")
    def _one_content(self) -> Self:
        if self.body is not None and self.form is not None:
            raise ValueError("holds both body and form: give one of them")
        return self

    def is_success(self, status: int) -> bool:
        """Whether an answer with this status is what was wanted."""
        return status in self.expected_status if self.expected_status else 200 <= status < 300


class ShellStep(StepFields):
    """Run a shell command on a host of the inventory.

    command: for ``/bin/sh``; what its templates give arrives as one word each, however it reads. arguments: ``$1``,
    ``$2`` and on. environment: variables for it; ``$NAME`` in their values and in stdin is a secret. sudo_user: run
    it as this user, through sudo.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset({"environment", "stdin"})
    keeps_time: ClassVar[bool] = True

    type: Literal["shell"]
    host: ShortText
    command: Annotated[str, Field(min_length=1, max_length=16384)]
    arguments: Annotated[tuple[Text, ...], Field(max_length=50)] = ()
    environment: Annotated[dict[VariableName, Text], Field(max_length=50)] = Field(default_factory=dict)
    stdin: Text | None = None
    sudo_user: UserName | None = None

    @field_validator("command")
    @classmethod
    def _plain(cls, value: str) -> str:
        if not CONTROL.isdisjoint(value):
            raise ValueError("holds control characters: tabs and line ends are the only ones a command may hold")
        return value

    @property
    def action(self) -> str:
        """Always ``command``."""
        return "command"


class SlackStep(StepFields):
    """Send a Slack message."""

    type: Literal["slack"]
    channel: ShortText
    message: Annotated[str, Field(min_length=1, max_length=16384)]

    @property
    def action(self) -> str:
        """Always ``message``."""
        return "message"


Step = Annotated[KubernetesStep | HttpStep | ShellStep | SlackStep, Field(discriminator="type")]

for _model in (
    KubernetesScale,
    KubernetesRestart,
    KubernetesRolloutUndo,
    KubernetesCordon,
    KubernetesUncordon,
    KubernetesDrain,
    HttpStep,
    ShellStep,
    SlackStep,
):
    _model.model_rebuild()
