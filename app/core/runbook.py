"""The runbook: the product page's JSON verbatim, closed, every refusal with its path."""

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Annotated, Any, Literal, Self

import orjson
from pydantic import Field, JsonValue, ValidationError, field_validator, model_validator

from app.core.anomaly import Name, TenantId
from app.core.conditions import checked_condition
from app.core.errors import Problem, RunbookRefused, TemplateError
from app.core.model import MAX_PROBLEMS, Frozen, canonical, depth_of, digest, problems_of
from app.core.steps import Minutes, ShortText, Step, Text
from app.core.templating import check_template, is_template

MAX_STEPS = 50
MAX_RUNBOOK_DEPTH = 32
NO_TEMPLATE = "takes no template: who is asked must not depend on what an event says (the channel of a slack step may)"
MAX_SHARED_BYTES = 16 * 1024  # of a definition that is kept for the next request which pins it
MAX_RUNBOOK_BYTES = 256 * 1024  # the whole definition travels in every request and stands in every state
RunbookName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$")]


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
        return checked_condition(value)

    @model_validator(mode="after")
    def _narrows(self) -> Self:
        if self.service_id == "*" and self.metric_name == "*" and self.condition is None:
            raise ValueError("would match every anomaly: give service_id, metric_name or condition")
        return self


class MetricCheck(Frozen):
    """Read the metric some minutes after the last step, and roll back when it is beyond a bound.

    samples: how many readings are asked for, interval_seconds apart; ``app.core.verifying`` says how they are judged.
    """

    metric_name: Name
    check_after_minutes: Minutes
    rollback_if_value_exceeds: float | None = None
    rollback_if_value_below: float | None = None
    samples: Annotated[int, Field(strict=True, ge=1, le=20)] = 1
    interval_seconds: Annotated[float, Field(ge=0.1, le=3600)] = 15.0
    service_id: Name | None = None
    on_no_data: Literal["keep", "rollback", "attention"] = "attention"

    @model_validator(mode="after")
    def _has_a_bound(self) -> Self:
        above, below = self.rollback_if_value_exceeds, self.rollback_if_value_below
        if above is None and below is None:
            raise ValueError("needs rollback_if_value_exceeds or rollback_if_value_below")
        if above is not None and below is not None and below >= above:
            raise ValueError("would take every value for bad: rollback_if_value_below must be the lower bound")
        return self

    def why_bad(self, value: float) -> str | None:
        """Which bound a value is beyond, as ``over 90``; None when it is good. A bound itself is good."""
        above, below = self.rollback_if_value_exceeds, self.rollback_if_value_below
        if above is not None and value > above:
            return f"over {above:g}"
        return f"under {below:g}" if below is not None and value < below else None

    def worst(self, values: Sequence[float]) -> float:
        """Of several series' values the one to judge by: the highest under an upper bound, else the lowest.

        With both bounds the lowest counts where it is beyond its bound and the highest is not.
        """
        highest, lowest = max(values), min(values)
        above, below = self.rollback_if_value_exceeds, self.rollback_if_value_below
        if above is None or (below is not None and lowest < below and highest <= above):
            return lowest
        return highest


class CircuitBreaker(Frozen):
    """After so many runs in a row that failed, none starts by itself for a while; then one may try."""

    failures: Annotated[int, Field(strict=True, ge=1, le=100)]
    open_minutes: Minutes = 30.0


