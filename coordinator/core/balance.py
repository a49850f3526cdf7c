"""Taking waiting tasks back from overloaded nodes, for others that have room (SPEC 2.9); and whether capacity is short.

A node's queue is short by estimate, but estimates fail: a function that took a millisecond takes a minute. So a task that
its node still says to be waiting after `tune.BEHIND_S`, while another node is ready for it, is asked back: the node gives it
back if it waits there still, which is no failure, and it is placed anew. A node whose load or memory is over its limits gives
back at once what waits. Nothing is asked back that nobody else has room for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from coordinator.core import tune
from coordinator.core.actions import Command
from coordinator.core.nodeview import NodeView
from coordinator.core.record import Life, TaskRecord
from coordinator.core.state import Coordinator, Out
from schemas.task import TaskPriority


def relieve(state: Coordinator, now: float, out: Out) -> None:
    """Look at some nodes that hold tasks, the next ones each time, and ask back what others can do sooner."""
    if not state.to_relieve:
        state.to_relieve = [node for node in state.nodes.values() if node.count > 1]
    some = list(islice(state.to_relieve, tune.RELIEVE_LOOK))
    del state.to_relieve[: len(some)]
    for node in some:
        if node.count and now - node.relieved_at >= tune.RELIEVE_AGAIN_S and state.nodes.get(node.id) is node:
            _relieve(state, node, now, out)


def _relieve(state: Coordinator, node: NodeView, now: float, out: Out) -> None:
    overload = overloaded(node)
    patience_s = 0.0 if overload else tune.BEHIND_S
    waiting = [t for t in node.attempts.values() if _waits(t) and now - t.placed_at >= patience_s]
    waiting.sort(key=lambda t: (-t.priority, t.order))
    room: dict[int, int] = {}  # class number → free slots that this turn has not counted on
    back = []
    for task in waiting:
        cls = task.cls
        assert cls is not None, "what is charged has a class"
        left = room[cls.number] if cls.number in room else _free_slots(state, cls.ready & ~node.bit)
        room[cls.number] = left
        if left:
            room[cls.number] = left - 1
            back.append(task.id)
    if back:
        node.relieved_at = now
        reason = overload or "its node is behind its peers"
        state.counts["asked back"] += len(back)
        out.append(Command(node.id, "giveback", tasks=tuple(back), reason=reason))


def _free_slots(state: Coordinator, ready: int) -> int:
    """Of the first few nodes of a bitset, all together."""
    free = looked = 0
    while ready and looked < tune.HELPERS_LOOK:
        low = ready & -ready
        other = state.slots[low.bit_length() - 1]
        free += 0 if other is None else max(0, other.slots - other.count)
        ready ^= low
        looked += 1
    return free


def _waits(task: TaskRecord) -> bool:
    """Whether its node said that it waits there. Exclusive work keeps its place: it may have a lease already."""
    return task.running is False and task.state is Life.PLACED and not task.head.exclusive and not task.cancelled


def overloaded(node: NodeView) -> str:
    """What of the node is over its limits, in words: load that is not ours, or memory. "" when nothing is known to be."""
    if 1.0 - node.idle >= tune.FOREIGN_LOAD_MAX:
        return f"{node.id} is overloaded: {100 * (1 - node.idle):.0f} % of its processor is used by others"
    free, total = node.device.ram_available_mb, node.record.capabilities.ram_total_mb
    if isinstance(free, int) and total and free < tune.RAM_FREE_MIN * total:
        return f"{node.id} is overloaded: {free} of {total} MiB of memory are free"
    return ""


def shortage(state: Coordinator, now: float) -> Iterator[str]:
    """That the fleet is degraded, and why: tasks wait for a free slot for longer than `tune.SHORT_S`, by priority."""
    waits: Counter[int] = Counter()
    oldest = now
    for priority, count, since in _waiting_long(state, now):
        waits[priority] += count
        oldest = min(oldest, since)
    if not waits:
        return
    told = ", ".join(f"{count} {TaskPriority(p).name.lower()}" for p, count in sorted(waits.items(), reverse=True))
    working = [n for n in state.nodes.values() if n.takes_work()]
    used, slots = sum(min(n.count, n.slots) for n in working), sum(n.slots for n in working)
    yield (
        f"degraded: capacity falls short, {told} wait for a free slot, the longest for {now - oldest:.0f} s; "
        f"{used} of {slots} slots are used. Higher priorities go first, map chunks are cut smaller"
    )


def shrink_chunks(state: Coordinator, now: float) -> None:
    """While capacity falls short, long map chunks are cut smaller, so that slots come free sooner for what goes first."""
    short = next(_waiting_long(state, now), None) is not None
    state.split_ms = tune.SPLIT_SHORT_MS if short else tune.SPLIT_MS


def _waiting_long(state: Coordinator, now: float) -> Iterator[tuple[int, int, float]]:
    """(priority, tasks, since when) of each queue whose first task fits a node and waits for a slot there for too long."""
    for cls in state.classes.all():
        for priority, queue in cls.queues.items():
            head = cls.head(priority)
            if head is not None and cls.fits and now - head.since >= tune.SHORT_S:
                yield priority, len(queue), head.since
