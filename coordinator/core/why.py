"""Why a task is where it is, or nowhere: in words, and in figures. Uses the very filters that placing uses."""

from __future__ import annotations

from collections import Counter
from itertools import islice

from coordinator.core.accounts import has_room
from coordinator.core.classes import NeedsClass
from coordinator.core.filters import against
from coordinator.core.nodeview import NodeView
from coordinator.core.rank import shown
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator
from schemas import limits
from schemas.api import Against, Why

NODES_TOLD = 20
WORDS_FRESH_S = 1.0
WORDS_NODES = 2000  # nodes that are looked through for a reason in one line


def explain(state: Coordinator, task_id: str) -> Why | None:
    """Why this node, or why none, for a task that is held or ended lately; None for others."""
    task = state.tasks.get(task_id) or state.done_why.get(task_id)
    if task is None:
        return None
    if task.place_failures and task.state is Life.PLACING:
        return Why(text=task.reason, nodes=len(state.nodes))
    if task.why and (task.node is not None or task_id not in state.tasks):
        return why_node(task)
    return why_none(state, task)


def why_node(task: TaskRecord) -> Why:
    """The candidates of the last placement with their factors, best first."""
    rows = sorted(task.why, key=lambda c: -c[1])
    candidates = tuple(shown(c, c[0] == task.bound) for c in rows)
    text = f"{task.bound} had the best score of {len(rows)} node{'s' if len(rows) > 1 else ''} with room"
    return Why(text=text, placed_at=task.placed_at, candidates=candidates)


def why_none(state: Coordinator, task: TaskRecord) -> Why:
    """What stands against each node, now."""
    cls = task.cls
    if task.state in (Life.ASKING, Life.SPLITTING, Life.CONCLUDING) or cls is None:
        return Why(text=task.reason or "its result is being looked up", nodes=len(state.nodes))
    failing: Counter[str] = Counter()
    told: list[Against] = []
    for node in state.nodes.values():
        reasons = against(cls, node) or room_reasons(cls, node, task.priority)
        failing.update(name for name, _ in reasons)
        if reasons and len(told) < NODES_TOLD:
            told.append(Against(node.id, tuple(text for _, text in reasons)))
    if task.state is Life.WAITING and not task.in_queue:
        text = task.reason or "it backs off before the next try"
    elif task.in_queue:
        text = words_now(state, cls)
    else:
        text = "it is being placed"
    return Why(text=text, nodes=len(state.nodes), failing=dict(failing), against=tuple(told))


def room_reasons(cls: NeedsClass, node: NodeView, priority: int) -> list[tuple[str, str]]:
    """Why a node that fits has no room just now."""
    if has_room(node, cls, cls.last_cost, priority):
        return []
    if node.reserved is not None and node.reserved[0] is not cls:
        return [("reserved", "it is kept free for a task that waits longer")]
    reasons: list[tuple[str, str]] = []
    if node.count >= node.slots:
        reasons.append(("slots", f"all its {node.slots} slots are taken"))
    if node.cores_free < cls.cores:
        reasons.append(("free cores", f"{max(0.0, node.cores_free):g} of {node.cores:g} cores are free"))
    if node.memory_free < cls.memory_mb:
        reasons.append(("free memory", f"{max(0, node.memory_free)} of {node.memory_now} MiB of memory are free"))
    return reasons or [("queue", "its queue is full")]


def words(state: Coordinator, cls: NeedsClass, now: float) -> str:
    """`words_now`, kept for a second, since it looks at many nodes and many tasks may ask."""
    if not 0 <= now - cls.words_at < WORDS_FRESH_S:
        cls.words, cls.words_at = words_now(state, cls), now
    return cls.words


def words_now(state: Coordinator, cls: NeedsClass) -> str:
    """In one line why nothing takes tasks of a class."""
    nodes = [n for n in islice(state.nodes.values(), WORDS_NODES) if not n.is_lost()]
    return _words(cls, nodes)[: limits.REASON_MAX]


def _words(cls: NeedsClass, nodes: list[NodeView]) -> str:
    if not nodes:
        return "no node is known"
    if cls.fits:
        return "every node that fits is busy"
    near: list[tuple[int, str, str]] = []  # the nodes with the fewest reasons say most
    for node in nodes:
        reasons = against(cls, node)
        if reasons:
            near.append((len(reasons), node.id, " and ".join(text for _, text in reasons)))
    near.sort()
    told = "; ".join(f"{node}: {text}" for _, node, text in near[:3])
    more = f" (and {len(near) - 3} more)" if len(near) > 3 else ""
    return f"no node fits: {told}{more}"
