"""How attempts end on the wire: the started event, the result or the outcome, and only then the ack of the WORK message."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from functools import partial

from msgspec.structs import replace

from node.blobs import Blobs, inline, inputs_of, is_small
from node.context import Context
from node.core.attempts import Attempt
from node.core.desk import Desk
from node.core.endings import CANCELLED, DROPPED, TIMEOUT, Done, Ending, outcome_of, result_by_passed, result_of
from node.outputs import Outputs
from node.runners.frames import Failed, Finished, Printed, Progressed
from schemas import limits, subjects
from schemas.codec import encode
from schemas.errors import FogError, StoreRefused, Unreachable
from schemas.event import TaskEvent
from schemas.logs import fields
from schemas.pull import ack
from schemas.store import Ack
from schemas.task import OutcomeKind, Result

log = logging.getLogger("fog.node.recorder")

HEADERS_ROOM = 512  # bytes of a message's limit that its headers may take
STORE_AGAIN_S = (0.5, 10.0)  # first and longest wait before a large part of a result is stored again
AGAIN_S = 5.0  # until what the broker refused (a full stream) is tried again
TOO_LARGE = 10054  # the err_code of a message that is larger than its stream allows
STDERR_SHOWN = 600  # characters of a failed command's stderr that its error carries


class Recorder:
    """The executor's `Sink`, and where attempts end that were never handed over."""

    def __init__(self, context: Context, desk: Desk, outputs: Outputs, blobs: Blobs) -> None:
        self._context, self._desk, self._outputs, self._blobs = context, desk, outputs, blobs
        self._tasks: set[asyncio.Task[None]] = set()
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

    def _grown(self) -> None:
        """Tell of those that have run long enough. The eldest is first."""
        now = time.time()
        self._growing = False
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
        elif result_by_passed(attempt, time.time()):
            self._end(
                attempt, Ending(OutcomeKind.RETURNED, "returned", "finished later than its result could count", True)
            )
        elif is_small(message):
            self._close(attempt)
            self._post_result(attempt, inline(message))
        else:
            self._close(attempt)
            self._spawn(self._store_then_post(attempt, message))

    def failed(self, attempt: Attempt, message: Failed) -> None:
        """A failed attempt. With arguments that do not fit, no other node can do better."""
        word = "arguments" if message.arguments else "failed"
        self._end(attempt, Ending(OutcomeKind.FAILED, word, message.error, True))

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        """A failed attempt: a task that kills its runner must not be tried for ever. A runner that ended before the task
        was begun says nothing of it."""
        word = "died" if began and attempt.started_at else "failed"
        self._end(attempt, Ending(OutcomeKind.FAILED, word, how, began))

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        """By its timeout: failed. Cancelled: the coordinator records it. Dropped: it lives elsewhere. Else returned."""
        if why == TIMEOUT:
            error = f"stopped after its timeout of {attempt.task.timeout_s:g} s"
            self._end(attempt, Ending(OutcomeKind.FAILED, "timeout", error, began))
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
        self._ack(self._desk.settle(attempt, final=False))

    def dropped(self, attempt: Attempt) -> None:
        """Say nothing and leave its WORK message, if there still is one, to whoever owns it."""
        self._outputs.end(attempt)
        self._let_go(attempt)
        self._desk.forget(attempt)

    def returned(self, attempt: Attempt, why: str, began: bool) -> None:
        """Hand it back for others."""
        self._end(attempt, Ending(OutcomeKind.RETURNED, "returned", why, began))

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
            self._spawn(self._blobs.release(inputs_of(attempt.task)))

    async def _store_then_post(self, attempt: Attempt, message: Finished) -> None:
        """A broker that does not answer is asked again, as for any result."""
        wait_s = STORE_AGAIN_S[0]
        while True:
            try:
                done = await self._blobs.store(message)
                break
            except Unreachable as error:
                log.warning("cannot store a result yet", extra=fields(task=attempt.task.id, error=error.message))
                await asyncio.sleep(random.uniform(0.5, 1.0) * wait_s)
                wait_s = min(STORE_AGAIN_S[1], 2 * wait_s)
            except Exception as error:
                said = error.message if isinstance(error, FogError) else f"{type(error).__name__}: {error}"
                why = f"its result could not be stored: {said}"
                self._post_outcome(attempt, Ending(OutcomeKind.FAILED, "failed", why, True))
                return
        self._post_result(attempt, done)

    async def all_posted(self, timeout_s: float) -> None:
        """Wait, at most so long, until what is being stored apart is stored and its results are on their way."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks), timeout=timeout_s)

    def _post_result(self, attempt: Attempt, done: Done) -> None:
        data = self._fitting(result_of(attempt, done, self._context.node))
        if data is None:
            errors = f"; {len(done.errors)} items failed, the first: {done.errors[0][1]}" if done.errors else ""
            why = f"its result is larger than a message may be{errors}"
            self._post_outcome(attempt, Ending(OutcomeKind.FAILED, "failed", why, True))
            return
        self.results += 1
        self._store_result(attempt, data)

    def _store_result(self, attempt: Attempt, data: bytes) -> None:
        task = attempt.task
        self._context.store.post(
            subjects.result(task.submitter, task.id),
            data,
            "",  # no id: FOG_RESULTS refuses a second message on the subject, whoever says it
            partial(self._result_answered, attempt, data),
        )

    def _fitting(self, result: Result) -> bytes | None:
        limit = self._context.bus.max_payload - HEADERS_ROOM
        data = encode(result)
        if len(data) > limit and result.errors:
            data = encode(replace(result, errors=result.errors[-1:]))
        return data if len(data) <= limit else None

    def _result_answered(self, attempt: Attempt, data: bytes, answer: Ack | FogError) -> None:
        if isinstance(answer, Ack) or (isinstance(answer, StoreRefused) and answer.exists):
            self._ack(self._desk.settle(attempt, final=True))
        elif isinstance(answer, StoreRefused) and answer.code != TOO_LARGE:
            log.error("a result was refused, trying again", extra=fields(task=attempt.task.id, error=answer.message))
            asyncio.get_running_loop().call_later(AGAIN_S, self._store_result, attempt, data)
        else:
            why = f"its result was refused: {answer.message}"
            self._post_outcome(attempt, Ending(OutcomeKind.FAILED, "failed", why, True))

    def _post_outcome(self, attempt: Attempt, ending: Ending) -> None:
        context = self._context
        outcome = outcome_of(attempt, ending, context.node, context.boot, time.time())
        data = encode(outcome)
        if len(data) > context.bus.max_payload - HEADERS_ROOM:
            history = replace(outcome.history, errors=outcome.history.errors[-1:])
            data = encode(replace(outcome, history=history, stdout="", stderr=""))
        self.outcomes += 1
        self._post(attempt, data)

    def _post(self, attempt: Attempt, data: bytes) -> None:
        task = attempt.task
        self._context.store.post(
            subjects.outcome(self._context.node, task.id),
            data,
            f"{task.id}.{attempt.placement}.outcome",
            partial(self._outcome_answered, attempt, data),
        )

    def _outcome_answered(self, attempt: Attempt, data: bytes, answer: Ack | FogError) -> None:
        if isinstance(answer, Ack):
            self._ack(self._desk.settle(attempt, final=False))
            return
        log.error("an outcome was refused, trying again", extra=fields(task=attempt.task.id, error=answer.message))
        asyncio.get_running_loop().call_later(AGAIN_S, self._post, attempt, data)

    def _ack(self, reply: str) -> None:
        if reply:
            ack(self._context.bus, reply)

    def _spawn(self, work: object) -> None:
        task = asyncio.get_running_loop().create_task(work)  # type: ignore[arg-type,var-annotated]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
