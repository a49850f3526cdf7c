"""A task's moves: stored at a node or in the waiting place, ended without a result, lost with its node."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from coordinator.core import tune
from coordinator.core.accounts import charge, release
from coordinator.core.actions import AskResults, Emit, Place, Remove
from coordinator.core.classes import NOBODY
from coordinator.core.ends import conclude, fail, finish, leave_place
from coordinator.core.events import Placed, PlaceFailed, ResultsAsked, Source
from coordinator.core.exclusive import holds_back, inherited
from coordinator.core.intake import ask_first, classify, cost_of, enqueue, parked
from coordinator.core.nodeview import NodeView
from coordinator.core.outcomes import judge
from coordinator.core.queue import take_out
from coordinator.core.record import ASKING, CONCLUDING, PLACED, PLACING, QUEUED, Life, TaskRecord
from coordinator.core.splitting import halve
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.event import TaskEvent
from schemas.subjects import WAITING
from schemas.task import AttemptError, ResultState

GONE, ELSEWHERE = "gone", "elsewhere"


def placed(state: Coordinator, event: Placed, now: float, out: Out) -> None:
    """The broker stored a placement: its old place can go. One that was overtaken meanwhile goes itself.

    Where an earlier term had it stored under another node, that is its place; from there it is moved.
    """
    task = state.tasks.get(event.task)
    if task is None:
        if event.found != GONE:
            _placed_after_all(state, event, out)
        return
    if task.history.placement != event.placement or task.state is not PLACING:
        _placed_late(task, event, out)
        return
    if task.place_failures:
        task.place_failures = 0
        task.reason = task.park_reason if task.bound == WAITING else ""
    if event.found == GONE:
        _look_again(state, task, now)
        return
    leave_place(state, task, out)
    task.source = Source("work", event.seq)
    task.source_placement = event.placement
    task.seq = event.seq
    if event.found == ELSEWHERE:
        _look_again(state, task, now)
        return
    if task.bound == WAITING:
        state.parking[task.priority] -= 1
        parked(state, task, now, out)
        return
    task.to(PLACED, now)
    h = task.history
    data = TaskEvent(task.id, task.submitter, task.bound, h.placement, h.attempts + 1)
    # When it was decided: the node may well have begun before we heard that it is stored.
    out.append(Emit("task.assigned", task.id, f"{task.id}.{h.placement}.assigned", data, task.placed_at))


def _placed_after_all(state: Coordinator, event: Placed, out: Out) -> None:
    """The task is over. A node that was so quick acks its message itself, if it still lives."""
    if state.done.get(event.task) == event.placement:
        ended = state.done_why.get(event.task)
        node = None if ended is None else state.nodes.get(ended.bound)
        if node is not None and not node.is_lost():
            node.unacked.append(event.seq)
            return
    out.append(Remove(Source("work", event.seq)))


def _look_again(state: Coordinator, task: TaskRecord, now: float) -> None:
    """It is not where it was to be placed. Unless RESULTS has it, it is placed anew."""
    release(state, task)
    inherited(state, task, state.taken_over_at)
    if task.bound == WAITING:
        state.parking[task.priority] -= 1
    ask_first(state, task, now)


def _placed_late(task: TaskRecord, event: Placed, out: Out) -> None:
    """The task went another way while this placement was stored: what it left there is of no use."""
    if event.found == GONE or task.source == Source("work", event.seq):
        return
    where = Source("work", event.seq)
    if task.state is CONCLUDING:
        task.leftovers = [*(task.leftovers or ()), where]
    else:
        out.append(Remove(where))


def place_failed(state: Coordinator, event: PlaceFailed, now: float, out: Out) -> None:
    """The broker did not take a placement. It may have stored it all the same, so the very same one is tried again."""
    task = state.tasks.get(event.task)
    if task is None or task.state is not PLACING or task.history.placement != event.placement:
        return
    state.counts["place failed"] += 1
    if event.gone is not None:
        here = (event.gone.stream, event.gone.seq) == (
            task.source.stream,
            task.source.seq,
        )  # else it lies elsewhere now
        if here and (task.gone is None or task.gone[0] != task.source):
            task.gone = (task.source, now)
        _look_again(state, task, now)
        return
    if event.final:
        release(state, task)
        conclude(state, task, ResultState.FAILED, f"the broker refused it: {event.error}", now, out)
        return
    task.place_failures += 1
    task.reason = f"the broker does not take it, and is asked again: {event.error}"[: limits.REASON_MAX]
    delay = min(30.0, tune.PLACE_AGAIN_S * 2.0 ** min(task.place_failures - 1, 5))
    state.at(now + delay, _place_again, (task, event.placement))


def _place_again(state: Coordinator, what: tuple[TaskRecord, int], now: float, out: Out) -> None:
    task, placement = what
    if state.tasks.get(task.id) is not task or task.state is not PLACING or task.history.placement != placement:
        return
    not_before, reason = (task.not_before, task.park_reason) if task.bound == WAITING else (0.0, "")
    out.append(
        Place(task.id, task.bound, task.history, task.source, task.deadline_at, task.result_by, not_before, reason)
    )


def lose(
    state: Coordinator,
    node: NodeView,
    tasks: Iterable[TaskRecord],
    why: str,
    now: float,
    out: Out,
    *,
    reached: bool = True,
) -> None:
    """The attempts went with their node (or never `reached` it, which is no sign against the task).

    RESULTS is asked first, for all of them at once: what the node managed to store counts. Where it was asked since the
    node's connection closed (`ask_ahead`), they go on at once.
    """
    for task in list(tasks):
        release(state, task)
        if task.state not in (PLACED, PLACING):
            continue  # it is being split, or has a result
        h = task.history
        started = 0 if not reached or task.running is False or task.state is PLACING else 1
        error = AttemptError(node.id, h.attempts + 1, now, why, "lost")
        errors = (*h.errors, error)[-limits.ERRORS_KEPT :]
        task.history = structs.replace(h, attempts=h.attempts + started, lost=h.lost + reached, errors=errors)
        state.counts["attempts lost"] += 1
        data = TaskEvent(task.id, task.submitter, node.id, h.placement, h.attempts + 1, why, moved_from=node.id)
        out.append(Emit("task.lost", task.id, f"{task.id}.{h.placement}.lost", data))
        task.running = None
        if reached and node.closed_at and task.undone_at >= node.closed_at and now - task.undone_at <= limits.PROBE_S:
            task.to(ASKING, now)
            not_done(state, task, now, out)
        else:
            ask_first(state, task, now)


def ask_ahead(node: NodeView, now: float, out: Out) -> None:
    """Its connection closed and it is probed: RESULTS is asked meanwhile, which saves a round trip if it is gone."""
    placed = tuple((t.submitter, t.id) for t in node.attempts.values() if t.state is PLACED)
    if placed:
        out.append(AskResults(placed, now))


def not_done(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """RESULTS holds nothing of it: it goes on. Lost too often, each further loss counts as a failed attempt."""
    release(state, task)
    if task.untold is not None:
        outcome, task.untold = task.untold, None
        judge(state, task, outcome, now, out)
        return
    if holds_back(state, task, now):
        return
    if task.gone is not None and task.gone[0] == task.source:
        if now - task.gone[1] > tune.GONE_S:
            reason = "its message is gone from the broker, and it has no result: submit it again"
            conclude(state, task, ResultState.FAILED, reason, now, out)
        return  # asked again until then: its end must be under way
    task.gone = None
    if task.history.lost and halve(state, task, now, out):
        return
    if task.history.lost >= tune.LOST_FREE and task.history.errors and task.history.errors[-1].kind == "lost":
        task.history = structs.replace(task.history, retries_used=task.history.retries_used + 1)
        if task.history.retries_used > task.head.retry.limit:
            fail(state, task, now, out)
            return
    enqueue(state, task, now, out)


def adopt(state: Coordinator, node: NodeView, task: TaskRecord, now: float) -> bool:
    """A node that was given up still holds the placement that counts, and nobody else has it: it keeps it."""
    if task.state not in (ASKING, QUEUED, Life.WAITING) or task.source.stream != "work" or task.parked:
        return False
    cls = classify(state, task, NOBODY, now)
    if cls is None:
        return False
    take_out(state, task)
    task.to(PLACED, now)
    task.cls = cls
    task.bound = node.id
    charge(node, task, cost_of(task))
    return True


def results_asked(state: Coordinator, event: ResultsAsked, now: float, out: Out) -> None:
    """The answer of RESULTS: what has a result is over, what has none goes on."""
    for task_id, result in event.results.items():
        task = state.tasks.get(task_id)
        if task is None:
            continue
        if result is not None:
            finish(state, task, result, now, out)
        elif task.state is ASKING:
            not_done(state, task, now, out)
        else:
            task.undone_at = event.asked_at
