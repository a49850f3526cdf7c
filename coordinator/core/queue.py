"""Which task goes next: by priority, then age, over all classes that have a node ready. A class without room blocks no other.

`state.active[priority]` is a heap of the classes with a task of that priority and at least one ready node, by the age of
their oldest task; `NeedsClass.listed` says in which of them a class stands.
"""

from __future__ import annotations

from heapq import heappush

from coordinator.core import tune
from coordinator.core.classes import NeedsClass
from coordinator.core.record import TaskRecord
from coordinator.core.state import Coordinator


def activate(state: Coordinator, cls: NeedsClass) -> None:
    """List a class that has a ready node under every priority that waits in it."""
    if not cls.ready:
        return
    for priority, queue in cls.queues.items():
        if queue and not cls.listed & (1 << priority):
            cls.listed |= 1 << priority
            heappush(state.active[priority], (queue[0].order, cls.number, cls))


def put(state: Coordinator, cls: NeedsClass, task: TaskRecord) -> None:
    """Let the task wait in its class; one that is older than the others goes to the front."""
    priority = task.priority
    queue = cls.queues[priority]
    task.cls = cls
    task.in_queue = True
    if queue and task.order < queue[0].order:
        queue.appendleft(task)
    else:
        queue.append(task)
    cls.pending += 1
    if not state.pending[priority]:  # standing still begins with having something to place
        state.placed_at[priority] = max(state.placed_at[priority], task.since)
    state.pending[priority] += 1
    if cls.ready and not cls.listed & (1 << priority):
        cls.listed |= 1 << priority
        heappush(state.active[priority], (queue[0].order, cls.number, cls))


def take_out(state: Coordinator, task: TaskRecord) -> None:
    """The task waits no longer; its place in the deque is skipped when it comes up, or goes when most of them are such."""
    if task.in_queue:
        task.in_queue = False
        cls = task.cls
        assert cls is not None
        cls.pending -= 1
        state.pending[task.priority] -= 1
        queue = cls.queues[task.priority]
        if not cls.pending:
            for queue in cls.queues.values():
                queue.clear()
        elif len(queue) > 2 * cls.pending + tune.COMPACT_MIN:
            left = [t for t in queue if t.in_queue and t.cls is cls]
            queue.clear()
            queue.extend(left)


def measure_flow(state: Coordinator, seconds: float) -> None:
    """Take what each class placed in the last `seconds` into its rate."""
    for cls in state.classes.all():
        if cls.flowed or cls.rate:
            rate = (cls.rate + cls.flowed / seconds) / 2
            cls.rate = rate if rate > 0.01 else 0.0
            cls.flowed = 0
