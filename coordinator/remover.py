"""Deleting messages that need not be where they are any more: tried until it is done or the term is over."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable

from coordinator.core.events import Source
from schemas import jetstream, streams
from schemas.bus import Bus
from schemas.errors import FogError
from schemas.logs import fields

log = logging.getLogger("fog.coordinator")

AT_ONCE = 32
WAITING_MAX = 200_000  # more than a full waiting place; what is beyond is found again by the next term
AGAIN_S = (0.5, 5.0)
STREAM_OF = {"tasks": streams.TASKS, "work": streams.WORK, "outcomes": streams.OUTCOMES, "dead": streams.DEAD}


class Remover:
    """One queue for all. `may` says whether the lease is valid: without it nothing is deleted."""

    def __init__(self, bus: Bus, may: Callable[[], bool]) -> None:
        self._bus, self._may = bus, may
        self._queue: deque[Source] = deque()
        self._workers: set[asyncio.Task[None]] = set()
        self._stopped = False
        self.dropped = 0

    def add(self, source: Source) -> None:
        """Delete the message as soon as possible. Never waits."""
        if self._stopped:
            return
        if len(self._queue) >= WAITING_MAX:
            self._queue.popleft()
            self.dropped += 1
            if self.dropped == 1:
                log.error("too many messages wait to be removed", extra=fields(waiting=WAITING_MAX))
        self._queue.append(source)
        if len(self._workers) < AT_ONCE:
            worker = asyncio.get_running_loop().create_task(self._work())
            self._workers.add(worker)
            worker.add_done_callback(self._workers.discard)

    async def _work(self) -> None:
        wait_s = AGAIN_S[0]
        while self._queue:
            source = self._queue.popleft()
            try:
                if self._may():
                    await jetstream.delete_message(self._bus, STREAM_OF[source.stream], source.seq)
                    wait_s = AGAIN_S[0]
                    continue
                problem = "the lease is not valid"
            except FogError as error:
                problem = error.message
            self._queue.append(source)
            where = fields(stream=source.stream, seq=source.seq, error=problem)
            log.info("a message is removed later", extra=where)
            await asyncio.sleep(wait_s)
            wait_s = min(AGAIN_S[1], 2 * wait_s)

    def stop(self) -> None:
        """This term is over: whoever follows finds what is left."""
        self._stopped = True
        self._queue.clear()
        for worker in self._workers:
            worker.cancel()
