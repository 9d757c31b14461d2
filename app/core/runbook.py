"""The runbook: the product page's JSON verbatim, closed, every refusal with its path."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from app.core.anomaly import Name, TenantId
from app.core.conditions import compile_condition
from app.core.errors import ConditionError, Problem, RunbookRefused, TemplateError
from app.core.model import Frozen, depth_of, digest, problems_of
from app.core.secret_references import names_in
from app.core.templating import check_template, is_template

MAX_STEPS = 50
MAX_RUNBOOK_DEPTH = 32
MAX_REPLICAS = 100_000
RunbookName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]
Text = Annotated[str, Field(max_length=16384)]
ShortText = Annotated[str, Field(min_length=1, max_length=1024)]
Minutes = Annotated[float, Field(gt=0, le=7 * 24 * 60)]
Seconds = Annotated[float, Field(gt=0, le=24 * 60 * 60)]
OnUnknown = Literal["attention", "retry", "fail"]

HARMLESS_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})  # idempotent, RFC 9110 section 9.2.2


class Trigger(Frozen):
    """Which anomaly events start the runbook; absent or ``*`` means any.

    condition: CEL over the event's fields; absent means true.
    """

    service_id: Name = "*"
    metric_name: Name = "*"
    condition: str | None = None

    @field_validator("condition")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return _checked_condition(value)

    @model_validator(mode="after")
    def _narrows(self) -> Self:
        if self.service_id == "*" and self.metric_name == "*" and self.condition is None:
            raise ValueError("would match every anomaly: give service_id, metric_name or condition")
        return self


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
    timeout_seconds: Seconds = 30.0
    retries: Retries = Retries()
    when: str | None = None
    on_unknown: OnUnknown | None = None
    continue_on_failure: bool = False

    @field_validator("when")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        return _checked_condition(value)

    secret_fields: ClassVar[frozenset[str]] = frozenset()
    """The fields in which ``$NAME`` is a secret."""

    def secret_names(self) -> tuple[str, ...]:
        """The secrets that the step needs."""
        content = self.model_dump(mode="json", include=set(self.secret_fields))
        return tuple(names_in(content))

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


class KubernetesScale(KubernetesFields):
    """Set a deployment's replica count; replicas may be a template that renders to a whole number."""

    action: Literal["scale"]
    namespace: ShortText
    deployment: ShortText
    replicas: int | str

    @field_validator("replicas", mode="before")
    @classmethod
    def _whole_number(cls, value: object) -> int | str:
        if isinstance(value, str) and is_template(value):
            return value
        if isinstance(value, str) and value.isascii() and value.isdigit():
            value = int(value[:9])
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_REPLICAS:
            raise ValueError(f"must be a whole number from 0 to {MAX_REPLICAS}, or a template that gives one")
        return value


class HttpStep(StepFields):
    """Call an HTTP endpoint; ``$NAME`` in url, headers, body and form is a secret, resolved only when it is sent.

    body: text is sent as it is, all else as JSON. form: sent as application/x-www-form-urlencoded, instead of a body.
    expected_status: the answers that are a success; empty means every 2xx.
    """

    secret_fields: ClassVar[frozenset[str]] = frozenset({"url", "headers", "body", "form"})

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


class SlackStep(StepFields):
    """Send a Slack message."""

    type: Literal["slack"]
    channel: ShortText
    message: Annotated[str, Field(min_length=1, max_length=16384)]

    @property
    def action(self) -> str:
        """Always ``message``."""
        return "message"


Step = Annotated[KubernetesScale | HttpStep | SlackStep, Field(discriminator="type")]


class MetricCheck(Frozen):
    """Read the metric some minutes after the last step, and roll back when it is above the bound."""

    metric_name: Name
    check_after_minutes: Minutes
    rollback_if_value_exceeds: float
    service_id: Name | None = None
    on_no_data: Literal["keep", "rollback", "attention"] = "attention"


class Runbook(Frozen):
    """A named sequence of steps and what starts it."""

    name: RunbookName
    description: Text = ""
    tenant: TenantId | None = None
    trigger: Trigger | None = None
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]
    approval_timeout_minutes: Minutes = 10.0
    rollback_on_failure: bool = False
    rollback_metric_check: MetricCheck | None = None
    dry_run: bool = False

    def approval_timeout_s(self, index: int) -> float:
        """How long step ``index`` waits for approval, in seconds."""
        minutes = self.steps[index].approval_timeout_minutes
        return 60 * (self.approval_timeout_minutes if minutes is None else minutes)

    def content(self) -> dict[str, Any]:
        """The definition as JSON-able data, defaults left out, ready to be read again."""
        return self.model_dump(mode="json", exclude_defaults=True)

    def digest(self) -> str:
        """SHA-256 of the content: two definitions that mean the same have the same digest."""
        return digest(self.content())


def read_runbook(content: Mapping[str, Any]) -> Runbook:
    """Read a definition.

    Raises RunbookRefused with every problem found: path, what is wrong, nearest known field.
    """
    if depth_of(content, MAX_RUNBOOK_DEPTH) > MAX_RUNBOOK_DEPTH:
        raise RunbookRefused([Problem("", f"nested deeper than {MAX_RUNBOOK_DEPTH}")])
    try:
        runbook = Runbook.model_validate(content)
    except ValidationError as error:
        raise RunbookRefused(problems_of(error, Runbook)) from error
    problems = list(_template_problems("", runbook.content()))
    if problems:
        raise RunbookRefused(problems)
    return runbook


def _checked_condition(value: str | None) -> str | None:
    if value is not None:
        try:
            compile_condition(value)
        except ConditionError as error:
            raise ValueError(f"is not a condition: {error}") from error
    return value


def _template_problems(path: str, value: JsonValue) -> Iterator[Problem]:
    match value:
        case str():
            try:
                check_template(value)
            except TemplateError as error:
                yield Problem(path, str(error))
        case dict():
            for key, inner in value.items():
                yield from _template_problems(f"{path}.{key}" if path else key, inner)
        case list():
            for index, inner in enumerate(value):
                yield from _template_problems(f"{path}[{index}]", inner)
        case _:
            pass
