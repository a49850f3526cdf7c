"""Dead letters, as the coordinator keeps them: written before a task's result is, looked through by whoever takes over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from msgspec import Raw, structs

from coordinator.core.actions import Conclude
from coordinator.core.events import Event, LettersFound, Source
from coordinator.fenced import AGAIN_S, Fenced
from schemas import jetstream, limits, streams, subjects
from schemas.bus import Bus
from schemas.codec import encode
from schemas.dead import DeadLetter
from schemas.errors import BadInput, FogError, StoreRefused
from schemas.logs import fields
from schemas.store import Ack
from schemas.task import Result

log = logging.getLogger("fog.coordinator")

AT_ONCE = 16  # letters on their way: each holds a whole task, and stands before the lease's renewal in the socket

ReadBody = Callable[[str, Source], Awaitable[bytes | None]]


class DeadLetters:
    """Writes letters by `letters`, under a mark of their own; `read` gives a task's submitted message by where it lies."""

    def __init__(self, letters: Fenced, read: ReadBody) -> None:
        self._letters, self._read = letters, read
        self._room = asyncio.Semaphore(AT_ONCE)

    async def keep(self, end: Conclude, result: Result) -> bool:
        """Store the letter of a task that was given up; returns once the broker has it.

        False when there is nothing to keep (its message is gone) or it is too large even with its errors cut short.
        """
        assert end.letter is not None
        async with self._room:
            body = await self._body(end.task, end.letter)
            if body is None:
                log.warning("no dead letter: the task's message is gone", extra=fields(task=end.task))
                return False
            for told in (result, _cut(result)):
                answer = await self._store(end, encode(DeadLetter(Raw(body), told, end.at)))
                if isinstance(answer, Ack):
                    return True
        log.error("no dead letter: it is too large", extra=fields(task=end.task, bytes=len(body)))
        return False

    async def _body(self, task: str, source: Source) -> bytes | None:
        wait_s = AGAIN_S[0]
        while True:
            try:
                return await self._read(task, source)
            except FogError as error:
                log.warning("a task could not be read, trying again", extra=fields(task=task, error=error.message))
                await asyncio.sleep(wait_s)
                wait_s = min(AGAIN_S[1], 2 * wait_s)

    async def _store(self, end: Conclude, data: bytes) -> Ack | BadInput:
        answered: asyncio.Future[Ack | FogError] = asyncio.get_running_loop().create_future()

        def over(answer: Ack | FogError) -> None:
            if not answered.done():
                answered.set_result(answer)

        msg_id = f"{end.task}.{end.placement}.{self._letters.fence.term}"
        self._letters.post(subjects.dead(end.submitter, end.task), data, msg_id, over)
        answer = await answered
        assert isinstance(answer, Ack | BadInput), answer  # the subject takes a letter whether it holds one or not
        return answer


def _cut(result: Result) -> Result:
    """The result with less of what its attempts said: the task itself may be nearly as large as a message can be."""
    errors = tuple(structs.replace(e, error=e.error[: limits.DEAD_ERROR_MAX]) for e in result.errors)
    return structs.replace(result, errors=errors, stdout="", stderr="")


async def read_letters(bus: Bus, feed: Callable[[Event], None]) -> None:
    """Feed the names of the letters that are there: a term that ended within a conclusion may have left one that is to go."""
    names = [subjects.tail(name, 1) for name in await jetstream.subjects(bus, streams.DEAD, subjects.dead("*", "*"))]
    if names:
        feed(LettersFound(tuple((submitter, task) for submitter, task in names)))


async def place_of(bus: Bus, submitter: str, task: str) -> Source | None:
    """Where the letter of a task lies; None when there is none. What cannot be read now is tried again."""
    wait_s = AGAIN_S[0]
    while True:
        try:
            message = await jetstream.get_message(bus, streams.DEAD, last_by=subjects.dead(submitter, task))
            return None if message is None else Source("dead", message.seq)
        except FogError as error:
            log.warning("a dead letter could not be looked up", extra=fields(task=task, error=error.message))
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_S[1], 2 * wait_s)


async def count(bus: Bus) -> int:
    """How many letters FOG_DEAD holds; the marks of terms in it are none."""
    try:
        info = await jetstream.stream_info(bus, streams.DEAD, subjects_filter=subjects.dead("_term", ">"))
    except StoreRefused as error:
        if error.code in jetstream.NOT_FOUND:  # `fog doctor` tells of a stream that is missing
            return 0
        raise
    return int(info["state"]["messages"]) - len(info["state"].get("subjects") or {})
