"""Needs-classes: tasks with the same needs share one bitset of nodes, so that finding one does not grow with the fleet.

`ready` has a bit for every node that passes all filters and is not known to be full. That a node is full is noticed when it
is sampled (its bit goes, the node remembers the class as blocked), and undone when the node gets room: both cost a constant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple

from coordinator.core import tune
from coordinator.core.estimates import Estimate, Estimates
from coordinator.core.filters import could_fit, fits_now
from coordinator.core.nodeview import NodeView
from schemas.task import FunctionHead, MapHead, Needs, TaskHead

if TYPE_CHECKING:
    from coordinator.core.record import TaskRecord

PRIORITIES = (10, 7, 3, 1)
DEFAULT_NEEDS = Needs()
NOBODY: frozenset[str] = frozenset()


class Wanted(NamedTuple):
    """`schemas.task.Needs`, hashable."""

    cores: float
    memory_mb: int
    storage_mb: int
    gpu: bool
    arch: str
    frameworks: tuple[str, ...]
    labels: tuple[tuple[str, str], ...]
    node: str
    cluster: str


# kind, function, long, large input, nodes to avoid, needs (None: the default ones), whose durations to go by
Key = tuple[str, str, bool, bool, frozenset[str], Wanted | None, str]


class NeedsClass:
    """One kind of needs, with the tasks that wait for a node of that kind: a deque per priority, oldest first.

    `could`: nodes that are a place for it at all. `fits`: those that nothing but room stands against now.
    """

    __slots__ = (
        "arch", "avoid", "cluster", "cores", "could", "dead", "estimate", "fits", "flowed", "frameworks", "function",
        "gpu", "key", "kind", "labels", "large", "last_cost", "listed", "long", "memory_mb", "node", "number",
        "park_at", "pending", "queues", "rate", "ready", "reserved", "storage_mb", "used_at", "words", "words_at",
    )  # fmt: skip

    def __init__(self, key: Key, number: int, estimate: Estimate) -> None:
        self.kind, self.function, self.long, self.large, self.avoid, demand, _ = key
        w = demand or DEFAULT_WANTED
        self.cores, self.memory_mb, self.storage_mb, self.gpu, self.arch = (
            w.cores,
            w.memory_mb,
            w.storage_mb,
            w.gpu,
            w.arch,
        )
        self.frameworks, self.labels, self.node, self.cluster = w.frameworks, w.labels, w.node, w.cluster
        self.key = key
        self.number = number
        self.estimate = estimate
        self.could = self.fits = self.ready = 0
        self.queues: dict[int, deque[TaskRecord]] = {p: deque() for p in PRIORITIES}
        self.listed = 0  # sum of the priorities whose active list names this class
        self.pending = 0
        self.flowed, self.rate = 0, 0.0  # placements since the last housekeeping, and a second
        self.last_cost = 0.0
        self.reserved: NodeView | None = None
        self.park_at = 0.0
        self.used_at = 0.0
        self.dead = False
        self.words, self.words_at = "", float("-inf")

    def look_at(self, node: NodeView) -> bool:
        """Work out this node's bits anew; True if it became ready."""
        bit = node.bit
        could = could_fit(self, node)
        fits = could and fits_now(self, node)
        self.could = self.could | bit if could else self.could & ~bit
        self.fits = self.fits | bit if fits else self.fits & ~bit
        node.blocked.pop(self, None)
        if not fits:
            self.ready &= ~bit
            return False
        fresh = not self.ready & bit
        self.ready |= bit
        return fresh

    def begin_as(self, like: NeedsClass) -> None:
        """Take over the bits of a class with the same needs; those of the nodes that only one of them avoids are to be
        looked at."""
        self.could, self.fits, self.ready = like.could, like.fits, like.fits

    def block(self, node: NodeView) -> None:
        """The node has no room for this class now."""
        if self.ready & node.bit:
            self.ready ^= node.bit
            node.blocked[self] = None

    def unblock(self, node: NodeView) -> None:
        """The node may have room again."""
        node.blocked.pop(self, None)
        if self.fits & node.bit:
            self.ready |= node.bit

    def head(self, priority: int) -> TaskRecord | None:
        """The oldest task that waits here at a priority; entries that were overtaken by events are dropped."""
        queue = self.queues[priority]
        while queue:
            task = queue[0]
            if task.in_queue and task.cls is self:
                return task
            queue.popleft()
        return None


