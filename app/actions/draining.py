"""A drain as it goes: evict what is there, look again, and end in time with what is true."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal

from pydantic import JsonValue

from app.actions.cordoning import TOLD, Cordoning
from app.actions.drain_rules import check_allowed, sorted_out
from app.actions.few_at_once import few_at_once
from app.actions.pauses import growing
from app.actions.pod_texts import count, some
from app.actions.scene import Scene
from app.actions.writes import Writes
from app.clients.kubernetes import Held, Pod
from app.core.errors import OutcomeUnknown, PermanentError, TemporaryError
from app.core.planning import ActionFailure, Outcome, OutcomeName, Prepared
from app.core.steps import KubernetesDrain

LISTED = 100  # pods in the output
HELD_SHOWN = 3
MAX_MESSAGE = 4096


@dataclass(slots=True)
class Evicting:
    """A pod that has to go.

    asked: its eviction was taken. unanswered: an eviction was sent and its answer has not come. gone: it is no longer
    there. leaving: it is shutting down. why: what held it back last. not_before: when to ask again, by the loop's
    clock.
    """

    pod: Pod
    asked: bool = False
    unanswered: bool = False
    gone: bool = False
    leaving: bool = False
    why: str | None = None
    not_before: float = 0.0

    def seen(self, found: Pod | None) -> None:
        """How it stands now; one that leaves or has left answers for an eviction that was not answered."""
        self.gone = found is None
        self.leaving = found is not None and found.leaving
        if self.unanswered and (self.gone or self.leaving):
            self.asked, self.unanswered = True, False

    def answered(self, answer: Literal["evicted", "gone"]) -> None:
        """It was taken, or there was nothing to evict any more."""
        self.unanswered, self.asked = False, answer == "evicted"

    @property
    def standing(self) -> str:
        """Why it is still there."""
        if self.leaving or self.asked:
            return "it is shutting down"
        return self.why or ("its eviction was not answered" if self.unanswered else "it was not asked to go")

    def held(self, why: str, delay_s: float | None, now: float) -> None:
        """It was refused for the moment, or could not be asked."""
        self.why, self.not_before = why, now + (delay_s or 0.0)


class Draining:
    """One run of a drain.

    It goes by what the node holds right after it was cordoned: pods that come later tolerate it and would come again.
    """

    def __init__(self, step: KubernetesDrain, plan: Prepared, scene: Scene) -> None:
        """Nothing is done yet."""
        self._step = step
        before = plan.before
        assert isinstance(before, dict)
        ours_before = scene.begun is not None and not before["unschedulable"]
        nodes = scene.clients.kubernetes.nodes
        self._writes = Writes()
        self._cordoning = Cordoning(nodes, step.node, self._writes, uid=str(before["uid"]), ours_before=ours_before)
        self._client = scene.clients.kubernetes.pods
        self._pods: dict[str, Evicting] = {}
        self._refused: PermanentError | None = None
        self._trouble: str | None = None  # why the last look did not see

    async def run(self) -> Outcome:
        """Until the pods are gone, the time is up, or it cannot go on."""
        async with self._writes:
            return await self._run()

    async def _run(self) -> Outcome:
        try:
            async with asyncio.timeout(self._step.timeout_seconds):
                await self._patiently(self._cordoning.cordon)
                await self._patiently(self._take_stock)
                await self._empty()
        except TimeoutError:
            said = f"{self._step.node} was not drained within {self._step.timeout_seconds:g} s"
            return await self._give_up(said, temporary=True)
        except PermanentError as error:
            return await self._give_up(str(error), temporary=False)
        return self._outcome("succeeded", None)

    async def _patiently(self, act: Callable[[], Awaitable[None]]) -> None:
        """Until it works: an API that is away may come back in time."""
        for pause in growing():
            try:
                await act()
            except (TemporaryError, OutcomeUnknown) as error:
                self._trouble = str(error)
                await asyncio.sleep(pause)
            else:
                self._trouble = None
                return

    async def _take_stock(self) -> None:
        """What the node holds now that nothing new comes."""
        load = sorted_out(await self._client.of_node(self._step.node), self._step)
        check_allowed(self._step.node, load)
        self._pods = {pod.uid: Evicting(pod, leaving=pod.leaving) for pod in load.due}

    async def _empty(self) -> None:
        pauses, left = growing(), len(self._pods)
        while standing := self._standing():
            if len(standing) < left:
                pauses, left = growing(), len(standing)
            await self._evict_those(standing)
            await asyncio.sleep(next(pauses))
            await self._patiently(self._look)

    async def _look(self) -> None:
        found = {pod.uid: pod for pod in await self._client.of_node(self._step.node)}
        for uid, one in self._pods.items():
            one.seen(found.get(uid))

    def _standing(self) -> list[Evicting]:
        return [one for one in self._pods.values() if not one.gone]

    async def _evict_those(self, standing: list[Evicting]) -> None:
        now = asyncio.get_running_loop().time()
        due = [one for one in standing if not one.leaving and one.not_before <= now]
        await few_at_once(lambda one: self._writes.answered(self._evict(one)), due)
        if self._refused is not None:
            raise self._refused

    async def _evict(self, one: Evicting) -> None:
        if self._refused is not None:
            return
        now = asyncio.get_running_loop().time
        before, one.unanswered = one.unanswered, True
        try:
            answer = await self._client.evict(one.pod, grace_period_s=self._step.grace_period_seconds)
        except OutcomeUnknown as error:
            one.why = str(error)  # the next look tells, and else it is asked again: the uid makes that harmless
        except TemporaryError as error:  # it may never have been sent: an earlier one still waits for its answer
            one.unanswered = before
            one.held(str(error), error.delay_s, now())
        except PermanentError as error:
            one.unanswered = before
            one.held(str(error), None, now())
            self._refused = error
        else:
            if isinstance(answer, Held):
                one.unanswered = False
                one.held(answer.why, answer.delay_s, now())
            else:
                one.answered(answer)

    async def _give_up(self, said: str, *, temporary: bool) -> Outcome:
        """Hear what was asked last, uncordon what was cordoned here, look once more, and tell all of it."""
        trouble, refused = await self._writes.wind_up(self._cordoning.take_back, self._look)
        self._trouble = trouble or self._trouble
        evicted = f"{len(self._pods) - len(self._standing())} of {count(len(self._pods))} are gone"
        unanswered = sum(one.unanswered for one in self._pods.values())
        parts = [
            said,
            self._trouble,
            evicted if self._pods else None,
            self._held_back(),
            f"nobody knows whether {count(unanswered)} more will go: that was not answered" if unanswered else None,
            TOLD[self._cordoning.state],
        ]
        message = "; ".join(part for part in parts if part)
        unknown = self._cordoning.unanswered or unanswered > 0
        failure = ActionFailure(
            message=message[:MAX_MESSAGE], temporary=temporary and not (unknown or refused or self._refused)
        )
        return self._outcome("unknown" if unknown else "failed", failure)

    def _held_back(self) -> str:
        held = [f"{one.pod.named} ({one.why})" for one in self._standing() if one.why]
        return f"held back: {some(held, HELD_SHOWN)}" if held else ""

    def _outcome(self, outcome: OutcomeName, error: ActionFailure | None) -> Outcome:
        gone = [one.pod.named for one in self._pods.values() if one.gone]
        left: list[JsonValue] = [{"pod": one.pod.named, "why": one.standing} for one in self._standing()]
        output: dict[str, JsonValue] = {
            "evicted": [*gone[:LISTED]],
            "evicted_count": len(gone),
            "left": left[:LISTED],
            "left_count": len(left),
            "cordoned": self._cordoning.cordoned,
        }
        return Outcome(outcome=outcome, output=output, error=error, truncated=max(len(gone), len(left)) > LISTED)
