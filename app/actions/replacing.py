"""A deployment's pods replaced one at a time, as it goes: delete one, see a Ready replacement, go on."""

import asyncio

from pydantic import JsonValue

from app.actions.pauses import growing
from app.actions.pod_texts import count
from app.actions.writes import Writes
from app.clients.kubernetes import Deployment, KubernetesClient, Pod
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.planning import ActionFailure, Outcome, Prepared
from app.core.steps import KubernetesRestart


async def deployed(kubernetes: KubernetesClient, step: KubernetesRestart) -> tuple[Deployment, tuple[Pod, ...]]:
    """A deployment and its pods, without those that have ended; raises PermanentError or TemporaryError."""
    deployment = await kubernetes.read_deployment(step.namespace, step.deployment)
    pods = await kubernetes.pods.of_deployment(deployment, await kubernetes.read_replica_sets(deployment))
    return deployment, tuple(pod for pod in pods if not pod.finished)


class Replacing:
    """One run of a restart by deletion.

    Only the pods of the plan are deleted, told apart from their replacements by uid. The next one goes when all that
    are not waiting for their turn are Ready, and with these as many as the deployment wants; where every pod serves,
    that is when all of them do again. So a deployment whose pods are all sick is restarted, too.
    """

    def __init__(self, step: KubernetesRestart, plan: Prepared, kubernetes: KubernetesClient) -> None:
        """Nothing is done yet."""
        self._step = step
        self._kubernetes = kubernetes
        self._writes = Writes()
        before = plan.before
        assert isinstance(before, dict)
        pods = before["pods"]
        assert isinstance(pods, list)
        self._uid = before["uid"]
        self._planned = {str(pod["uid"]): str(pod["name"]) for pod in pods if isinstance(pod, dict)}
        self._waiting: dict[str, Pod] = {}  # planned and untouched, by uid
        self._ready = 0  # Ready replacements
        self._wanted = 0  # replacements that must be Ready before the next pod goes
        self._asked: str | None = None  # whose deletion was sent and not answered
        self._trouble: str | None = None  # why the last look did not see

    async def run(self) -> Outcome:
        """Until all are replaced, the time is up, or it cannot go on."""
        if not self._planned:
            return Outcome(outcome="succeeded", output={"replaced": [], "changed": False})
        async with self._writes:
            return await self._run()

    async def _run(self) -> Outcome:
        try:
            async with asyncio.timeout(self._step.timeout_seconds):
                await self._replace()
        except TimeoutError:
            said = f"not all pods were replaced within {self._step.timeout_seconds:g} s"
            return await self._give_up(said, temporary=True)
        except PermanentError as error:
            return await self._give_up(str(error), temporary=False)
        return Outcome(outcome="succeeded", output={"replaced": sorted(self._planned.values()), "changed": True})

    async def _replace(self) -> None:
        pauses = growing()
        while True:
            try:
                await self._look()
                if self._ready >= self._wanted:
                    if not self._waiting:
                        return
                    await self._writes.answered(self._delete(self._next()))
                    pauses = growing()
            except (TemporaryError, OutcomeUnknown) as error:  # the next look tells what became of it
                self._trouble = str(error)
            await asyncio.sleep(next(pauses))

    async def _look(self) -> None:
        deployment, pods = await deployed(self._kubernetes, self._step)
        if deployment.metadata.uid != self._uid:
            raise PermanentError(f"{deployment.what} is another one now: its uid was {self._uid}")
        self._waiting = {pod.uid: pod for pod in pods if pod.uid in self._planned and not pod.leaving}
        self._ready = sum(pod.ready for pod in pods if pod.uid not in self._planned)
        self._wanted = deployment.spec.replicas - len(self._waiting)
        if self._asked not in self._waiting:
            self._asked = None
        self._trouble = None

    def _next(self) -> Pod:
        """The one whose deletion was not answered, else one that does not serve anyway, else the first by name."""
        if self._asked is not None:
            return self._waiting[self._asked]
        return min(self._waiting.values(), key=lambda pod: (pod.ready, pod.metadata.name))

    async def _delete(self, pod: Pod) -> None:
        before, self._asked = self._asked, pod.uid
        try:
            await self._kubernetes.pods.delete(pod)
        except (PermanentError, TemporaryError):  # refused or never sent: an earlier one still waits for its answer
            self._asked = before
            raise
        self._asked = None
        del self._waiting[pod.uid]  # known without another look, which may not come
        self._wanted += 1

    async def _give_up(self, said: str, *, temporary: bool) -> Outcome:
        """Hear what was asked last, look once more, and tell what was replaced and what was not."""
        trouble, refused = await self._writes.wind_up(self._look)
        self._trouble = trouble or self._trouble
        waiting = sorted(pod.metadata.name for pod in self._waiting.values())
        gone = sorted(name for uid, name in self._planned.items() if uid not in self._waiting)
        without = max(0, min(self._wanted - self._ready, len(gone)))
        parts = [
            said,
            self._trouble if self._trouble != said else None,
            f"{len(gone)} of {count(len(self._planned))} deleted, {without} of these without a Ready replacement",
            "nobody knows whether one more is: its deletion was not answered" if self._asked else None,
        ]
        output: dict[str, JsonValue] = {"deleted": [*gone], "without_replacement": without, "left": [*waiting]}
        return Outcome(
            outcome="unknown" if self._asked else "failed",
            output=output,
            error=ActionFailure(message="; ".join(part for part in parts if part), temporary=temporary and not refused),
        )
