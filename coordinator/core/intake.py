"""Tasks that come in, and where they wait: in the queue of their needs-class, or in the waiting place.

What merely waits for a slot keeps its place in TASKS. Into ``_waiting`` go: what fits no known node, what backs off for
longer than a moment, and what would fill the intake window of a class or priority that stands still.
"""

from __future__ import annotations

from collections.abc import Iterable

from coordinator.core import tune
from coordinator.core.accounts import charge
from coordinator.core.actions import Conclude, Emit, Forget, Remove
from coordinator.core.classes import NOBODY, NeedsClass
from coordinator.core.ends import drop, expire
from coordinator.core.estimates import task_ms
from coordinator.core.events import Source, TaskArrived, TaskUnreadable, WorkFound
from coordinator.core.exclusive import inherited
from coordinator.core.nodeview import NodeView
from coordinator.core.parking import may_park, no_class, set_hopeless_aside
from coordinator.core.placing import park
from coordinator.core.queue import activate, put, take_out
from coordinator.core.record import ASKING, PLACED, QUEUED, Life, TaskRecord, items_of, record_of
from coordinator.core.state import Coordinator, Out
from coordinator.core.why import words
from schemas import limits
from schemas.event import TaskEvent
from schemas.subjects import WAITING
from schemas.task import History, MapHead, ResultState


def task_arrived(state: Coordinator, event: TaskArrived, now: float, out: Out) -> None:
    """A TASKS message: a new task, the redelivery of one, or one that is over."""
    head, source = event.head, event.source
    if head.id in state.done:
        out += (Remove(source), Forget(head.id))
        return
    known = state.tasks.get(head.id)
    if known is not None:
        _arrived_again(known, source, out)
        return
    history = History(submitted_at=event.stored_at)
    task = record_of(head, source, history, event.stored_at, now)
    task.result_by = event.stored_at + limits.RESULT_BY_S
    if state.ages and isinstance(head.run, MapHead):
        run = head.run
        task.order = state.ages.pop((head.submitter, run.job, run.first, run.count), task.order)
    admit(state, task, now)
    task.windowed = True
    state.window[int(head.priority)] += 1
    if event.maybe_done:
        ask_first(state, task, now)
    else:
        enqueue(state, task, now, out)


def _arrived_again(task: TaskRecord, source: Source, out: Out) -> None:
    """Redelivered: its new reply counts while TASKS is its place, else it can go. A second submission goes, too."""
    if task.source.stream == "tasks" and task.source.seq == source.seq:
        task.source = source
    else:
        out.append(Remove(source))


def task_unreadable(state: Coordinator, event: TaskUnreadable, now: float, out: Out) -> None:
    """Whoever submitted it learns why it never ran. A task that goes by that name already is not touched."""
    if event.task in state.tasks or event.task in state.done:
        out.append(Remove(event.source))
        return
    state.strays[event.task] = event.source
    reason = f"this is not a task: {event.problem}"[: limits.REASON_MAX]
    out.append(Conclude(event.task, event.submitter, ResultState.FAILED, reason))


def admit(state: Coordinator, task: TaskRecord, now: float) -> None:
    """Hold a task from now on, and watch its deadline."""
    state.tasks[task.id] = task
    if task.deadline_at is not None:
        state.at(task.deadline_at, _deadline, task)


