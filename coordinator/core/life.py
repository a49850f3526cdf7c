"""A task's moves: stored at a node or in the waiting place, ended without a result, lost with its node."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from coordinator.core import tune
from coordinator.core.accounts import charge, release
from coordinator.core.actions import Emit, Place, Remove
from coordinator.core.classes import NOBODY
from coordinator.core.ends import began, conclude, fail, finish, leave_place
from coordinator.core.events import OutcomeArrived, Placed, PlaceFailed, ResultsAsked, Source
from coordinator.core.intake import admit, ask_first, classify, cost_of, enqueue, parked, wait_or_queue
from coordinator.core.nodeview import NodeView
from coordinator.core.placing import park
from coordinator.core.queue import take_out
from coordinator.core.record import Life, TaskRecord
from coordinator.core.splitting import halve
from coordinator.core.state import Coordinator, Out
from schemas import limits
from schemas.event import TaskEvent
from schemas.subjects import WAITING
from schemas.task import AttemptError, History, Outcome, OutcomeKind, ResultState

GONE = "gone"


def placed(state: Coordinator, event: Placed, now: float, out: Out) -> None:
    """The broker stored a placement: its old place can go. One that was overtaken meanwhile goes itself."""
    task = state.tasks.get(event.task)
    if task is None:
        if event.found != GONE and state.done.get(event.task) != event.placement:
            out.append(Remove(Source("work", event.seq)))
        return
    if task.history.placement != event.placement or task.state is not Life.PLACING:
        _placed_late(task, event, out)
        return
    if event.found == GONE:
        release(state, task)
        if task.bound == WAITING:
            state.parking[int(task.head.priority)] -= 1
        ask_first(state, task, now)
        return
    leave_place(state, task, out)
    task.source = Source("work", event.seq)
    task.source_placement = event.placement
    task.seq = event.seq
    task.place_failures = 0
    if task.bound == WAITING:
        state.parking[int(task.head.priority)] -= 1
        parked(state, task, now, out)
        return
    task.to(Life.PLACED, now)
    h = task.history
    data = TaskEvent(task.id, task.submitter, task.bound, h.placement, h.attempts + 1)
    # When it was decided: the node may well have begun before we heard that it is stored.
    out.append(Emit("task.assigned", task.id, f"{task.id}.{h.placement}.assigned", data, task.placed_at))


def _placed_late(task: TaskRecord, event: Placed, out: Out) -> None:
    """The task went another way while this placement was stored: what it left there is of no use."""
    if event.found == GONE or task.source == Source("work", event.seq):
        return
    where = Source("work", event.seq)
    if task.state is Life.CONCLUDING:
        task.leftovers = [*(task.leftovers or ()), where]
    else:
        out.append(Remove(where))


def place_failed(state: Coordinator, event: PlaceFailed, now: float, out: Out) -> None:
    """The broker did not take a placement. It may have stored it all the same, so the very same one is tried again."""
    task = state.tasks.get(event.task)
    if task is None or task.state is not Life.PLACING or task.history.placement != event.placement:
        return
    state.counts["place failed"] += 1
    if event.final:
        release(state, task)
        conclude(state, task, ResultState.FAILED, f"the broker refused it: {event.error}", now, out)
        return
    task.place_failures += 1
    delay = min(30.0, tune.PLACE_AGAIN_S * 2.0 ** min(task.place_failures - 1, 5))
    state.at(now + delay, _place_again, (task, event.placement))


def _place_again(state: Coordinator, what: tuple[TaskRecord, int], now: float, out: Out) -> None:
    task, placement = what
    if state.tasks.get(task.id) is not task or task.state is not Life.PLACING or task.history.placement != placement:
        return
    not_before = task.not_before if task.bound == WAITING else 0.0
    out.append(
        Place(task.id, task.bound, task.history, task.source, task.deadline_at, task.result_by, not_before, task.reason)
    )


def outcome_arrived(state: Coordinator, event: OutcomeArrived, now: float, out: Out) -> None:
    """An attempt ended without a result. The outcome is the task's place from now on, until it lies elsewhere."""
    head, outcome, source = event.head, event.outcome, event.source
    task = state.tasks.get(head.id)
    if head.id in state.done:
        out.append(Remove(source))
        return
    if task is None:
        task = _from_outcome(state, event, now)
        before = None
    elif not _is_current(task, outcome):
        _not_current(state, task, outcome, source, out)
        return
    else:
        before = task.history
        _leave_for_outcome(state, task, out)
    task.source = source
    task.source_placement = outcome.history.placement
    task.history = _told(before, outcome, now)
    _judge(state, task, outcome, now, out)


