"""How a task ends: with the first result that the broker stored, whoever it is from, or with one of our own."""

from __future__ import annotations

from msgspec import structs

from coordinator.core import dead, tune
from coordinator.core.accounts import release
from coordinator.core.actions import Command, Conclude, Emit, Forget, Remove
from coordinator.core.estimates import learn_speed
from coordinator.core.events import CancelAsked, Concluded, ResultSeen
from coordinator.core.nodeview import NodeView
from coordinator.core.queue import take_out
from coordinator.core.record import ASKING, CONCLUDING, PLACED, PLACING, SPLITTING, Life, TaskRecord, items_of
from coordinator.core.state import Coordinator, Out
from coordinator.core.told import NAME_MAX, kept_errors
from schemas import limits
from schemas.event import TaskEnded, TaskEvent
from schemas.subjects import WAITING
from schemas.task import SUCCEEDED, Outcome, ResultHead, ResultState


def result_seen(state: Coordinator, event: ResultSeen, now: float, out: Out) -> None:
    """A stored result came by: the task is over, whichever attempt it is from."""
    result = event.result
    task = state.tasks.get(result.task)
    if task is not None:
        finish(state, task, result, now, out)
    elif result.task not in state.done:
        source = state.strays.pop(result.task, None)
        if source is not None:
            out.append(Remove(source))
        dead.settle(state, result, out)
        remember(state, result)
        _tell(state, result, now, out)


def finish(state: Coordinator, task: TaskRecord, result: ResultHead, now: float, out: Out) -> None:
    """Free what the task holds, remove what is left of it, tell of its end."""
    dead.settle(state, result, out)
    node = task.node
    # The node that stored this success of the present placement acks its WORK message itself, if it lives.
    acks = False
    if node is not None:
        release(state, task)
        if result.node == node.id:
            _learn(node, task, result)
            acks = result.state is SUCCEEDED and result.placement == task.history.placement
        if not acks and task.state is not SPLITTING:
            out.append(Command(node.id, "cancel", task=task.id, reason=task.reason or "it has a result already"))
        acks = acks and task.state is PLACED and not node.is_lost()
        if acks:
            node.unacked.append(task.source.seq)
    if not acks:
        out.append(Remove(task.source))
    if task.leftovers:
        out.extend(Remove(source) for source in task.leftovers)
    _tell(state, result, now, out)
    out.append(Forget(task.id))
    drop(state, task)
    remember(state, result)
    if task.why:
        state.done_why[task.id] = task
        if len(state.done_why) > tune.WHY_KEPT:
            state.done_why.popitem(last=False)


def _learn(node: NodeView, task: TaskRecord, result: ResultHead) -> None:
    """Take a success into the estimates of its function and its node."""
    if result.state is not SUCCEEDED:
        return
    node.done += 1
    cls = task.cls
    if cls is None:
        return
    items = items_of(task.head)
    estimate = cls.estimate
    ms = result.duration_ms
    if not 0 <= ms <= task.head.timeout_s * 1000:  # as its node tells it: one such number must not spoil the mean
        ms = 0.0 if ms < 0 else task.head.timeout_s * 1000
    if estimate.seen >= 3:
        node.speed = learn_speed(node.speed, estimate, items, ms)
    estimate.learn(ms / items)


def began(
    task: str, submitter: str, node: str, placement: int, attempt: int, duration_ms: float, now: float, out: Out
) -> None:
    """The start of an attempt that was over before its node would have said it; so that the three events come in order."""
    if duration_ms < 1000 * limits.STARTED_EVENT_S:
        data = TaskEvent(task, submitter, node, placement, attempt)
        at = now - duration_ms / 1000 if duration_ms > 0 else now
        out.append(Emit("task.started", task, f"{task}.{placement}.started", data, at))


def _tell(state: Coordinator, result: ResultHead, now: float, out: Out) -> None:
    """The event of a task's end; said once, since its key is the same for any result of the task."""
    node = result.node[:NAME_MAX]
    if result.state is SUCCEEDED and node:
        began(
            result.task, result.submitter, node, result.placement, result.attempts, result.duration_ms, now, out
        )  # fmt: skip
    word, reason = str(result.state), result.reason[: limits.REASON_MAX]
    state.counts[word] += 1
    if result.dead_letter:
        dead.tell(result, node, reason, out)
    data = TaskEnded(
        result.task, result.submitter, node, result.attempts, result.duration_ms, reason, result.exit_code, result.items,
        result.input_bytes, kept_errors(result.errors) if result.errors else (),
    )  # fmt: skip
    out.append(Emit(f"task.{word}", result.task, f"{result.task}.{result.placement}.{word}", data))


def drop(state: Coordinator, task: TaskRecord) -> None:
    """Hold the task no longer."""
    if task.in_queue:
        take_out(state, task)
    if task.node is not None:
        release(state, task)
    count_out(state, task)
    if task.state is PLACING and task.bound == WAITING:
        state.parking[task.priority] -= 1
    state.tasks.pop(task.id, None)
    if state.aside:
        state.aside.pop(task.id, None)


def count_out(state: Coordinator, task: TaskRecord) -> None:
    """Its message in TASKS, or in the waiting place, counts no longer."""
    if task.windowed:
        task.windowed = False
        state.window[task.priority] -= 1
    if task.parked:
        task.parked = False
        state.parked -= 1
        left = state.parked_by[task.submitter] - 1
        if left:
            state.parked_by[task.submitter] = left
        else:
            del state.parked_by[task.submitter]
    if task.stays:
        task.stays = False
        state.stayed[task.priority] -= 1