class Runbook(Frozen):
    """A named sequence of steps and what starts it.

    cooldown_seconds, max_runs_per_hour, when_exceeded, circuit_breaker: ``app.core.guards`` says what each means; they
    bind what starts by itself, not what a person asks for. mode: a shadow is matched and recorded beside the active
    ones, and never carried out, but for dry runs.
    """

    name: RunbookName
    description: Text = ""
    tenant: TenantId | None = None
    trigger: Trigger | None = None
    steps: Annotated[tuple[Step, ...], Field(min_length=1, max_length=MAX_STEPS)]
    approval_timeout_minutes: Minutes = 10.0
    notify_channel: ShortText | None = None
    rollback_on_failure: bool = False
    on_halt: Literal["keep", "rollback"] = "keep"
    rollback_metric_check: MetricCheck | None = None
    dry_run: bool = False
    cooldown_seconds: Annotated[float, Field(ge=0, le=7 * 24 * 60 * 60)] = 0.0
    max_runs_per_hour: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    when_exceeded: Literal["skip", "approve"] = "skip"
    circuit_breaker: CircuitBreaker | None = None
    mode: Literal["active", "shadow"] = "active"

    __slots__ = ("_known_content", "_known_digest")

    @model_validator(mode="after")
    def _exceeds_something(self) -> Self:
        if self.when_exceeded == "approve" and self.max_runs_per_hour is None:
            raise ValueError("when_exceeded has no effect without max_runs_per_hour")
        return self

    @property
    def guarded(self) -> bool:
        """Whether anything but a pause can keep it from starting by itself."""
        return bool(self.cooldown_seconds or self.max_runs_per_hour or self.circuit_breaker)

    def approval_timeout_s(self, index: int) -> float:
        """How long step ``index`` waits for approval, in seconds."""
        minutes = self.steps[index].approval_timeout_minutes
        return 60 * (self.approval_timeout_minutes if minutes is None else minutes)

    def content(self) -> dict[str, Any]:
        """The definition as JSON-able data, defaults left out, ready to be read again; nobody may change it."""
        known: dict[str, Any] | None = getattr(self, "_known_content", None)
        if known is None:
            known = self.model_dump(mode="json", exclude_defaults=True)
            object.__setattr__(self, "_known_content", known)
        return known

    def size(self) -> int:
        """How many bytes the content has as JSON."""
        return len(canonical(self.content()).encode())

    def digest(self) -> str:
        """SHA-256 of the content: two definitions that mean the same have the same digest."""
        known: str | None = getattr(self, "_known_digest", None)
        if known is None:
            known = digest(self.content())
            object.__setattr__(self, "_known_digest", known)
        return known


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
    if (size := runbook.size()) > MAX_RUNBOOK_BYTES:
        raise RunbookRefused([Problem("", too_large(size))])
    found = (*_template_problems("", runbook.content()), *_templated_people(runbook), *_short_backoffs(runbook))
    problems = list(found)[:MAX_PROBLEMS]
    if problems:
        raise RunbookRefused(problems)
    return runbook


def pinned(given: Any) -> Any:
    """The definition that is pinned in a request, made once of the content that many requests pin.

    What is given where it is no content of a definition, to be refused by whoever asked.
    """
    if not isinstance(given, dict):
        return given
    try:
        content = orjson.dumps(given)
        if len(content) > MAX_SHARED_BYTES or b"null" in content:  # NaN would be written as null
            return given
        return _shared(content)
    except (TypeError, ValidationError):
        return given


@lru_cache(maxsize=1024)
def _shared(content: bytes) -> Runbook:
    return Runbook.model_validate(orjson.loads(content))


def _templated_people(runbook: Runbook) -> Iterator[Problem]:
    """Templates where it is said who is asked: that is the author's to say, and never what an event brings.

    Only a new definition is held to it: what stands in the log stays readable.
    """
    named = [("notify_channel", runbook.notify_channel or "")]
    for index, step in enumerate(runbook.steps):
        named.append((f"steps[{index}].approval_channel", step.approval_channel or ""))
        for field in ("approvers", "escalate_to"):
            named += [(f"steps[{index}].{field}[{place}]", one) for place, one in enumerate(getattr(step, field))]
    yield from (Problem(path, NO_TEMPLATE) for path, text in named if is_template(text))


def _short_backoffs(runbook: Runbook) -> Iterator[Problem]:
    """A first pause that is longer than the longest one: it would be cut, without a word. New definitions only, too."""
    for index, step in enumerate(runbook.steps):
        first, longest = step.retries.backoff_seconds, step.retries.max_backoff_seconds
        if first > longest:
            said = f"is {longest:g}, and backoff_seconds {first:g}: give at least as much"
            yield Problem(f"steps[{index}].retries.max_backoff_seconds", said)


def too_large(size: int) -> str:
    """What is wrong with a definition of this size."""
    return f"the definition has {size} bytes, at most {MAX_RUNBOOK_BYTES} are taken"


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
