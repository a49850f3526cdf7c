"""Recording results of our own (failed, cancelled, expired): each tried by one voice until the broker has one.

A task that was given up is kept as a dead letter before its result is stored, so that no result says that there is a letter
where there is none. What a letter is without its result is for the core to find out (`coordinator.core.dead`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from msgspec import structs

from coordinator.core.actions import Conclude
from coordinator.core.events import Concluded, LettersFound, Source
from coordinator.fenced import Fenced
from schemas import limits, subjects
from schemas.codec import encode
from schemas.errors import FogError
from schemas.store import Ack
from schemas.task import Result, ResultState


class Concluder:
    """Stores results by `results`. `keep` stores the letter of a task first, and tells whether it could; `over` is told what
    the broker said at last, `remove` of messages to go; `spawn` runs what waits, within the term."""

    def __init__(
        self,
        results: Fenced,
        keep: Callable[[Conclude, Result], Awaitable[bool]],
        over: Callable[[Concluded | LettersFound], None],
        remove: Callable[[Source], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._results, self._keep, self._over, self._remove, self._spawn = results, keep, over, remove, spawn
        self._recording: set[str] = set()  # tasks of which a result is on its way
        self._refused: dict[str, Source] = {}  # messages that go once their task's result is stored

    def conclude(self, end: Conclude) -> None:
        """Record a result."""
        if end.task in self._recording:
            return  # the core says it again while there is no answer; it is being tried all the same
        self._recording.add(end.task)
        result = Result(
            end.task,
            end.submitter,
            end.state,
            node=end.node,
            placement=end.placement,
            attempts=end.attempts,
            reason=end.reason[: limits.REASON_MAX],
            errors=end.errors,
            exit_code=end.exit_code,
            stdout=end.stdout,
            stderr=end.stderr,
            started_at=end.started_at,
            duration_ms=end.duration_ms,
            parts=end.parts,
            dead_letter=end.letter is not None,
        )
        if end.letter is None:
            self._record(result)
        else:
            self._spawn(self._record_with_letter(end, result))

    def refuse(self, task: str, submitter: str, source: Source, reason: str) -> None:
        """End a task that the core cannot handle: a failed result says so, then its message goes."""
        self._refused[task] = source
        self.conclude(Conclude(task, submitter, ResultState.FAILED, reason))

    async def _record_with_letter(self, end: Conclude, result: Result) -> None:
        try:
            kept = await self._keep(end, result)
        except BaseException:
            self._recording.discard(end.task)  # so that the core's next saying of it begins anew
            raise
        self._record(structs.replace(result, dead_letter=kept))

    def _record(self, result: Result) -> None:
        subject = subjects.result(result.submitter, result.task)
        msg_id = f"{result.task}.{result.state.value}"
        self._results.post(subject, encode(result), msg_id, lambda answer: self._answered(result, answer))

    def _answered(self, result: Result, answer: Ack | FogError) -> None:
        task = result.task
        # A duplicate may be of an earlier end of a task that came again: RESULTS is to be asked, as where it was refused.
        refused = not isinstance(answer, Ack) or answer.duplicate
        self._recording.discard(task)
        if task in self._refused:
            self._remove(self._refused.pop(task))
        if refused and result.dead_letter:
            self._over(LettersFound(((result.submitter, task),)))
        self._over(Concluded(task, refused, result.placement, result.dead_letter))
