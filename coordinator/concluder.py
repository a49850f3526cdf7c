"""Recording results of our own (failed, cancelled, expired): each tried by one voice until the broker has one."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from coordinator.core.actions import Conclude
from coordinator.core.events import Concluded, Source
from coordinator.fence import Fence, outdated
from schemas import limits, subjects
from schemas.codec import encode
from schemas.errors import FogError, StoreRefused
from schemas.logs import fields
from schemas.store import Ack, Store
from schemas.task import Result, ResultState

log = logging.getLogger("fog.coordinator")

AGAIN_S = (0.5, 5.0)  # between two tries: the first wait, and the longest


class Concluder:
    """`over` is told what the broker said at last, `remove` of messages to go; `spawn` runs what waits, within the term."""

    def __init__(
        self,
        store: Store,
        fence: Fence,
        over: Callable[[Concluded], None],
        remove: Callable[[Source], None],
        spawn: Callable[[Coroutine[Any, Any, None]], None],
    ) -> None:
        self._store, self._fence, self._over, self._remove, self._spawn = store, fence, over, remove, spawn
        self._recording: set[str] = set()  # tasks of which a result is on its way
        self._refused: dict[str, Source] = {}  # messages that go once their task's result is stored
        self._in_turn = asyncio.Lock()

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
            parts=end.parts,
        )
        _Post(self, result).send()

    def refuse(self, task: str, submitter: str, source: Source, reason: str) -> None:
        """End a task that the core cannot handle: a failed result says so, then its message goes."""
        self._refused[task] = source
        self.conclude(Conclude(task, submitter, ResultState.FAILED, reason))

    def _ended(self, task: str, placement: int, refused: bool) -> None:
        self._recording.discard(task)
        if task in self._refused:
            self._remove(self._refused.pop(task))
        self._over(Concluded(task, refused=refused, placement=placement))


class _Post:
    """One result on its way."""

    def __init__(self, by: Concluder, result: Result) -> None:
        self._by, self._task, self._placement = by, result.task, result.placement
        self._subject = subjects.result(result.submitter, result.task)
        self._data = encode(result)
        self._msg_id = f"{result.task}.{result.state.value}"
        self._wait_s = AGAIN_S[0]

    def send(self) -> None:
        by = self._by
        by._store.post(self._subject, self._data, self._msg_id, self._answered, headers=by._fence.headers())

    def _answered(self, answer: Ack | FogError) -> None:
        # A duplicate may be of an earlier end of a task that came again: RESULTS is to be asked, as where it was refused.
        refused = (isinstance(answer, StoreRefused) and answer.exists) or (isinstance(answer, Ack) and answer.duplicate)
        if refused or isinstance(answer, Ack):
            self._by._ended(self._task, self._placement, refused)
            return
        if not outdated(answer):
            log.error("a result was not stored", extra=fields(task=self._task, error=str(answer)))
        self._by._spawn(self._send_again())

    async def _send_again(self) -> None:
        """After a look at the mark, one at a time: several servers refuse what compares with it at the same moment."""
        by = self._by
        await asyncio.sleep(self._wait_s)
        self._wait_s = min(AGAIN_S[1], 2 * self._wait_s)
        answer: Ack | FogError
        async with by._in_turn:
            try:
                await by._fence.renew()
                answer = await by._store.put(
                    self._subject, self._data, msg_id=self._msg_id, headers=by._fence.headers()
                )
            except FogError as error:
                answer = error
        self._answered(answer)
