"""Placing what waits: take the next task, look at a few ready nodes, store it at the best one.

The cost does not grow with the fleet: candidates are the first ready bits of a window that starts at a random slot.
"""

from __future__ import annotations

from heapq import heappop, heappush

from coordinator.core import tune
from coordinator.core.accounts import charge, has_room, reopen
from coordinator.core.actions import AskResults, Emit, Place
from coordinator.core.classes import NeedsClass
from coordinator.core.estimates import task_ms
from coordinator.core.nodeview import NodeView
from coordinator.core.rank import Candidate, rank
from coordinator.core.record import ASKING, PLACING, QUEUED, TaskRecord, items_of
from coordinator.core.splitting import too_long
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.event import TaskEvent
from schemas.subjects import WAITING
from schemas.task import History

WINDOW = (1 << tune.WINDOW_BITS) - 1


def pump(state: Coordinator, now: float) -> Out:
    """Place all that can be placed now, ask RESULTS what must be asked, say what goes on waiting. Call after each batch."""
    out: Out = []
    if state.to_ask:
        ask(state, now, out)
    if state.term:
        for priority, active in state.active.items():
            if active:
                _place_priority(state, priority, active, now, out)
    fresh = state.fresh
    while fresh and now - fresh[0][0] >= tune.ANNOUNCE_QUEUED_S:
        _announce(state, fresh.popleft()[1], out)
    state.ask_to_wake(out)
    return out


def _place_priority(
    state: Coordinator, priority: int, active: list[tuple[float, int, NeedsClass]], now: float, out: Out
) -> None:
    """Place the tasks of one priority, oldest first over its classes, until no class has a ready node."""
    mark = 1 << priority
    while active:
        cls = heappop(active)[2]  # still marked as listed, so nothing lists it meanwhile
        task = cls.head(priority)
        node = None if task is None else _find(state, cls, task, priority)
        if task is None or node is None:
            cls.listed &= ~mark
            continue
        queue = cls.queues[priority]
        queue.popleft()
        task.in_queue = False
        cls.pending -= 1
        cls.flowed += 1
        state.pending[priority] -= 1
        if task.order > state.youngest[priority]:
            state.youngest[priority] = task.order
        if cls.last_cost * node.speed <= state.split_ms or not too_long(state, task, node, now, out):
            _place(state, task, node, now, out)
        if queue:
            heappush(active, (queue[0].order, cls.number, cls))
        else:
            cls.listed &= ~mark


def _find(state: Coordinator, cls: NeedsClass, task: TaskRecord, priority: int) -> NodeView | None:
    """The best of a few ready nodes with room; None when none is left (their bits are gone then, until they have room)."""
    ms = max(tune.COST_FLOOR_MS, task_ms(cls.estimate, items_of(task.head), task.head.estimated_duration_s))
    cls.last_cost = ms
    slots = state.slots
    cores, memory_mb = cls.cores, cls.memory_mb
    while cls.ready:
        best: Candidate | None = None
        chosen: NodeView | None = None
        seen: list[Candidate] = []
        for slot in sample(cls.ready, len(slots), state.rng.random()):
            node = slots[slot]
            assert node is not None, "a lost node is ready for nothing"
            # The common case of `has_room`, without the call.
            free = node.count < node.slots and node.cores_free >= cores and node.memory_free >= memory_mb
            if not (free and node.reserved is None) and not has_room(node, cls, ms, priority):
                cls.block(node)
                continue
            candidate = rank(node, task, cls.large)
            seen.append(candidate)
            if best is None or candidate[1] > best[1] or (candidate[1] == best[1] and state.rng.random() < 0.5):
                best, chosen = candidate, node
        if chosen is not None:
            task.why = tuple(seen)
            charge(chosen, task, ms)
            return chosen
    return None


def sample(ready: int, width: int, chance: float) -> list[int]:
    """Up to `tune.CANDIDATES` slots whose bit is set, from a random slot on, and from the start again when that is too few."""
    start = int(chance * width)
    found: list[int] = []
    _take(ready >> start, start, found)
    if len(found) < tune.CANDIDATES and start:
        _take(ready & ((1 << start) - 1), 0, found)
    return found