def leave_place(state: Coordinator, task: TaskRecord, out: Out) -> None:
    """The task lies elsewhere now: remove the message that was its place."""
    out.append(Remove(task.source))
    count_out(state, task)


def remember(state: Coordinator, result: ResultHead) -> None:
    """Remember that a task is over, so that what comes of it late is removed and not run.

    Kept with it is the placement whose WORK message the node acks itself; none where the result is a coordinator's.
    """
    done = state.done
    done[result.task] = result.placement if result.state is SUCCEEDED and result.node else -1
    if len(done) > tune.DONE_KEPT:
        done.popitem(last=False)


def fail(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """No try is left: the result is *failed*, with every attempt's error, and the task is kept as a dead letter."""
    errors = task.history.errors
    last = errors[-1].error if errors else ""
    tries = f"{task.history.attempts} attempt{'' if task.history.attempts == 1 else 's'}"
    conclude(
        state, task, ResultState.FAILED, f"failed after {tries}: {last}", now, out, letter=dead.leaves_letter(task)
    )


def conclude(
    state: Coordinator,
    task: TaskRecord,
    how: ResultState,
    reason: str,
    now: float,
    out: Out,
    parts: tuple[str, ...] = (),
    *,
    letter: bool = False,
) -> None:
    """Record a result of our own. Whatever the task's state, it waits for the broker's word from now on.

    A node that has it keeps it until then: what is told to stop acks its message, which may be the only one that holds the
    task. *Succeeded* is for a chunk that goes on as its `parts`. With `letter` the task is kept as a dead letter first.
    """
    take_out(state, task)
    if task.state is PLACING and task.bound == WAITING:
        state.parking[task.priority] -= 1
    task.to(CONCLUDING, now)
    task.reason = reason[: limits.REASON_MAX]
    h, last = task.history, task.last if how is ResultState.FAILED else None
    where = "" if task.bound == WAITING or parts else task.bound
    done = Conclude(
        task.id, task.submitter, how, task.reason, where, h.placement, h.attempts, h.errors, parts=parts,
        letter=task.source if letter else None, at=now,
    )  # fmt: skip
    if last is not None:
        tails = last.stdout[-limits.OUTPUT_TAIL :], last.stderr[-limits.OUTPUT_TAIL :]
        took_ms = _took_ms(task, last)
        done = structs.replace(
            done, node=last.node, exit_code=last.exit_code, stdout=tails[0], stderr=tails[1],
            started_at=task.judged_from - took_ms / 1000 if took_ms else 0.0, duration_ms=took_ms,
        )  # fmt: skip
    task.own = ResultHead(
        task.id, task.submitter, how, done.node, h.placement, h.attempts, task.reason, done.started_at, done.duration_ms,
        exit_code=done.exit_code, errors=h.errors, input_bytes=task.head.input_bytes,
    )  # fmt: skip
    out.append(done)
    state.at(now + tune.ASK_AGAIN_S, _conclude_again, (task, done))


def _took_ms(task: TaskRecord, last: Outcome) -> float:
    """How long the attempt took that `last` tells of; 0 where it never began, or was not the task's last."""
    told = last.started and task.history.errors and task.history.errors[-1].kind != "lost"
    return min(max(0.0, last.duration_ms), task.head.timeout_s * 1000) if told else 0.0


def _conclude_again(state: Coordinator, what: tuple[TaskRecord, Conclude], now: float, out: Out) -> None:
    """The broker has not answered yet. Saying it again is safe: the first stored result counts."""
    task, done = what
    if state.tasks.get(task.id) is task and task.state is CONCLUDING:
        out.append(done)
        state.at(now + tune.ASK_AGAIN_S, _conclude_again, what)


def concluded(state: Coordinator, event: Concluded, now: float, out: Out) -> None:
    """RESULTS took our result, or refused it since another was there first."""
    if event.task in state.strays:
        source = state.strays.pop(event.task)
        if source is not None:
            out.append(Remove(source))
        return
    task = state.tasks.get(event.task)
    if task is None or task.state is not CONCLUDING:
        return
    # Of another placement it is an old word about what was forgotten and came again: RESULTS tells which result counts.
    if not event.refused and task.own is not None and task.own.placement == event.placement:
        finish(state, task, structs.replace(task.own, dead_letter=event.dead_letter), now, out)
        return
    task.to(ASKING, now)
    state.to_ask.append(task)


def cancel_asked(state: Coordinator, event: CancelAsked, now: float, out: Out) -> None:
    """Cancel a task wherever it is. Of one not held here the result is recorded all the same."""
    task = state.tasks.get(event.task)
    for part in state.parts.get(event.task, ()):
        cancel_asked(state, CancelAsked(part, event.submitter, event.reason), now, out)
    if event.task in state.done:
        return
    reason = event.reason or "cancelled"
    if task is not None:
        if task.state is SPLITTING:
            task.cancelled = reason
        elif task.state is not CONCLUDING:
            conclude(state, task, ResultState.CANCELLED, reason, now, out)
    elif event.submitter:
        state.strays[event.task] = event.source
        out.append(Conclude(event.task, event.submitter, ResultState.CANCELLED, reason[: limits.REASON_MAX]))


def expire(state: Coordinator, task: TaskRecord, now: float, out: Out) -> None:
    """The task's deadline passed."""
    if task.state in (CONCLUDING, SPLITTING):
        return  # the parts have the deadline of the whole
    waited = task.reason if task.state is Life.WAITING else ""
    reason = "its deadline passed" + (f" while it waited: {waited}" if waited else "")
    conclude(state, task, ResultState.EXPIRED, reason, now, out)
