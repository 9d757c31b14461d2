"""Which pods a drain evicts, which it leaves, and which forbid it; the rules are kubectl's."""

from collections.abc import Iterable
from dataclasses import dataclass

from app.actions.pod_texts import count, some
from app.clients.kubernetes import Pod
from app.core.errors import PermanentError
from app.core.steps import KubernetesDrain


@dataclass(frozen=True, slots=True)
class Load:
    """The pods of a node, sorted, each by name.

    due: to be evicted. daemons: a daemon set would bring them back at once. mirrors: the node's own static pods, which
    the API cannot evict. unmanaged: nothing would bring them back. with_data: what is in their emptyDir volumes would
    be lost. The last two forbid the drain, unless the step allows it.
    """

    due: tuple[Pod, ...]
    daemons: tuple[Pod, ...]
    mirrors: tuple[Pod, ...]
    unmanaged: tuple[Pod, ...]
    with_data: tuple[Pod, ...]


def sorted_out(pods: Iterable[Pod], step: KubernetesDrain) -> Load:
    """Sort a node's pods by what the step allows."""
    named = sorted(pods, key=lambda pod: pod.named)
    mirrors = tuple(pod for pod in named if pod.mirror)
    daemons = tuple(pod for pod in named if not pod.mirror and _is_daemon(pod))
    movable = tuple(pod for pod in named if not pod.mirror and not _is_daemon(pod))
    kept = tuple(pod for pod in movable if not pod.finished and not pod.leaving)
    return Load(
        due=movable,
        daemons=daemons,
        mirrors=mirrors,
        unmanaged=() if step.force else tuple(pod for pod in kept if pod.controller is None),
        with_data=() if step.delete_emptydir_data else tuple(pod for pod in kept if pod.has_emptydir),
    )


def check_allowed(node: str, load: Load) -> None:
    """Raises PermanentError that names the pods which forbid the drain."""
    reasons = []
    if load.unmanaged:
        reasons.append(f"nothing would bring back {_listed(load.unmanaged)}; force evicts them")
    if load.with_data:
        reasons.append(
            f"emptyDir volumes would be lost with {_listed(load.with_data)}; delete_emptydir_data evicts them"
        )
    if reasons:
        raise PermanentError(f"{node} cannot be drained: {'; '.join(reasons)}")


def _is_daemon(pod: Pod) -> bool:
    """One that has ended can go like any other."""
    return pod.controller is not None and pod.controller.kind == "DaemonSet" and not pod.finished


def _listed(pods: tuple[Pod, ...]) -> str:
    return f"{count(len(pods))} ({some([pod.named for pod in pods])})"
