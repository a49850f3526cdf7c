"""Tasks without a needs-class are looked at again: a few at a time, since each may make a class and look at all nodes."""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.intake import enqueue
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out


def retry_unclassed(state: Coordinator, now: float, out: Out) -> None:
    """Look again at tasks for whose needs there was no class, and, since a node came, at those that none could take."""
    number = max(1, min(tune.LOOK_PAST, tune.NODES_LOOKED_AT // (len(state.nodes) + 1)))
    for _ in range(min(len(state.unclassed), number)):
        _retry(state, state.unclassed.popleft(), now, out)
    for _ in range(min(state.aside_left, len(state.aside), number)):
        state.aside_left -= 1
        _retry(state, state.aside.popitem(last=False)[1], now, out)


def _retry(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    if state.tasks.get(task.id) is task and task.state is Life.WAITING and not task.in_queue and task.not_before <= now:
        enqueue(state, task, now, out)
