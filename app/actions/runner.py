"""Carry out one command: plan, tell the log, act, tell the log how it ended.

Nothing but cancellation leaves ``Runner.run``: every way a step can go wrong ends as an event.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from pydantic import JsonValue, TypeAdapter, ValidationError

from app.actions.registry import action_for
from app.actions.scene import Clients, Scene
from app.clients.traces import Attempt
from app.core.commands import StepCommand
from app.core.conditions import compile_condition
from app.core.errors import (
    ConditionError,
    Drifted,
    NotKnownYet,
    OutcomeUnknown,
    PermanentError,
    RunbooksError,
    TemplateError,
    TemporaryError,
)
from app.core.events import (
    CommandEvent,
    StepFinished,
    StepHeartbeat,
    StepInterrupted,
    StepPrepared,
    StepSkipped,
    StepStarted,
)
from app.core.model import JsonObject
from app.core.planning import (
    OUTPUT_ALWAYS,
    OUTPUT_LIMIT,
    OUTPUTS_LIMIT,
    PLAN_LIMIT,
    ActionFailure,
    Outcome,
    Prepared,
    size_of,
)
from app.core.shell_words import render_command
from app.core.steps import ShellStep, Step
from app.core.template_work import Work
from app.core.templating import UNKNOWN_END, Unknown, render
from app.ending import cancelled

STEP: TypeAdapter[Step] = TypeAdapter(Step)
MAX_ERROR = 4096
OVERRUN_S = 15.0  # what an action that keeps its own time may take beyond it, to tell how far it came
LATER = "depends on what earlier steps give back"
logger = logging.getLogger(__name__)

Record = Callable[[CommandEvent], Awaitable[object]]
"""Publishes an event and returns once the broker has it; raises TemporaryError when it does not take it."""


@dataclass(frozen=True, slots=True)
class Claim:
    """This worker's right to begin a command.

    until: by the monotonic clock, in seconds; later than that it may not act. held: whether the partition is still
    this worker's and nobody asked to stop. owned: whether the partition is, whatever was asked.
    """

    until: float
    held: Callable[[], bool]
    owned: Callable[[], bool] = lambda: True


@dataclass(frozen=True, slots=True)
class Runner:
    """What carries out commands on one worker.

    lease_s, heartbeat_s: design §3. now: wall clock, aware UTC. monotonic: seconds.
    """

    clients: Clients
    worker: str
    lease_s: float
    heartbeat_s: float
    now: Callable[[], datetime]
    monotonic: Callable[[], float]

    async def run(self, command: StepCommand, claim: Claim, record: Record, attempt: Attempt | None = None) -> None:
        """Carry out one command, telling the log through ``record``; attempt: where it is told of as a span.

        Raises TemporaryError when the log cannot be told; the command is then given to somebody else.
        """
        if self.monotonic() >= claim.until:
            if await self._still_owned(claim):
                await self.interrupted(command, record)
            return
        try:
            scene = self._scene(command, attempt)
            self.clients.secrets.remember(command.tenant, command.secrets_named)
            self.clients.secrets.check(command.tenant, command.secrets_needed)
            if not self._wanted(command):
                await record(StepSkipped(**self._answer(command), reason=f"`{command.step.when}` is false"))
                return
            step = self._rendered(command)
            plan = await self._plan(step, command, scene)
        except RunbooksError as error:
            await self._finish(command, record, self._outcome(command, error))
            return
        except Exception as error:
            logger.exception("step_prepare_broke", extra=_named(command))
            broken = PermanentError(f"planning the step broke: {type(error).__name__}: {error}")
            await self._finish(command, record, self._outcome(command, broken))
            return
        if command.phase == "prepare" or command.plan_only or command.expected_digest not in (None, plan.digest):
            await record(StepPrepared(**self._answer(command), plan=plan))
            return
        assert step is not None
        await self._apply(step, plan, command, scene, claim, record)

    async def interrupted(self, command: StepCommand, record: Record) -> None:
        """Say that nobody will carry out this attempt."""
        await record(StepInterrupted(**self._answer(command)))

    def _scene(self, command: StepCommand, attempt: Attempt | None) -> Scene:
        return Scene(
            tenant=command.tenant,
            command_id=command.command_id,
            expected=command.expected,
            begun=command.begun,
            earlier=_earlier(command),
            room=_room(command),
            clients=self.clients,
            attempt=attempt,
        )

    def _answer(self, command: StepCommand) -> dict[str, Any]:
        return {
            "tenant": command.tenant,
            "execution_id": command.execution_id,
            "at": self.now(),
            "command_id": command.command_id,
            "run": command.run,
            "step": command.step_index,
            "phase": command.phase,
            "attempt": command.attempt,
        }

    def _wanted(self, command: StepCommand) -> bool:
        """Whether the step's ``when`` holds; judged once, when the step is first planned."""
        when = command.step.when
        if when is None or command.phase == "rollback" or command.expected_digest is not None:
            return True
        anomaly = command.variables.get("anomaly")
        flat = anomaly if isinstance(anomaly, dict) else {}
        try:
            variables = _as_if_done(command.variables) if command.simulated else command.variables
            return compile_condition(when).holds({**flat, **variables})
        except ConditionError as error:
            if command.simulated:
                return True
            raise PermanentError(f"when `{when}`: {error}") from error

    def _rendered(self, command: StepCommand) -> Step | None:
        """The step with its templates filled in; None when a dry run cannot know it yet."""
        if command.ready:
            return command.step
        variables: Mapping[str, Any] = _with_placeholders(command.variables) if command.simulated else command.variables
        try:
            rendered = _filled_in(command.step, variables)
        except NotKnownYet:
            return None
        try:
            return STEP.validate_python(rendered)
        except ValidationError as error:
            if command.simulated and UNKNOWN_END in str(rendered):
                return None
            detail = error.errors(include_url=False)[0]
            path = ".".join(str(part) for part in detail["loc"][1:])
            raise PermanentError(f"{path} after rendering: {detail['msg']}") from error

    async def _plan(self, step: Step | None, command: StepCommand, scene: Scene) -> Prepared:
        if step is None:
            return Prepared.of(f"{command.step.type} {command.step.action}: {LATER}", manual_reason=LATER)
        try:
            async with asyncio.timeout(min(step.timeout_seconds, self.lease_s)):
                return _bounded(await action_for(step).prepare(step, scene))
        except TimeoutError:
            raise TemporaryError("planning the step took too long") from None

    async def _apply(
        self,
        step: Step,
        plan: Prepared,
        command: StepCommand,
        scene: Scene,
        claim: Claim,
        record: Record,
    ) -> None:
        late = ActionFailure(message="the lease ran out before the step began: nothing was done", temporary=True)
        if self.monotonic() >= claim.until:
            if await self._still_owned(claim):
                await self._finish(command, record, Outcome(outcome="failed", error=late))
            return
        if not claim.held():
            if claim.owned() or await self._still_owned(claim):
                await self.interrupted(command, record)
            return
        lease_until = self.now() + timedelta(seconds=self.lease_s)
        started_by = self.monotonic()
        started = StepStarted(**self._answer(command), plan=plan, lease_until=lease_until, worker=self.worker)
        await record(started)
        told_s = self.monotonic() - started_by
        if self.monotonic() >= claim.until or told_s >= self.lease_s:
            await self._finish(command, record, Outcome(outcome="failed", error=late))
            return
        try:
            async with self._heartbeat(command, record, told_s):
                outcome = await self._act(step, plan, command, scene)
        except asyncio.CancelledError:
            stopped = ActionFailure(message="the worker was stopped while the step was being applied")
            await self._finish(command, record, Outcome(outcome="unknown", error=stopped))
            raise
        await self._finish(command, record, outcome.within(scene.room))

    async def _still_owned(self, claim: Claim) -> bool:
        """Whether this worker may speak for a command that it did not begin in time, or whose partition it has lost.

        A worker that was stopped or cut off does not know yet what happened meanwhile: another one may own the
        partition, have been given the command and be at it. It will know after as long as a lease, and say nothing.
        """
        await asyncio.sleep(self.lease_s)
        return claim.owned()

    async def _act(self, step: Step, plan: Prepared, command: StepCommand, scene: Scene) -> Outcome:
        limit_s = step.timeout_seconds + (OVERRUN_S if step.keeps_time else 0.0)
        try:
            async with asyncio.timeout(limit_s):
                return await action_for(step).apply(step, plan, scene)
        except TimeoutError:
            error: RunbooksError = OutcomeUnknown(f"no answer within {limit_s:g} s")
            return self._outcome(command, error)
        except RunbooksError as failure:
            return self._outcome(command, failure)
        except Exception as broken:
            logger.exception("step_apply_broke", extra=_named(command))
            return self._outcome(command, OutcomeUnknown(f"applying the step broke: {type(broken).__name__}: {broken}"))

    def _outcome(self, command: StepCommand, error: RunbooksError) -> Outcome:
        message = self.clients.secrets.mask(command.tenant, str(error))[:MAX_ERROR]
        match error:
            case OutcomeUnknown():
                return Outcome(outcome="unknown", error=ActionFailure(message=message))
            case TemporaryError():
                failure = ActionFailure(message=message, temporary=True, delay_s=error.delay_s)
                return Outcome(outcome="failed", error=failure)
            case Drifted():
                return Outcome(outcome="failed", error=ActionFailure(message=message, drifted=True))
            case TemplateError() | PermanentError() | _:
                return Outcome(outcome="failed", error=ActionFailure(message=message))

    async def _finish(self, command: StepCommand, record: Record, outcome: Outcome) -> None:
        await record(StepFinished(**self._answer(command), outcome=outcome))

    @contextlib.asynccontextmanager
    async def _heartbeat(self, command: StepCommand, record: Record, told_s: float) -> AsyncIterator[None]:
        """Give signs of life; told_s: how long it took to tell of the start, which is time of the lease."""

        async def beat() -> None:
            wait_s = max(0.0, self.heartbeat_s - told_s)
            while True:
                await asyncio.sleep(wait_s)
                wait_s = self.heartbeat_s
                lease_until = self.now() + timedelta(seconds=self.lease_s)
                with contextlib.suppress(TemporaryError):  # the next beat may get through; else the lease runs out
                    await record(StepHeartbeat(**self._answer(command), lease_until=lease_until))

        beating = asyncio.create_task(beat())
        try:
            yield
        finally:
            await cancelled(beating)


