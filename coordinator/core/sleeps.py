"""Sleeps that nodes announce: asked for by operators, and known to whoever takes over meanwhile.

That a sleeper is not lost for its silence is liveness.py's: its next beat is simply due later.
"""

from __future__ import annotations

from msgspec import structs

from coordinator.core.actions import Command, StoreNode
from coordinator.core.events import SleepAsked
from coordinator.core.nodeview import NodeView
from coordinator.core.state import Coordinator, Out

MOVED_S = 10.0  # an announced end that moved by less is not written again


def sleep_asked(state: Coordinator, event: SleepAsked, now: float, out: Out) -> None:
    """Tell the node. That it sleeps, or is awake again, its next beat says."""
    if event.node not in state.nodes:
        return
    if event.wake:
        out.append(Command(event.node, "wake", reason="an operator wakes it"))
    else:
        out.append(Command(event.node, "sleep", for_s=event.for_s))


def remember(node: NodeView, gap_s: float, now: float, out: Out) -> None:
    """Have it in the node's record until when it sleeps, or that it does not any more."""
    until = now + gap_s if node.asleep else 0.0
    if abs(until - node.record.asleep_until) > MOVED_S:
        node.record = structs.replace(node.record, asleep_until=until, last_seen=now)
        out.append(StoreNode(node.record, node.revision))
