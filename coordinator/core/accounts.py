"""What each node holds, and whether it has room for more: cores, memory, number, and estimated backlog.

Room: the cores, the memory and a slot are free for it now; or the node could hold it and its queue, this task included,
stays under `tune.QUEUE_MS` of work per core. So a node is never idle for want of work, and never has more than it can do.
"""

from __future__ import annotations

from coordinator.core.classes import NeedsClass
from coordinator.core.nodeview import NodeView
from coordinator.core.queue import activate
from coordinator.core.record import TaskRecord
from coordinator.core.state import Coordinator
from schemas import limits


def has_room(node: NodeView, cls: NeedsClass, ms: float, priority: int) -> bool:
    """Whether a task of the class, expected to take `ms`, may be placed at the node now."""
    reserved = node.reserved
    if reserved is not None and reserved[0] is not cls and priority <= reserved[1]:
        return False
    if node.count < node.slots and node.cores_free >= cls.cores and node.memory_free >= cls.memory_mb:
        return True
    return node.count < limits.NODE_QUEUE_MAX and node.backlog_ms + ms * node.speed * cls.cores <= node.queue_ms


def charge(node: NodeView, task: TaskRecord, ms: float) -> None:
    """Book the task at the node."""
    cls = task.cls
    assert cls is not None and task.node is None, task.id
    task.node = node
    task.cost_ms = ms * node.speed * cls.cores
    node.attempts[task.id] = task
    node.count += 1
    node.cores_free -= cls.cores
    node.memory_free -= cls.memory_mb
    node.backlog_ms += task.cost_ms


def release(state: Coordinator, task: TaskRecord) -> None:
    """Take the task off its node's books, if it is on any; classes that found the node full look at it again."""
    node, cls = task.node, task.cls
    if node is None or cls is None:
        return
    task.node = None
    del node.attempts[task.id]
    node.count -= 1
    if node.count:
        node.cores_free += cls.cores
        node.backlog_ms = max(0.0, node.backlog_ms - task.cost_ms)
    else:  # no float error may add up over days
        node.cores_free, node.backlog_ms = node.cores, 0.0
    node.memory_free += cls.memory_mb
    if node.blocked:
        reopen(state, node)


def reopen(state: Coordinator, node: NodeView) -> None:
    """Make the node ready again for those blocked classes that it has room for now."""
    for cls in list(node.blocked):
        if cls.dead:
            del node.blocked[cls]
            continue
        if has_room(node, cls, cls.last_cost, _wants(cls)):
            cls.unblock(node)
            if cls.pending:
                activate(state, cls)


def _wants(cls: NeedsClass) -> int:
    """The highest priority that waits in a class."""
    for priority, queue in cls.queues.items():
        if queue:
            return priority
    return 0