def _deadline(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    if state.tasks.get(task.id) is task:
        expire(state, task, now, out)


def ask_first(state: Coordinator, task: TaskRecord, now: float) -> None:
    """Ask RESULTS before the task is moved: it may be done."""
    task.to(ASKING, now)
    state.to_ask.append(task)


def enqueue(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """Let the task wait for a node, in the queue of its class or in the waiting place."""
    avoid, task.shun_until = _avoided(task, now)
    cls = classify(state, task, avoid, now)
    if cls is None and set_hopeless_aside(state, bool(task.head.needs.node), now, out):
        cls = classify(state, task, avoid, now)
    if cls is not None and avoid and not cls.could and task.shun_until:
        cls = _without_others(state, task, avoid, now) or cls
    if cls is None:
        no_class(state, task, now, out)
        return
    task.cls = cls
    in_tasks = task.source.stream != "work"
    if in_tasks and (reason := _must_park(state, cls, task, now)) and may_park(state, task):
        park(state, task, now, reason, out)
        return
    if task.state is not Life.WAITING:
        task.to(QUEUED, now)
    put(state, cls, task)
    if task.shun_until > now:
        state.at(task.shun_until, _shun_over, task)
    if in_tasks:
        if not cls.fits and not cls.park_at:
            cls.park_at = now + tune.UNFIT_PARK_S
            state.at(cls.park_at, _park_unfit, cls)
        if not task.announced:
            state.fresh.append((now, task))


def classify(state: Coordinator, task: TaskRecord, avoid: frozenset[str], now: float) -> NeedsClass | None:
    """The needs-class of a task, its bits worked out when it is new."""
    cls, new = state.classes.of(task.head, avoid, now)
    if cls is not None and new:
        for node in _to_look_at(state, cls):
            cls.look_at(node)
    return cls


def _to_look_at(state: Coordinator, cls: NeedsClass) -> Iterable[NodeView]:
    """The nodes whose bits a new class lacks. A retry that avoids a node or two does not look at the whole fleet."""
    like = state.classes.unavoiding(cls)
    if like is not None:
        cls.begin_as(like)
    names = cls.avoid if like is not None else (cls.node,) if cls.node else None
    return state.nodes.values() if names is None else [state.nodes[name] for name in names if name in state.nodes]


def _avoided(task: TaskRecord, now: float) -> tuple[frozenset[str], float]:
    """The nodes that the task keeps away from now, and when that ends (0: never).

    Those that refused it for good; one that returned it for a while; one that it failed on until others had their chance.
    """
    h = task.history
    if not h.errors and not h.avoid and not task.shunned:
        return NOBODY, 0.0
    nodes, until = set(h.avoid), 0.0
    for node, end in _returned_by(task, now).items():
        nodes.add(node)
        until = max(until, end)
    if h.failed_on and not task.shun_until:
        nodes.update(h.failed_on)
        until = max(until, now + tune.SHUN_FAILED_S)
    return frozenset(nodes), until


def _returned_by(task: TaskRecord, now: float) -> dict[str, float]:
    """The nodes that gave it back lately, and until when each is left alone: by the node's clock, as the history tells it;
    where that is ahead of ours, from when we first saw it."""
    told = {}
    for error in task.history.errors:
        if error.kind == "returned" and error.at <= now:
            told[error.node] = error.at + tune.SHUN_RETURNED_S
        elif error.kind == "returned" and error.node not in (task.shunned or {}):
            task.shunned = {**(task.shunned or {}), error.node: now + tune.SHUN_RETURNED_S}
    return {node: end for node, end in {**told, **(task.shunned or {})}.items() if end > now}


def _without_others(state: Coordinator, task: TaskRecord, avoid: frozenset[str], now: float) -> NeedsClass | None:
    """No other node is a place for it: one that it failed on will do; one that returned it after a moment."""
    left = tune.SHUN_RETURNED_S - tune.SHUN_ALONE_S  # of the time that one is left alone for, when that moment is over
    returned = _returned_by(task, now)
    just_now = {node: end - left for node, end in returned.items() if end - left > now}
    kept = frozenset(task.history.avoid).union(just_now)
    if just_now:
        task.shun_until = min(just_now.values())
    return classify(state, task, kept, now) if kept != avoid else None


def _shun_over(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """Nodes that the task kept away from are open to it again."""
    if state.tasks.get(task.id) is task and task.in_queue and task.shun_until <= now:
        take_out(state, task)
        enqueue(state, task, now, out)


def _must_park(state: Coordinator, cls: NeedsClass, task: TaskRecord, now: float) -> str:
    """Why a task must not wait where it lies; "" when it may."""
    if not cls.could:
        return words(state, cls, now)
    priority = task.priority
    queue = cls.queues[priority]
    slow = queue and now - queue[0].since > tune.SLOW_S and cls.pending > tune.DRAIN_S * cls.rate
    if slow and cls.pending >= tune.CLASS_WINDOW:
        return f"{cls.pending} tasks with the same needs wait before it"
    if state.window[priority] > tune.PRIORITY_WINDOW - tune.LOOK_PAST and state.stands_still(priority):
        return f"{state.pending[priority]} tasks of its priority wait before it"
    return ""


def _park_unfit(state: Coordinator, cls: NeedsClass, now: float, out: Out) -> None:
    """The class has had no fitting node for a while: its tasks leave the intake window."""
    cls.park_at = 0.0
    if cls.fits or cls.dead:
        return
    reason = words(state, cls, now)
    for queue in cls.queues.values():
        for task in list(queue):
            if task.in_queue and task.cls is cls and task.source.stream != "work" and may_park(state, task):
                take_out(state, task)
                park(state, task, now, reason, out)


def parked(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """The task lies in the waiting place now. It waits on in its class, or until its time has come."""
    task.to(Life.WAITING, now)
    _count_in(state, task)
    h = task.history
    data = TaskEvent(
        task.id,
        task.submitter,
        placement=h.placement,
        attempt=h.attempts,
        reason=task.reason,
        not_before=task.not_before,
    )
    out.append(Emit("task.waiting", task.id, f"{task.id}.{h.placement}.waiting", data))
    wait_or_queue(state, task, now, out)


def _count_in(state: Coordinator, task: TaskRecord) -> None:
    task.parked = True
    state.parked += 1
    state.parked_by[task.submitter] = state.parked_by.get(task.submitter, 0) + 1


def wait_or_queue(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """Queue the task, at once or when its backoff is over."""
    if task.not_before > now:
        state.at(task.not_before, _backoff_over, task)
    else:
        enqueue(state, task, now, out)


def _backoff_over(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    if state.tasks.get(task.id) is task and task.state is Life.WAITING and not task.in_queue and task.not_before <= now:
        enqueue(state, task, now, out)


def work_found(state: Coordinator, event: WorkFound, now: float, out: Out) -> None:
    """While taking over: a task at its place. The highest placement counts; of two equal ones an outcome does.

    Later it is what a deposed coordinator had on its way into ``_waiting``: of a task that is known here, it goes.
    """
    head, source = event.head, event.source
    if head.id in state.done:
        out += (Remove(source), Forget(head.id))
        return
    known = state.tasks.get(head.id)
    if known is not None:
        if state.term or known.history.placement >= event.history.placement:
            if known.source != source:
                out.append(Remove(source))
            return
        _drop_place(state, known, now, out)
    task = record_of(head, source, event.history, event.history.submitted_at, now)
    task.deadline_at = event.deadline_at
    task.result_by = task.order + limits.RESULT_BY_S
    task.announced = True
    if event.node == WAITING:
        task.state = Life.WAITING
        task.reason = task.park_reason = event.reason
        task.not_before = event.not_before
        admit(state, task, now)
        _count_in(state, task)
        wait_or_queue(state, task, now, out)
    else:
        admit(state, task, now)
        _restore(state, task, event.node, now)


def _restore(state: Coordinator, task: TaskRecord, node_id: str, now: float) -> None:
    """Put a task that was found at a node back on its books; at a node that nobody knows it is asked for and moved."""
    task.bound = node_id
    task.seq = task.source.seq
    inherited(state, task, now)
    node = state.nodes.get(node_id)
    cls = classify(state, task, NOBODY, now)
    if node is None or cls is None:
        task.cls = cls
        ask_first(state, task, now)
        return
    task.state = PLACED
    task.cls = cls
    charge(node, task, cost_of(task))


def cost_of(task: TaskRecord) -> float:
    """What the task is expected to take, ms."""
    assert task.cls is not None
    return max(tune.COST_FLOOR_MS, task_ms(task.cls.estimate, items_of(task.head), task.head.estimated_duration_s))


def _drop_place(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """Forget a lower placement of a task of which a higher one was found."""
    out.append(Remove(task.source))
    drop(state, task)


def node_changed(state: Coordinator, node: NodeView) -> None:
    """Work out the node's bit in every class that may have one; classes for which it became ready are placed from."""
    state.changed.add(node.id)
    for cls in state.classes.concerning(node):
        if cls.look_at(node) and cls.pending:
            activate(state, cls)
