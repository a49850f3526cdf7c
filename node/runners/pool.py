"""The runners of a node: made when needed, kept while warm, let go when idle."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from node.runners.frames import FromRunner, Hello
from node.runners.runner import Runner

log = logging.getLogger("fog.node.pool")

IDLE_S = 60.0  # an idle runner is let go after this


class Pool:
    """Hands out runners. `on_message` and `on_gone` get what those say that work on a lane; `now` is their work's clock."""

    def __init__(
        self,
        modules: tuple[str, ...],
        on_message: Callable[[Runner, FromRunner], None],
        on_gone: Callable[[Runner, str], None],
        now: Callable[[], float] | None = None,
    ) -> None:
        self._modules, self._now = modules, now
        self._on_message, self._on_gone = on_message, on_gone
        self._idle: list[Runner] = []
        self.all: set[Runner] = set()
        self._loop = asyncio.get_running_loop()
        self._reaper: asyncio.TimerHandle | None = None
        self._empty = asyncio.Event()
        self._empty.set()
        self._first: asyncio.Future[Hello] | None = None
        self.on_spawn: Callable[[Runner], None] | None = None  # hears of every new one

    async def hello(self) -> Hello:
        """Start a runner and return what it offers; its `error` is set when a module cannot be imported."""
        self._first = self._loop.create_future()
        runner = self.take()
        try:
            hello = await self._first
        finally:
            self._first = None
        if not hello.error:
            self.give_back(runner)
        return hello

    def take(self) -> Runner:
        """An idle runner, or a new one that may still be starting: it can be sent to at once."""
        if self._idle:
            return self._idle.pop()
        runner = Runner(self._modules, self._message, self._ended, self._now)
        self.all.add(runner)
        self._empty.clear()
        if self.on_spawn is not None:
            self.on_spawn(runner)
        return runner

    def give_back(self, runner: Runner) -> None:
        """It is idle now."""
        runner.lane = None
        runner.idle_since = self._loop.time()
        self._idle.append(runner)
        if self._reaper is None:
            self._reaper = self._loop.call_later(IDLE_S, self._reap)

    def _reap(self) -> None:
        now = self._loop.time()
        # Taken from the end, given back at the end: the longest idle come first.
        while self._idle and now - self._idle[0].idle_since >= IDLE_S - 0.001:
            self._idle.pop(0).close()
        wait_s = self._idle[0].idle_since + IDLE_S - now if self._idle else 0.0
        self._reaper = self._loop.call_later(wait_s, self._reap) if self._idle else None

    def shed(self) -> None:
        """Let go of every idle runner now."""
        idle, self._idle = self._idle, []
        for runner in idle:
            runner.close()

    def _message(self, runner: Runner, message: FromRunner) -> None:
        if isinstance(message, Hello):
            runner.hello(message.error)
            if self._first is not None and not self._first.done():
                self._first.set_result(message)
                return
        self._on_message(runner, message)

    def _ended(self, runner: Runner, how: str) -> None:
        self.all.discard(runner)
        if runner in self._idle:
            self._idle.remove(runner)
        if not self.all:
            self._empty.set()
        if self._first is not None and not self._first.done():
            self._first.set_result(Hello((), how))
        self._on_gone(runner, how)

    async def close(self) -> None:
        """Stop all of them, and return when they are gone."""
        if self._reaper is not None:
            self._reaper.cancel()
        for runner in list(self.all):
            runner.stop()
        await self._empty.wait()