def _not_current(state: Coordinator, task: TaskRecord, outcome: Outcome, source: Source, out: Out) -> None:
    """It tells nothing new. But its node has acked the WORK message for it: where that was the task's place, this is it now."""
    if task.source.stream == "outcomes" and task.source.seq == source.seq:
        task.source = source  # redelivered: the new reply counts
    elif task.state is Life.CONCLUDING:
        task.leftovers = [*(task.leftovers or ()), source]
    elif outcome.history.placement >= task.source_placement:
        leave_place(state, task, out)
        task.source = source
        task.source_placement = outcome.history.placement
    else:
        out.append(Remove(source))


def _is_current(task: TaskRecord, outcome: Outcome) -> bool:
    """Whether it tells of the placement that counts, for the first time."""
    placement = outcome.history.placement
    moves = task.state not in (Life.CONCLUDING, Life.SPLITTING)
    return moves and placement >= task.history.placement and placement > task.judged


def _from_outcome(state: Coordinator, event: OutcomeArrived, now: float) -> TaskRecord:
    """A task that only its outcome tells of (after a takeover)."""
    outcome = event.outcome
    task = TaskRecord(event.head, event.source, outcome.history, outcome.history.submitted_at, now)
    task.state = Life.PLACED
    task.deadline_at = outcome.deadline_at
    task.result_by = outcome.result_by
    task.announced = True
    admit(state, task, now)
    return task


def _leave_for_outcome(state: Coordinator, task: TaskRecord, out: Out) -> None:
    """Take the task from where it was: the outcome carries it whole."""
    release(state, task)
    take_out(state, task)
    leave_place(state, task, out)
    task.why = ()


def _told(before: History | None, outcome: Outcome, now: float) -> History:
    """The task's history with this attempt in it, as its node wrote it; by our clock, and with what we know besides (that it
    was lost meanwhile). A node that handed it back before it began has left no trace in it."""
    told = outcome.history
    if before is None or before.placement < told.placement:
        return told
    errors = before.errors
    if outcome.started or outcome.kind is not OutcomeKind.RETURNED:
        kind = outcome.kind.value
        last = told.errors[-1] if told.errors else AttemptError(outcome.node, told.attempts, now, outcome.error, kind)
        errors = (*errors, structs.replace(last, at=now))[-limits.ERRORS_KEPT :]
    attempts = before.attempts + 1 if outcome.started else before.attempts
    return structs.replace(before, attempts=attempts, errors=errors)


def _judge(state: Coordinator, task: TaskRecord, outcome: Outcome, now: float, out: Out) -> None:
    """What becomes of it: another try, another node, or the end."""
    kind, h = outcome.kind, task.history
    if outcome.started:
        told = outcome.history
        began(
            task.id, task.head.submitter, outcome.node, told.placement, told.attempts, outcome.duration_ms, now, out
        )  # fmt: skip
    task.last = outcome
    task.judged = h.placement
    task.running = None
    task.shun_until = 0.0
    state.counts[f"attempts {kind.value}"] += 1
    what = "task.returned" if kind is OutcomeKind.RETURNED else "task.attempt-failed"
    data = TaskEvent(task.id, task.submitter, outcome.node, h.placement, h.attempts, outcome.error[: limits.REASON_MAX])
    # Not the outcome's kind: `failed` is the key of the task's own end, and what has that key already is not stored again.
    key = f"{task.id}.{h.placement}.{what.removeprefix('task.')}"
    out.append(Emit(what, task.id, key, data))
    if kind is OutcomeKind.FAILED:
        _failed(state, task, outcome, now, out)
    elif kind is OutcomeKind.RETURNED:
        _returned(state, task, outcome, now, out)
    else:
        task.history = structs.replace(h, avoid=_with(h.avoid, outcome.node))
        task.to(Life.QUEUED, now)
        enqueue(state, task, now, out)