def _take(bits: int, base: int, found: list[int]) -> None:
    """Collect the lowest set bits of `bits` into `found`: one window of them, that which holds the first."""
    window = bits & WINDOW
    if not window:
        if not bits:
            return
        gap = (bits & -bits).bit_length() - 1
        base += gap
        window = (bits >> gap) & WINDOW
    while window and len(found) < tune.CANDIDATES:
        low = window & -window
        found.append(base + low.bit_length() - 1)
        window ^= low


def _place(state: Coordinator, task: TaskRecord, node: NodeView, now: float, out: Out) -> None:
    """Have a task stored at the node on whose books it is already."""
    cls = task.cls
    if cls is not None and cls.reserved is not None:
        unreserve(state, cls)
    task.to(PLACING, now)
    task.bound = node.id
    task.placed_at = now
    task.running = None
    task.reason = ""
    task.missed_in = -1
    state.placed_at[task.priority] = now
    out.append(move(task, node.id, now))


def move(task: TaskRecord, to: str, now: float, not_before: float = 0.0, reason: str = "") -> Place:
    """The next placement of a task, wherever it goes."""
    h = task.history
    task.history = h = History(
        h.placement + 1, h.attempts, h.retries_used, h.lost, h.submitted_at, h.errors, h.failed_on, h.avoid
    )
    if now > task.result_by - tune.RESULT_BY_RENEW_S:
        # No result of this task is stored: one that comes before the new date cannot outlive another's retention.
        task.result_by = max(task.order, now - tune.RESULT_BY_RENEW_S) + limits.RESULT_BY_S
    return Place(task.id, to, h, task.source, task.deadline_at, task.result_by, not_before, reason)


def park(state: Coordinator, task: TaskRecord, now: float, reason: str, out: Out) -> None:
    """Move a task to the waiting place, where it blocks nobody and a restart finds it."""
    task.to(PLACING, now)
    task.bound = WAITING
    task.reason = task.park_reason = reason[: limits.REASON_MAX]
    state.parking[task.priority] += 1
    out.append(move(task, WAITING, now, task.not_before, task.reason))


def ask(state: Coordinator, now: float, out: Out) -> None:
    """Ask RESULTS about the tasks that are to be moved, in batches; again later for those without an answer."""
    tasks = [t for t in state.to_ask if t.state is ASKING and state.tasks.get(t.id) is t]
    state.to_ask = []
    for i in range(0, len(tasks), tune.ASK_BATCH):
        batch = tasks[i : i + tune.ASK_BATCH]
        for task in batch:
            task.asked_at = now
        out.append(AskResults(tuple((t.submitter, t.id) for t in batch), now))
        state.at(now + tune.ASK_AGAIN_S, _ask_again, (batch, now))


def _ask_again(state: Coordinator, what: tuple[list[TaskRecord], float], now: float, out: Out) -> None:
    """The answer did not come, so the question is put once more; not of those that were asked about since."""
    tasks, asked_at = what
    again = [t for t in tasks if t.state is ASKING and t.asked_at == asked_at]
    state.to_ask.extend(again)
    if again:
        ask(state, now, out)


def unreserve(state: Coordinator, cls: NeedsClass) -> None:
    """Give up the node that was kept free for a class."""
    node = cls.reserved
    cls.reserved = None
    if node is not None and node.reserved is not None and node.reserved[0] is cls:
        node.reserved = None
        reopen(state, node)


def _announce(state: Coordinator, task: TaskRecord, out: Out) -> None:
    """Tell that a task is still waiting for a slot."""
    if not task.in_queue or task.announced or task.state is not QUEUED or state.tasks.get(task.id) is not task:
        return
    task.announced = True
    data = TaskEvent(task.id, task.submitter, placement=task.history.placement, reason="no free slot yet")
    out.append(Emit("task.queued", task.id, f"{task.id}.{task.history.placement}.queued", data))
