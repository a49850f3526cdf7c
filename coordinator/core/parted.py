"""What follows a split: the parts are stored and the whole has its one result, or it could not be split and goes on whole."""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.accounts import release
from coordinator.core.actions import Emit, Log
from coordinator.core.ends import cancel_asked, conclude, expire, fail
from coordinator.core.events import CancelAsked, SplitEnded
from coordinator.core.intake import enqueue
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out
from schemas.event import TaskEvent
from schemas.task import ResultState


def split_ended(state: Coordinator, event: SplitEnded, now: float, out: Out) -> None:
    """The broker stored the parts of a task, or it cannot be split."""
    task = state.tasks.get(event.task)
    if task is None or task.state is not Life.SPLITTING:
        return
    release(state, task)
    if event.parts:
        state.parts[task.id] = event.parts
        if len(state.parts) > tune.SPLITS_KEPT:
            state.parts.popitem(last=False)
    if task.cancelled:
        cancel = CancelAsked(task.id, task.submitter, task.cancelled)
        task.to(Life.QUEUED, now)
        cancel_asked(state, cancel, now, out)
    elif event.parts:
        _tell(task, out)
        conclude(state, task, ResultState.SUCCEEDED, task.reason, now, out, event.parts)
    else:
        out.append(Log("warning", "a chunk goes on whole", {"task": task.id, "error": event.error}))
        _go_on(state, task, now, out)


def _tell(task: TaskRecord, out: Out) -> None:
    h = task.history
    data = TaskEvent(task.id, task.submitter, placement=h.placement, attempt=h.attempts, reason=task.reason)
    out.append(Emit("task.split", task.id, f"{task.id}.{h.placement}.split", data))


def _go_on(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """As if nobody had thought of splitting it."""
    task.whole = True
    if task.deadline_at is not None and task.deadline_at <= now:
        task.to(Life.QUEUED, now)
        expire(state, task, now, out)
    elif task.history.retries_used > task.head.retry.limit:
        fail(state, task, now, out)
    else:
        enqueue(state, task, now, out)
