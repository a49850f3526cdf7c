"""Waiting for results: one subscription to all that is stored for a submitter, a future for each task waited for.

The subscription is core NATS, so a reconnect or a slow moment may lose a message; the stream has it. Whoever has been
waiting through one or two rounds of `ROUND_S` is looked up there, and after a reconnect everybody is.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random

from schemas import jetstream, streams, subjects
from schemas.bus import Bus, Subscription
from schemas.codec import Decoder
from schemas.errors import FogError
from schemas.task import Result

log = logging.getLogger("fog.client")

ROUND_S = 5.0
ROUND_MAX_S = 60.0  # rounds that find nothing missed come ever more rarely

_decode: Decoder[Result] = Decoder(Result)


class Waiting:
    """The results that this process waits for. `start()` first, `close()` at the end."""

    def __init__(self, bus: Bus, submitter: str) -> None:
        self._bus, self._submitter = bus, submitter
        self._futures: dict[str, asyncio.Future[Result]] = {}
        self._prefix = len(subjects.done(submitter, ""))
        self._to_ask: list[str] = []
        self._asker: asyncio.Task[None] | None = None
        self._kick = asyncio.Event()
        self._subscription: Subscription | None = None
        self._rounds: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen."""
        self._subscription = await self._bus.subscribe(subjects.done(self._submitter, ">"), self._arrived)
        self._rounds = asyncio.create_task(self._go_round())

    async def close(self) -> None:
        """Listen no more. Whoever still waits is cancelled."""
        for task in (self._rounds, self._asker):
            if task is not None:
                task.cancel()
        if self._subscription is not None:
            await self._subscription.close()
        for future in self._futures.values():
            future.cancel()
        self._futures.clear()

    def watch(self, task: str) -> asyncio.Future[Result]:
        """The future of a task's result. Call it before the task is submitted, or `ask` afterwards."""
        future = self._futures.get(task)
        if future is None or future.done():
            future = self._futures[task] = asyncio.get_running_loop().create_future()
        return future

    def forget(self, task: str) -> None:
        """Nobody waits for this task any more."""
        self._futures.pop(task, None)

    def ask(self, task: str) -> None:
        """Look in the stream as well: the task may have ended before `watch`. Asks of one moment go together."""
        self._to_ask.append(task)
        if self._asker is None:
            self._asker = asyncio.create_task(self._ask_now())

    def link_back(self) -> None:
        """The link was down: look everybody up at once."""
        self._kick.set()

    def _arrived(self, subject: str, _reply: str, data: bytes, _headers: bytes) -> None:
        self._deliver(subject[self._prefix :], data)

    def _deliver(self, task: str, data: bytes) -> bool:
        future = self._futures.pop(task, None)
        if future is None or future.done():
            return False
        try:
            future.set_result(_decode(data))
        except FogError as error:
            future.set_exception(error)
        return True

    async def _ask_now(self) -> None:
        while self._to_ask:
            tasks, self._to_ask = self._to_ask, []
            try:
                await self._look_up(tasks)
            except FogError as error:
                log.debug("cannot look up results yet, trying again: %s", error)
                self._kick.set()
        self._asker = None

    async def _look_up(self, tasks: list[str]) -> int:
        wanted = [subjects.result(self._submitter, task) for task in tasks if task in self._futures]
        found = 0
        for message in await jetstream.multi_last(self._bus, streams.RESULTS, wanted):
            found += self._deliver(message.subject.rpartition(".")[2], message.data)
        return found

    async def _go_round(self) -> None:
        pause_s, seen = ROUND_S, set[str]()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s * random.uniform(0.9, 1.1)):
                    await self._kick.wait()
            everybody, now = self._kick.is_set(), set(self._futures)
            self._kick.clear()
            due = [task for task in now if everybody or task in seen]
            seen = now
            try:
                found = await self._look_up(due) if due else 0
            except FogError as error:
                log.debug("cannot look up results yet: %s", error)
                found = 1
            pause_s = ROUND_S if found or not due else min(ROUND_MAX_S, 2 * pause_s)
