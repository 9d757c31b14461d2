"""Who may start: first come, first served, within each tenant's limit."""

from collections.abc import Iterable


def schedule(waiting: Iterable[tuple[str, int]], holding: int) -> tuple[str, ...]:
    """The executions that may start now.

    waiting: (execution_id, the max_concurrent_runbooks pinned in its request) of those that nothing else keeps from
    starting, in log order.
    holding: how many executions of the tenant hold a slot.
    The answer is level-based: an execution that may start stays in it until it holds a slot.
    """
    started: list[str] = []
    for execution_id, limit in waiting:
        if holding + len(started) >= limit:
            break
        started.append(execution_id)
    return tuple(started)