def _with(nodes: tuple[str, ...], node: str) -> tuple[str, ...]:
    return nodes if node in nodes else (*nodes, node)


def _failed(state: Coordinator, task: TaskRecord, outcome: Outcome, now: float, out: Out) -> None:
    node = state.nodes.get(outcome.node)
    if node is not None:
        node.failed += 1
    h = task.history = structs.replace(
        task.history,
        retries_used=task.history.retries_used + 1,
        failed_on=_with(task.history.failed_on, outcome.node),
    )
    if halve(state, task, now, out):
        return
    if h.retries_used > task.head.retry.limit:
        fail(state, task, now, out)
        return
    retry = task.head.retry
    delay = min(retry.backoff_max_s, retry.backoff_s * 2.0 ** (h.retries_used - 1)) * (0.75 + 0.5 * state.rng.random())
    back_off(state, task, max(delay, outcome.retry_after_s), f"failed on {outcome.node}, tried again later", now, out)


def _returned(state: Coordinator, task: TaskRecord, outcome: Outcome, now: float, out: Out) -> None:
    task.shunned = {**(task.shunned or {}), outcome.node: now + tune.SHUN_RETURNED_S}
    delay = 0.0
    if outcome.started:
        times = sum(1 for e in task.history.errors if e.kind == "returned")
        delay = min(tune.RETURN_BACKOFF_MAX_S, tune.RETURN_BACKOFF_S * 2.0 ** max(0, times - 1))
    back_off(state, task, max(delay, outcome.retry_after_s), f"given back by {outcome.node}", now, out)


def back_off(state: Coordinator, task: TaskRecord, delay_s: float, reason: str, now: float, out: Out) -> None:
    """Wait before the next try: a moment where the task lies, longer in the waiting place."""
    task.not_before = now + delay_s
    task.reason = reason
    if delay_s <= tune.HOLD_S:
        task.to(Life.WAITING if delay_s > 0 else Life.QUEUED, now)
        wait_or_queue(state, task, now, out)
    else:
        task.to(Life.QUEUED, now)
        park(state, task, now, reason, out)


def lose(state: Coordinator, node: NodeView, tasks: Iterable[TaskRecord], why: str, now: float, out: Out) -> None:
    """The attempts went with their node. RESULTS is asked first, for all of them at once: what it managed to store counts."""
    for task in list(tasks):
        release(state, task)
        if task.state not in (Life.PLACED, Life.PLACING):
            continue  # it is being split, or has a result
        h = task.history
        started = 0 if task.running is False or task.state is Life.PLACING else 1
        error = AttemptError(node.id, h.attempts + 1, now, why, "lost")
        errors = (*h.errors, error)[-limits.ERRORS_KEPT :]
        task.history = structs.replace(h, attempts=h.attempts + started, lost=h.lost + 1, errors=errors)
        state.counts["attempts lost"] += 1
        data = TaskEvent(task.id, task.submitter, node.id, h.placement, h.attempts + 1, why, moved_from=node.id)
        out.append(Emit("task.lost", task.id, f"{task.id}.{h.placement}.lost", data))
        task.running = None
        ask_first(state, task, now)


def not_done(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """RESULTS holds nothing of it: it goes on. Lost too often, each further loss counts as a failed attempt."""
    release(state, task)
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
    if task.state not in (Life.ASKING, Life.QUEUED, Life.WAITING) or task.source.stream != "work" or task.parked:
        return False
    cls = classify(state, task, NOBODY, now)
    if cls is None:
        return False
    take_out(state, task)
    task.to(Life.PLACED, now)
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
        elif task.state is Life.ASKING:
            not_done(state, task, now, out)