def _filled_in(step: Step, variables: Mapping[str, Any]) -> dict[str, Any]:
    """The step's fields with their templates rendered; a shell command takes what they give as arguments."""
    content = step.model_dump(mode="json", exclude={"when", "name", "rollback"}, exclude_defaults=True)
    source = content.pop("command") if isinstance(step, ShellStep) else None
    work = Work()
    filled: dict[str, Any] = {
        field: render(value, variables, field, with_secrets=field in step.secret_fields, work=work)
        for field, value in content.items()
    }
    if source is not None:
        given = filled.get("arguments", ())
        filled["command"], filled["arguments"] = render_command(source, variables, given, "command")
    return filled


def _views(variables: JsonObject) -> list[JsonObject]:
    """What templates see of the steps: an object each, as the fold makes them."""
    steps = variables.get("steps")
    return [view for view in steps if isinstance(view, dict)] if isinstance(steps, list) else []


def _earlier(command: StepCommand) -> tuple[JsonObject, ...]:
    """What templates see of the steps before this one."""
    return tuple(_views(command.variables)[: command.step_index])


def _room(command: StepCommand) -> int:
    """How much the step may give back: all outputs together stay within what one record can hold."""
    used = sum(size_of(view.get("output")) for view in _views(command.variables))
    return max(OUTPUT_ALWAYS, min(OUTPUT_LIMIT, OUTPUTS_LIMIT - used))


def _bounded(plan: Prepared) -> Prepared:
    size = len(plan.model_dump_json())
    if size > PLAN_LIMIT:
        raise PermanentError(f"the step's plan has {size} bytes with all that its templates gave; {PLAN_LIMIT} at most")
    return plan


def _with_placeholders(variables: JsonObject) -> dict[str, Any]:
    """The variables of a dry run: outputs that do not exist yet stand as their path."""
    filled = [
        {key: Unknown(f"steps[{index}].{key}") if key == "output" else value for key, value in view.items()}
        for index, view in enumerate(_views(variables))
    ]
    return {**variables, "steps": filled}


def _as_if_done(variables: JsonObject) -> JsonObject:
    """The variables of a dry run's condition: what is planned counts as done, with no known output."""
    done: list[JsonValue] = [
        {key: value for key, value in view.items() if key != "output"} | {"status": "succeeded"}
        if view.get("status") == "planned"
        else view
        for view in _views(variables)
    ]
    return {**variables, "steps": done}


def _named(command: StepCommand) -> dict[str, str]:
    return {"tenant": command.tenant, "execution_id": command.execution_id, "command_id": command.command_id}
