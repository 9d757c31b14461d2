"""A rolling restart as it goes: the deployment is marked once, and watched until it is done."""

import asyncio

from app.actions.pauses import growing
from app.actions.writes import Writes
from app.clients.kubernetes import KubernetesClient, Rollout, check_not_restarted
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.model import JsonObject
from app.core.planning import ActionFailure, Outcome, Prepared
from app.core.steps import KubernetesRestart


class Rolling:
    """One run of a restart by rollout: a deployment that carries the plan's mark is not marked again."""

    def __init__(self, step: KubernetesRestart, plan: Prepared, kubernetes: KubernetesClient) -> None:
        """Nothing is done yet."""
        self._step = step
        self._rollouts = kubernetes.rollouts
        self._writes = Writes()
        assert isinstance(plan.before, dict)
        self._before = plan.before
        assert isinstance(plan.after, dict)
        self._mark = str(plan.after["restarted_at"])
        self._found: Rollout | None = None
        self._asked = False  # the mark was sent, and its answer has not come
        self._trouble: str | None = None

    async def run(self) -> Outcome:
        """Until all pods are replaced, the time is up, or it cannot go on."""
        async with self._writes:
            return await self._run()

    async def _run(self) -> Outcome:
        try:
            async with asyncio.timeout(self._step.timeout_seconds):
                await self._roll()
        except TimeoutError:
            said = f"the rollout was not complete within {self._step.timeout_seconds:g} s"
            return await self._give_up(said, temporary=True)
        except PermanentError as error:
            return await self._give_up(str(error), temporary=False)
        return Outcome(outcome="succeeded", output={**self._counts(), "changed": self._is_marked()})

    async def _roll(self) -> None:
        for pause in growing():
            try:
                found = await self._look()
                if self._is_marked():
                    if found.complete:
                        return
                    _check_going(found)
                elif found.spec.replicas == 0:
                    return
                else:
                    await self._writes.answered(self._restart(found))
            except (TemporaryError, OutcomeUnknown) as error:  # the next look tells what became of it
                self._trouble = str(error)
            await asyncio.sleep(pause)

    async def _look(self) -> Rollout:
        found = await self._rollouts.read(self._step.namespace, self._step.deployment)
        self._found, self._trouble = found, None
        if found.metadata.uid != self._before["uid"]:
            raise PermanentError(f"{self._step.namespace}/{self._step.deployment} is another deployment now")
        if self._is_marked():
            self._asked = False
        else:
            before = self._before["restarted_at"]
            check_not_restarted(found, None if before is None else str(before))
        return found

    async def _restart(self, found: Rollout) -> None:
        before, self._asked = self._asked, True
        try:
            await self._rollouts.restart(found, self._mark)
        except (PermanentError, TemporaryError):  # refused or never sent: an earlier one still waits for its answer
            self._asked = before
            raise
        self._asked = False

    def _is_marked(self) -> bool:
        return self._found is not None and self._found.restarted_at == self._mark

    def _counts(self) -> JsonObject:
        if self._found is None:
            return {}
        status = self._found.status
        return {
            "wanted": self._found.spec.replicas,
            "updated": status.updated_replicas if self._is_marked() and self._found.seen else 0,
            "available": status.available_replicas,
        }

    async def _give_up(self, said: str, *, temporary: bool) -> Outcome:
        """Hear what was asked, look once more, and tell how far it is; the deployment itself goes on with it."""
        trouble, refused = await self._writes.wind_up(self._look)
        self._trouble = trouble or self._trouble
        counts = self._counts()
        parts = [
            said,
            self._trouble if self._trouble != said else None,
            f"{counts['updated']} of {counts['wanted']} pods are new, {counts['available']} serve" if counts else None,
            "nobody knows whether it began: that was not answered" if self._asked else None,
        ]
        message = "; ".join(part for part in parts if part)
        return Outcome(
            outcome="unknown" if self._asked else "failed",
            output=counts,
            error=ActionFailure(message=message, temporary=temporary and not refused),
        )


def _check_going(found: Rollout) -> None:
    """Raises PermanentError when the deployment itself has given up, or was paused."""
    if found.spec.paused:
        raise PermanentError("the deployment was paused in the middle of its rollout")
    if found.stuck:
        raise PermanentError("the rollout does not get on: its deployment's progressDeadlineSeconds are over")
