"""Exclusive work: it never runs at two places at a time, also when its node is cut off and cannot be told to stop.

A node runs an exclusive attempt only under a lease, which a heartbeat asks for and its answer renews. It ends on the node's
own clock `limits.EXCLUSIVE_LEASE_S` after the beat was *sent*; here it counts from the answer, which is later, and
`EXCLUSIVE_MARGIN_S` more: so when it is over here, it is over there. Until then the task keeps its place. What was never
granted never ran; what its node told the end of has ended. A coordinator that takes over knows only that no lease was
granted after its predecessor's own: it waits for one full lease from then.
"""

from __future__ import annotations

from coordinator.core.actions import Renew
from coordinator.core.nodeview import NodeView
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.membership import Heartbeat, Renewed


def longest_s() -> float:
    """How long after this moment a lease that is granted before it can last, by our clock."""
    return limits.EXCLUSIVE_LEASE_S + limits.EXCLUSIVE_MARGIN_S


def renew(state: Coordinator, node: NodeView, beat: Heartbeat, reply: str, now: float, out: Out) -> None:
    """Answer a beat that asks: the exclusive attempts that the node holds and that count may run (on)."""
    granted = []
    for held in beat.held if state.term else ():
        task = node.attempts.get(held.task)
        if task is None or not task.head.exclusive or task.history.placement != held.placement:
            continue
        if task.state in (Life.PLACING, Life.PLACED):
            task.lease_until = now + longest_s()
            granted.append((held.task, held.placement))
    out.append(Renew(reply, Renewed(state.term, node.boot, limits.EXCLUSIVE_LEASE_S, tuple(granted))))


def inherited(state: Coordinator, task: TaskRecord, since: float) -> None:
    """An earlier term may have granted its node a lease, up to `since`."""
    if task.head.exclusive:
        task.lease_until = max(task.lease_until, since + longest_s())


def holds_back(state: Coordinator, task: TaskRecord, now: float) -> bool:
    """Whether the task must keep its place, since a node may still run it. It goes on by itself when that is over."""
    if not task.head.exclusive or now >= task.lease_until:
        return False
    task.to(Life.WAITING, now)
    left_s = task.lease_until - now
    task.reason = f"it is exclusive, and node {task.bound} may run it for {left_s:.0f} s more: its lease has not ended"
    state.at(task.lease_until, _lease_over, task)
    return True


def _lease_over(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """RESULTS is asked once more: it may have ended under its lease."""
    waits = state.tasks.get(task.id) is task and task.state is Life.WAITING and not task.in_queue
    if waits and not task.parked and task.lease_until <= now:
        task.to(Life.ASKING, now)
        state.to_ask.append(task)
