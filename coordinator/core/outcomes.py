"""An attempt that ended without a result: another try, another node, or the end."""

from __future__ import annotations

from msgspec import structs

from coordinator.core import tune
from coordinator.core.accounts import release
from coordinator.core.actions import Emit, Forget, Remove
from coordinator.core.ends import began, fail, leave_place
from coordinator.core.events import OutcomeArrived, Source
from coordinator.core.intake import admit, ask_first, enqueue, wait_or_queue
from coordinator.core.placing import park
from coordinator.core.queue import take_out
from coordinator.core.record import Life, TaskRecord, record_of
from coordinator.core.splitting import halve
from coordinator.core.state import Coordinator, Out
from coordinator.core.told import kept_errors, kept_history
from schemas import limits
from schemas.event import TaskEvent
from schemas.task import AttemptError, History, Outcome, OutcomeKind


def outcome_arrived(state: Coordinator, event: OutcomeArrived, now: float, out: Out) -> None:
    """An attempt ended without a result. The outcome is the task's place from now on, until it lies elsewhere.

    One of a task that is not held here (after a takeover, or long after its end) is judged once RESULTS holds nothing of it.
    """
    head, outcome, source = event.head, event.outcome, event.source
    task = state.tasks.get(head.id)
    if head.id in state.done:
        out += (Remove(source), Forget(head.id))
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
    task.judged = task.history.placement
    task.judged_from = min(now, event.stored_at)
    if task.state is Life.ASKING:
        task.untold = outcome
    else:
        judge(state, task, outcome, now, out)


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
        if task.gone is not None and task.state is Life.ASKING:
            state.to_ask.append(task)  # this is what it waited for
    else:
        out.append(Remove(source))


def _is_current(task: TaskRecord, outcome: Outcome) -> bool:
    """Whether it tells of the placement that counts, for the first time."""
    placement = outcome.history.placement
    moves = task.state not in (Life.CONCLUDING, Life.SPLITTING)
    return moves and placement >= task.history.placement and placement > task.judged


def _from_outcome(state: Coordinator, event: OutcomeArrived, now: float) -> TaskRecord:
    """A task that only its outcome tells of."""
    outcome = event.outcome
    task = record_of(event.head, event.source, outcome.history, outcome.history.submitted_at, now)
    task.deadline_at = outcome.deadline_at
    task.result_by = outcome.result_by
    task.announced = True
    admit(state, task, now)
    ask_first(state, task, now)
    return task


def _leave_for_outcome(state: Coordinator, task: TaskRecord, out: Out) -> None:
    """Take the task from where it was: the outcome carries it whole."""
    release(state, task)
    take_out(state, task)
    task.lease_until = 0.0  # it runs there no more
    leave_place(state, task, out)
    task.why = ()


def _told(before: History | None, outcome: Outcome, now: float) -> History:
    """The task's history with this attempt in it, as its node wrote it; by our clock, and with what we know besides (that it
    was lost meanwhile). A node that handed it back before it began has left no trace in it."""
    told = outcome.history
    if before is None or before.placement < told.placement:
        return kept_history(told)
    errors = before.errors
    if outcome.started or outcome.kind is not OutcomeKind.RETURNED:
        kind = outcome.kind.value
        last = told.errors[-1] if told.errors else AttemptError(outcome.node, told.attempts, now, outcome.error, kind)
        errors = kept_errors((*errors, structs.replace(last, at=now)))
    attempts = before.attempts + 1 if outcome.started else before.attempts
    return structs.replace(before, attempts=attempts, errors=errors)


def judge(state: Coordinator, task: TaskRecord, outcome: Outcome, now: float, out: Out) -> None:
    """What becomes of it: another try, another node, or the end."""
    kind, h = outcome.kind, task.history
    if outcome.started:
        told = outcome.history
        began(
            task.id, task.head.submitter, outcome.node, told.placement, told.attempts, outcome.duration_ms, now, out
        )  # fmt: skip
    task.last = outcome
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
    if h.retries_used > task.head.retry.limit or (h.errors and h.errors[-1].kind == "arguments"):
        fail(state, task, now, out)
        return
    retry = task.head.retry
    delay = min(retry.backoff_max_s, retry.backoff_s * 2.0 ** (h.retries_used - 1)) * (0.75 + 0.5 * state.rng.random())
    back_off(state, task, _at_least(delay, outcome), f"failed on {outcome.node}, tried again later", now, out)


def _returned(state: Coordinator, task: TaskRecord, outcome: Outcome, now: float, out: Out) -> None:
    task.shunned = {**(task.shunned or {}), outcome.node: now + tune.SHUN_RETURNED_S}
    delay = 0.0
    if outcome.started:
        times = sum(1 for e in task.history.errors if e.kind == "returned")
        delay = min(tune.RETURN_BACKOFF_MAX_S, tune.RETURN_BACKOFF_S * 2.0 ** max(0, times - 1))
    back_off(state, task, _at_least(delay, outcome), f"given back by {outcome.node}", now, out)


def _at_least(delay_s: float, outcome: Outcome) -> float:
    """The delay, or what its node asked for if that is longer (within reason)."""
    return max(delay_s, min(outcome.retry_after_s, tune.RETRY_AFTER_MAX_S))


def back_off(state: Coordinator, task: TaskRecord, delay_s: float, reason: str, now: float, out: Out) -> None:
    """Wait before the next try: a moment where the task lies, longer in the waiting place.

    The delay counts from when the outcome was stored: a takeover within it does not begin it anew.
    """
    task.not_before = task.judged_from + delay_s
    task.reason = reason
    left_s = task.not_before - now
    if left_s <= tune.HOLD_S:
        task.to(Life.WAITING if left_s > 0 else Life.QUEUED, now)
        wait_or_queue(state, task, now, out)
    else:
        task.to(Life.QUEUED, now)
        park(state, task, now, reason, out)