def wanted(needs: Needs) -> Wanted:
    """All needs, hashable."""
    labels = tuple(sorted(needs.labels.items())) if needs.labels else ()
    frameworks = tuple(sorted(needs.frameworks)) if needs.frameworks else ()
    return Wanted(
        needs.cores,
        needs.memory_mb,
        needs.storage_mb,
        needs.gpu,
        needs.arch,
        frameworks,
        labels,
        needs.node,
        needs.cluster,
    )


DEFAULT_WANTED = wanted(DEFAULT_NEEDS)


# A class without any demand, to ask what stands against a node as such.
PLAIN = NeedsClass(("function", "", False, False, NOBODY, None, ""), 0, Estimate())


class Classes:
    """All classes in use, bounded. Those of tasks that name their node live at that node (`NodeView.pinned`)."""

    def __init__(self, estimates: Estimates) -> None:
        self.by_key: dict[Key, NeedsClass] = {}
        self.pinned: dict[Key, NeedsClass] = {}
        self.at_node: dict[str, list[NeedsClass]] = {}
        self.estimates = estimates
        self._made = 0

    def of(self, head: TaskHead, avoid: frozenset[str], now: float) -> tuple[NeedsClass | None, bool]:
        """The class of a task, and whether it is new (its bits not yet worked out). None when there are too many."""
        run = head.run
        items = 1
        if isinstance(run, FunctionHead):
            kind, name = "function", run.name
        elif isinstance(run, MapHead):
            kind, name, items = "map", run.name, run.count
        else:
            kind, name = "command", run.argv[0]
        estimate = self.estimates.of(name if kind != "command" else "$" + name)
        told = head.estimated_duration_s
        long = told > tune.LONG_S if told is not None else (estimate.ms or 0.0) * items > tune.LONG_S * 1000
        needs = head.needs
        demand = None if needs is DEFAULT_NEEDS or needs == DEFAULT_NEEDS else wanted(needs)
        function = name if kind != "command" else ""
        # A command's program is no filter, but its durations are its own.
        key: Key = (kind, function, long, head.input_bytes > tune.LARGE_BYTES, avoid, demand, name)
        store, most = (self.pinned, tune.PINNED_MAX) if needs.node else (self.by_key, tune.CLASSES_MAX)
        found = store.get(key)
        if found is not None:
            found.used_at = now
            return found, False
        if len(store) >= most and not self._evict(store):
            return None, False
        self._made += 1
        made = store[key] = NeedsClass(key, self._made, estimate)
        made.used_at = now
        if needs.node:
            self.at_node.setdefault(needs.node, []).append(made)
        return made, True

    def unavoiding(self, cls: NeedsClass) -> NeedsClass | None:
        """The class with the same needs that avoids nobody, if there is one in use."""
        kind, function, long, large, avoid, demand, name = cls.key
        store = self.pinned if cls.node else self.by_key
        return store.get((kind, function, long, large, NOBODY, demand, name)) if avoid else None

    def concerning(self, node: NodeView) -> Iterable[NeedsClass]:
        """The classes that may have a bit for this node."""
        yield from self.by_key.values()
        yield from self.at_node.get(node.id, ())

    def all(self) -> Iterable[NeedsClass]:
        """Every class in use."""
        yield from self.by_key.values()
        yield from self.pinned.values()

    def _evict(self, store: dict[Key, NeedsClass]) -> bool:
        """Drop the longest unused classes for which nothing waits, an eighth at a time; False when there are none."""
        idle = self._oldest([c for c in store.values() if not c.pending], store)
        for cls in idle:
            self.drop(cls)
        return bool(idle)

    def hopeless(self, pinned: bool) -> list[NeedsClass]:
        """The longest unused classes that no known node could ever take, an eighth of all. (Not those that keep away from
        nodes for a while.)"""
        store = self.pinned if pinned else self.by_key
        return self._oldest([c for c in store.values() if not c.could and not c.avoid], store)

    def _oldest(self, some: list[NeedsClass], store: dict[Key, NeedsClass]) -> list[NeedsClass]:
        free = sorted((c for c in some if c.reserved is None), key=lambda c: c.used_at)
        return free[: max(1, len(store) // 8)]

    def drop(self, cls: NeedsClass) -> None:
        """Keep a class no longer; nothing may wait in it."""
        cls.dead = True
        cls.could = cls.fits = cls.ready = 0
        del (self.pinned if cls.node else self.by_key)[cls.key]
        if cls.node:
            left = self.at_node[cls.node]
            left.remove(cls)
            if not left:
                del self.at_node[cls.node]
