"""When a map chunk is split, and into what: one too long for the node that it is placed on, and one that kills what runs it.

The rule knows spans, times and histories only; `split` then has the parts stored, and `parted` goes on from there.
"""

from __future__ import annotations

from math import ceil

from coordinator.core import tune
from coordinator.core.actions import Split
from coordinator.core.nodeview import NodeView
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.chunks import Span
from schemas.task import History, MapHead

KILLS = ("died", "timeout", "memory")  # of `AttemptError.kind`


def cut(span: Span, number: int) -> tuple[Span, ...]:
    """The span in `number` parts that differ by one item at most; in as many as it has items, if those are fewer."""
    number = max(1, min(number, span.count))
    size, longer = divmod(span.count, number)
    sizes = [size + 1] * longer + [size] * (number - longer)
    return tuple(Span(span.first + sum(sizes[:i]), size) for i, size in enumerate(sizes))


def for_speed(span: Span, item_ms: float | None, speed: float, split_ms: float) -> tuple[Span, ...]:
    """Parts of about half of `split_ms` on a node that needs `speed` × `item_ms` for an item; () when it may stay whole.

    It may when it takes at most `split_ms` or is a single item, and when nothing is known of how long an item takes.
    """
    if item_ms is None or span.count < 2:
        return ()
    ms = item_ms * speed * span.count
    return cut(span, ceil(min(tune.PARTS_MAX, 2 * ms / split_ms))) if ms > split_ms else ()


def kills(history: History) -> bool:
    """Whether the last attempt ended with its runner (or was stopped by its timeout), or nodes were lost under it so often
    that it is the likely cause."""
    if not history.errors:
        return False
    kind = history.errors[-1].kind
    lost = min(history.lost, history.attempts)  # what was lost before it began is no sign
    return kind in KILLS or (kind == "lost" and lost >= tune.LOST_SPLIT)


def too_long(state: Coordinator, task: TaskRecord, node: NodeView, now: float, out: Out) -> bool:
    """Split a task that is about to be placed at a node on whose books it is, if it is too long for it.

    It stays on the books until its parts are stored: so the node's room is kept for them, not for the next long chunk.
    """
    span = _span(task)
    if span is None or task.cls is None:
        return False
    item_ms = task.cls.estimate.ms
    parts = for_speed(span, item_ms, node.speed, state.split_ms)
    if not parts or item_ms is None:
        return False
    seconds = item_ms * node.speed * span.count / 1000
    split(state, task, parts, f"it would run for about {seconds:.3g} s on {node.id}", now, out)
    return True


def halve(state: Coordinator, task: TaskRecord, now: float, out: Out) -> bool:
    """Split a chunk that kills what runs it, in place of another try, so that the item that does it is found in the end.

    One that must not be tried again (`Retry.limit` 0) is not tried in parts either.
    """
    span = _span(task)
    if span is None or span.count < 2 or not task.head.retry.limit or not kills(task.history):
        return False
    split(state, task, cut(span, 2), f"to find what ended it: {task.history.errors[-1].error}", now, out)
    return True


def _span(task: TaskRecord) -> Span | None:
    run = task.head.run
    return Span(run.first, run.count) if isinstance(run, MapHead) and not task.whole else None


def split(state: Coordinator, task: TaskRecord, parts: tuple[Span, ...], why: str, now: float, out: Out) -> None:
    """Have the parts stored as tasks of their own. They take their place in the queue by the age of the whole."""
    task.to(Life.SPLITTING, now)
    task.reason = f"split into {len(parts)} parts: {why}"[: limits.REASON_MAX]
    run = task.head.run
    assert isinstance(run, MapHead), task.id
    for i, part in enumerate(parts):
        state.ages[(task.submitter, run.job, part.first, part.count)] = task.order - (len(parts) - i) * tune.AGE_STEP_S
    while len(state.ages) > tune.SPLITS_KEPT:
        state.ages.popitem(last=False)
    left_s = None if task.deadline_at is None else max(0.001, task.deadline_at - now)
    out.append(Split(task.id, task.submitter, parts, task.source, left_s))
