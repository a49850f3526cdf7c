"""What a node holds against what it should: attempts that do not count are stopped, those that are missing are lost."""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.actions import Command
from coordinator.core.life import adopt, lose
from coordinator.core.nodeview import NodeView
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.membership import Heartbeat, Register


def sort_held(
    state: Coordinator, node: NodeView, request: Register, new_boot: bool, now: float, out: Out
) -> tuple[str, ...]:
    """Which attempts the node keeps: all that are on its books. What a former boot had and this one has not is lost at once."""
    kept = set()
    for h in request.held:
        task = state.tasks.get(h.task)
        if task is None or task.history.placement != h.placement or task.bound != node.id:
            continue
        if task.node is node or adopt(state, node, task, now):
            _runs(task, h.running, now)
            kept.add(h.task)
    if new_boot:
        gone = [t for t in node.attempts.values() if t.id not in kept and t.state is not Life.SPLITTING]
        lose(state, node, gone, f"node {node.id} was started anew", now, out)
    return tuple(node.attempts)


def check_held(state: Coordinator, node: NodeView, b: Heartbeat, back: bool, now: float, out: Out) -> None:
    """Compare what the node holds with what it should. Only work that had reached it when it spoke can be missing."""
    here = 0
    orphans: list[tuple[str, int]] = []
    for h in b.held:
        task = node.attempts.get(h.task)
        if task is not None and task.history.placement == h.placement:
            _runs(task, h.running, now)
            task.missed_in = -1
            here += 1
        elif not _take_back(state, node, h.task, h.placement, now):
            orphans.append((h.task, h.placement))
    if orphans or node.orphans:
        _stop_orphans(state, node, orphans, back, out)
    if here < len(node.attempts) and state.term:
        _find_missing(state, node, b, now, out)


def _runs(task: TaskRecord, running: bool, now: float) -> None:
    if running and not task.running:
        task.running_since = now
    task.running = running


def _take_back(state: Coordinator, node: NodeView, task_id: str, placement: int, now: float) -> bool:
    """A node that was given up holds the placement that counts, and the task was not moved yet."""
    task = state.tasks.get(task_id)
    if task is None or task.history.placement != placement or task.bound != node.id or not node.takes_work():
        return False
    return adopt(state, node, task, now)


def _stop_orphans(state: Coordinator, node: NodeView, orphans: list[tuple[str, int]], back: bool, out: Out) -> None:
    """Stop attempts that do not count: at once when that is certain, else (they may just have ended) at the next beat.

    Each by its placement: the same task may be on its way to this very node again by the time that the command is there.
    """
    stop = [orphan for orphan in orphans if _may_stop(state, node, orphan, back)] if state.term else []
    if stop:
        tasks, placements = zip(*stop, strict=True)
        out.append(Command(node.id, "cancel", tasks=tasks, placements=placements, reason="moved or done"))
    node.orphans = frozenset(orphans)


def _may_stop(state: Coordinator, node: NodeView, orphan: tuple[str, int], back: bool) -> bool:
    task = state.tasks.get(orphan[0])
    if task is None:
        return back or orphan in node.orphans
    if task.node is node:
        return False  # the current placement is here as well, and a cancel would end both
    if task.source.stream == "work" and task.source_placement == orphan[1]:
        return False  # the node would ack the only message that holds the task: not before it lies elsewhere
    return back or task.history.placement > orphan[1] or orphan in node.orphans


def _find_missing(state: Coordinator, node: NodeView, b: Heartbeat, now: float, out: Out) -> None:
    """Attempts that reached the node and are not held: after one more beat they are lost (their result may be under way).

    Those that do not reach it, though it beats, are placed elsewhere, or there again after a while.
    """
    held = {h.task for h in b.held}
    gone: list[TaskRecord] = []
    unreached: list[TaskRecord] = []
    for task in node.attempts.values():
        if task.id in held or task.state is not Life.PLACED or not task.seq:
            continue
        if task.seq > b.seen_seq and now - task.since <= limits.WORK_ACK_WAIT_S:
            continue
        if task.missed_in < 0:
            task.missed_in = b.seq
        else:
            (unreached if task.seq > b.seen_seq else gone).append(task)
    lose(state, node, gone, f"node {node.id} does not hold it any more", now, out)
    for task in unreached:
        task.shunned = {**(task.shunned or {}), node.id: now + tune.SHUN_RETURNED_S}
    lose(state, node, unreached, f"it did not reach node {node.id}", now, out, reached=False)
