"""Which tasks may move to the waiting place, and what becomes of those for whose needs there is no class."""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.placing import park
from coordinator.core.queue import take_out
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out
from coordinator.core.why import words


def may_park(state: Coordinator, task: TaskRecord) -> bool:
    """Whether the waiting place has room for it, and its submitter a share left. If not it stays in TASKS, besides the window,
    so that others pass it; what an outcome tells of is not held up."""
    if not (task.windowed or task.stays):
        return True
    share = state.parked_by.get(task.submitter, 0) < tune.WAITING_MAX * tune.SUBMITTER_SHARE
    if share and state.waiting_room() > 0:
        return True
    if task.windowed:
        task.windowed, task.stays = False, True
        state.window[task.priority] -= 1
        state.stayed[task.priority] += 1
    return False


def no_class(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """Too many different needs wait at a time; this one is looked at again when some are done."""
    reason = "too many different kinds of needs wait at the same time"
    if not _parked_without(state, task, reason, now, out):
        state.unclassed.append(task)


def set_hopeless_aside(state: Coordinator, pinned: bool, now: float, out: Out) -> bool:
    """Make room for another class: tasks that no known node could take wait without one until a node comes or changes."""
    classes = state.classes.hopeless(pinned)
    for cls in classes:
        reason = words(state, cls, now)
        for queue in cls.queues.values():
            for task in [t for t in queue if t.in_queue and t.cls is cls]:
                take_out(state, task)
                if not _parked_without(state, task, reason, now, out):
                    state.aside[task.id] = task
        state.classes.drop(cls)
    return bool(classes)


def _parked_without(state: Coordinator, task: TaskRecord, reason: str, now: float, out: Out) -> bool:
    """Have the task wait without a class; False where it lies in the right place for that already."""
    task.cls = None
    if task.source.stream != "work" and may_park(state, task):
        park(state, task, now, reason, out)
        return True
    task.reason = task.park_reason or reason
    if task.state is not Life.WAITING:
        task.to(Life.WAITING, now)
    return False
