"""Keeping a node free for a task that smaller ones flow past, so that a big one does not starve.

A class reserves a node when its oldest task has found no room for `tune.RESERVE_AFTER_S` while younger tasks of equal or
lower priority were placed. Nothing of equal or lower priority goes to that node until a task of the class was placed.
"""

from __future__ import annotations

from coordinator.core import tune
from coordinator.core.classes import PRIORITIES, NeedsClass
from coordinator.core.nodeview import NodeView
from coordinator.core.placing import unreserve
from coordinator.core.state import Coordinator


def reserve(state: Coordinator, now: float) -> None:
    """Look at every class that waits without a ready node; give up reservations that nobody needs any more."""
    for cls in state.classes.all():
        if cls.reserved is not None and (not cls.pending or not cls.fits & cls.reserved.bit):
            unreserve(state, cls)
        if cls.pending and not cls.ready and cls.fits and cls.reserved is None:
            priority = _passed_by(state, cls, now)
            if priority:
                _keep_free(state, cls, priority)


def _passed_by(state: Coordinator, cls: NeedsClass, now: float) -> int:
    """The priority at which the class's oldest task waits too long while younger ones pass; 0 when none does."""
    for priority in PRIORITIES:
        task = cls.head(priority)
        if task is None or now - task.since < tune.RESERVE_AFTER_S:
            continue
        if any(state.youngest[p] > task.order for p in PRIORITIES if p <= priority):
            return priority
    return 0


def _keep_free(state: Coordinator, cls: NeedsClass, priority: int) -> None:
    """Reserve the fitting node that will be free first: the least backlog, then the most free cores."""
    best: NodeView | None = None
    for node in _fitting(state, cls):
        if node.reserved is None and (best is None or _order(node) < _order(best)):
            best = node
    if best is not None:
        best.reserved = (cls, priority)
        cls.reserved = best


def _order(node: NodeView) -> tuple[float, float]:
    return (node.backlog_ms / node.cores, -node.cores_free)


def _fitting(state: Coordinator, cls: NeedsClass) -> list[NodeView]:
    """Up to `tune.RESERVE_LOOK` nodes that fit, from a random slot on."""
    found: list[NodeView] = []
    start = int(state.rng.random() * len(state.slots))
    for part, base in ((cls.fits >> start, start), (cls.fits & ((1 << start) - 1), 0)):
        bits = part
        while bits and len(found) < tune.RESERVE_LOOK:
            low = bits & -bits
            node = state.slots[base + low.bit_length() - 1]
            if node is not None:
                found.append(node)
            bits ^= low
    return found
