"""How attempts end on the wire: the started event, then the result or the outcome, which the outbox delivers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable

from node.beside import Beside
from node.blobs import Blobs, apart, inline, inputs_of, is_small
from node.context import Context
from node.core.attempts import Attempt
from node.core.desk import Desk
from node.core.endings import (
    CANCELLED,
    DROPPED,
    MEMORY_EXCEEDED,
    TIMEOUT,
    Done,
    Ending,
    outcome_of,
    result_of,
)
from node.core.letters import fitted_outcome, fitted_result, is_late, late
from node.outbox import HEADERS_ROOM, Outbox
from node.outputs import Outputs
from node.runners.frames import Failed, Finished, Printed, Progressed
from schemas import limits
from schemas.event import TaskEvent
from schemas.task import OutcomeKind

log = logging.getLogger("fog.node.recorder")

STDERR_SHOWN = 600  # characters of a failed command's stderr that its error carries


class Recorder:
    """The executor's `Sink`, and where attempts end that were never handed over. `on_running` is told, now and then, that
    something runs."""

    def __init__(
        self,
        context: Context,
        desk: Desk,
        outputs: Outputs,
        blobs: Blobs,
        outbox: Outbox,
        on_running: Callable[[], None],
    ) -> None:
        self._context, self._desk, self._outputs = context, desk, outputs
        self._blobs, self._outbox, self._on_running = blobs, outbox, on_running
        self._beside = Beside(log, "what has ended could not be told, or its inputs not let go")
        self._young: dict[Attempt, None] = {}  # runs, but not yet for long enough to be told
        self._growing = False
        self.results = 0
        self.outcomes = 0

    # What the executor tells.

    def started(self, attempt: Attempt) -> None:
        """Say so if it still runs in a moment; the start of a quicker one is said with its end, by the coordinator."""
        if not self._growing:
            self._growing = True
            asyncio.get_running_loop().call_later(limits.STARTED_EVENT_S, self._grown)
        self._young[attempt] = None

    def unstarted(self, attempt: Attempt) -> None:
        """Say nothing of it."""
        self._young.pop(attempt, None)

    def _grown(self) -> None:
        """Tell of those that have run long enough. The eldest is first."""
        now = time.time()
        self._growing = False
        self._on_running()
        for attempt in list(self._young):
            wait_s = attempt.started_at + limits.STARTED_EVENT_S - now
            if wait_s > 0:
                self._growing = True
                asyncio.get_running_loop().call_later(wait_s, self._grown)
                return
            del self._young[attempt]
            self._tell_started(attempt)

    def _tell_started(self, attempt: Attempt) -> None:
        task, history, context = attempt.task, attempt.work.history, self._context
        key = f"{task.id}.{history.placement}.started"
        data = TaskEvent(task.id, task.submitter, context.node, history.placement, history.attempts + 1)
        context.events.term = attempt.work.term
        context.events.emit("task.started", task.id, key, data, attempt.started_at)

    def printed(self, attempt: Attempt, message: Printed | Progressed) -> None:
        """Stream it."""
        self._outputs.add(attempt, message)

    def finished(self, attempt: Attempt, message: Finished) -> None:
        """A result; of a command that exited otherwise than 0, a failed attempt."""
        if message.exit_code:
            said = message.stderr.strip()[-STDERR_SHOWN:]
            error = f"exit code {message.exit_code}" + (f"\n{said}" if said else "")
            self._end(
                attempt,
                Ending(OutcomeKind.FAILED, "failed", error, True, message.exit_code, message.stdout, message.stderr),
            )
        elif is_late(attempt.work.result_by, time.time()):
            self._end(attempt, late())
        elif is_small(message):
            self._close(attempt)
            self._post_result(attempt, inline(message))
        else:
            self._close(attempt)
            self._beside.begin(self._name_then_post(attempt, message))

    def failed(self, attempt: Attempt, message: Failed) -> None:
        """A failed attempt. With arguments that do not fit, no other node can do better."""
        word, error = "arguments" if message.arguments else "failed", message.error
        if message.memory:
            word, error = "memory", f"{MEMORY_EXCEEDED}\n{error}"
        self._end(attempt, Ending(OutcomeKind.FAILED, word, error, True))

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        """A failed attempt: a task that kills its runner must not be tried for ever. A runner that ended before the task
        was begun says nothing of it."""
        word = "died" if began and attempt.started_at else "failed"
        if how.startswith(MEMORY_EXCEEDED):
            word = "memory"
        self._end(attempt, Ending(OutcomeKind.FAILED, word, how, began))

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        """By its timeout, or for the memory it took: failed. Cancelled: the coordinator records it. Dropped: it lives
        elsewhere. Else returned."""
        if why == TIMEOUT:
            error = f"stopped after its timeout of {attempt.task.timeout_s:g} s"
            self._end(attempt, Ending(OutcomeKind.FAILED, "timeout", error, began))
        elif why.startswith(MEMORY_EXCEEDED):
            self._end(attempt, Ending(OutcomeKind.FAILED, "memory", why, began))
        elif why == CANCELLED:
            self.cancelled(attempt)
        elif why == DROPPED:
            self.dropped(attempt)
        else:
            self.returned(attempt, why, began)

    # Ends without a run.

    def cancelled(self, attempt: Attempt) -> None:
        """Say nothing, and let its WORK message go. Not final: the coordinator also cancels what it moved away, and such a
        task may come back under a higher number."""
        self._close(attempt)
        self._ack(self._desk.settle(attempt, final=False, cancelled=True))

    def dropped(self, attempt: Attempt) -> None:
        """Say nothing and leave its WORK message, if there still is one, to whoever owns it."""
        self._outputs.end(attempt)
        self._let_go(attempt)
        self._desk.forget(attempt)

    def returned(self, attempt: Attempt, why: str, began: bool) -> None:
        """Hand it back for others."""
        self._end(attempt, Ending(OutcomeKind.RETURNED, "returned", why, began))

    def hand_back(self, why: str) -> None:
        """What waits goes to others."""
        for attempt in self._desk.waiting():
            self.returned(attempt, why, began=False)

    def refused(self, attempt: Attempt, why: str) -> None:
        """It can never run here."""
        self._end(attempt, Ending(OutcomeKind.REFUSED, "refused", why, False))

    def unfit(self, attempt: Attempt, why: str) -> None:
        """It cannot be run at all: bad content, missing inputs."""
        self._end(attempt, Ending(OutcomeKind.FAILED, "failed", why, False))

    # The two ways to the store.

    def _end(self, attempt: Attempt, ending: Ending) -> None:
        self._close(attempt)
        self._post_outcome(attempt, ending)

    def _close(self, attempt: Attempt) -> None:
        self._outputs.end(attempt)
        self._let_go(attempt)
        self._desk.close(attempt)

    def _let_go(self, attempt: Attempt) -> None:
        self._young.pop(attempt, None)
        attempt.inputs = ()
        if attempt.fetched:
            attempt.fetched = False
            self._beside.begin(self._blobs.release(inputs_of(attempt.task)))

    async def _name_then_post(self, attempt: Attempt, message: Finished) -> None:
        done, large = await asyncio.to_thread(apart, message)
        self._post_result(attempt, done, large)

    async def all_posted(self, timeout_s: float) -> None:
        """Wait, at most so long, until everything that ended is in the outbox, and stored."""
        await self._beside.wait(timeout_s)
        await self._outbox.until_empty(timeout_s)

    def _post_result(self, attempt: Attempt, done: Done, large: dict[str, bytes] | None = None) -> None:
        data = fitted_result(result_of(attempt, done, self._context.node), self._room())
        if data is None:
            errors = f"; {len(done.errors)} items failed, the first: {done.errors[0][1]}" if done.errors else ""
            why = f"its result is larger than a message may be{errors}"
            self._post_outcome(attempt, Ending(OutcomeKind.FAILED, "failed", why, True))
            return
        self.results += 1
        self._outbox.result(attempt, data, large)

    def _post_outcome(self, attempt: Attempt, ending: Ending) -> None:
        context = self._context
        outcome = outcome_of(attempt, ending, context.node, context.boot, time.time())
        self.outcomes += 1
        self._outbox.outcome(attempt, fitted_outcome(outcome, self._room()))

    def _room(self) -> int:
        return self._context.bus.max_payload - HEADERS_ROOM

    def _ack(self, reply: str) -> None:
        if reply:
            self._context.ack(reply)
