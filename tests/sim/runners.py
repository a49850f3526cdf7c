"""The runner processes of a node, in the place of `node.runners.pool.Pool`: they take time, fail, die, and can be stopped.

What a task does is said by its arguments, ``[seconds, how]``; `how` is ok, fail, or die (with its runner).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from node.core.attempts import Attempt
from node.core.last import Last
from node.runners.frames import Call, Failed, Finished, Hello, Withdraw, Withdrawn
from node.runners.runner import GUARD_S
from schemas.device import FunctionOffer

FUNCTIONS = ("work", "quick", "rare")
START_S = 0.2  # of a cold runner
STOP_S = 0.1  # until a stopped one is gone
HEAR_S, SAY_S = 0.005, 0.005  # from daemon to runner, and back: what is said crosses on its way

_args = msgspec.json.Decoder(tuple[float, str]).decode


class Seen(Protocol):
    """Who is told of what runs."""

    def began(self, node: str, attempt: Attempt) -> None: ...

    def ended(self, node: str, attempt: Attempt) -> None: ...


class SimRunner:
    """One runner. Its messages wait in order; the first of them runs. `last`: what it did last."""

    def __init__(self, pool: SimPool) -> None:
        self.lane: Any = None
        self.ready = False
        self.idle_since = 0.0
        self.stopping = False
        self.last = Last(0, 0)
        self._gone = False
        self._until = 0.0
        self._pool, self._loop = pool, asyncio.get_running_loop()
        self._calls: deque[Call] = deque()
        self._busy: Any = None
        self._running: Attempt | None = None
        self._loop.call_later(START_S, self._hello)

    def _hello(self) -> None:
        if not self.stopping:
            self.ready = True
            self._pool.on_message(self, Hello(()))
            self._next()

    def send(self, messages: list[Any]) -> None:
        self._loop.call_later(HEAR_S, self._hear, messages)

    def _hear(self, messages: list[Any]) -> None:
        if self._gone:
            return
        for message in messages:
            if isinstance(message, Withdraw):
                back = tuple(call.key for call in self._calls if call.key in message.keys)
                self._calls = deque(call for call in self._calls if call.key not in back)
                self._say(Withdrawn(back))
            else:
                self._calls.append(message)
        self._next()

    def _say(self, message: Any) -> None:
        self._loop.call_later(SAY_S, self._said, message)

    def _said(self, message: Any) -> None:
        if not self._gone:
            self._pool.on_message(self, message)

    def _next(self) -> None:
        if self._busy is not None or not self._calls or not self.ready or self.stopping:
            return
        call = self._calls.popleft()
        seconds, how = _args(call.args)
        self.last = Last(call.key, self.last.through)
        self._busy = self._loop.call_later(seconds, self._over, call.key, seconds, how)
        line = self.lane.line if self.lane is not None else ()
        attempt = next((a for a in line if a.key == call.key), None)
        if attempt is not None:
            self._running = attempt
            self._pool.seen.began(self._pool.node, attempt)

    def _idle(self) -> None:
        self._busy = None
        if self._running is not None:
            self._pool.seen.ended(self._pool.node, self._running)
            self._running = None

    def _over(self, key: int, seconds: float, how: str) -> None:
        self._idle()
        if how == "die":
            self.stopping = self._gone = True
            self._pool.gone(self, "killed by its task")
            return
        self.last = Last(key, key)
        self._say(Finished(key, seconds, b"1") if how == "ok" else Failed(key, seconds, "boom"))
        self._next()

    def lease(self, until: float) -> None:
        """What runs is exclusive, until then. The real runner ends by itself, whatever its daemon does."""
        self._until = until
        if until:
            self._loop.timeline.at(until + GUARD_S, self._guard, until)  # type: ignore[attr-defined]

    def _guard(self, until: float) -> None:
        if self._until != until or self._gone or self._loop.dead:  # type: ignore[attr-defined]
            return
        self._end()
        self._loop.timeline.at(until + GUARD_S, self._pool.gone, self, "its lease ended", loop=self._loop)  # type: ignore[attr-defined]

    def _end(self) -> None:
        self.stopping = self._gone = True
        if self._busy is not None:
            self._busy.cancel()
        self._idle()

    def stop(self) -> None:
        if not self.stopping:
            self.stopping = True
            self._loop.call_later(STOP_S, self._stopped)

    def _stopped(self) -> None:
        if not self._gone:
            self._end()
            self._pool.gone(self, "stopped")

    close = stop


class SimPool:
    """Hands out runners; the answers go to the executor, as from the real one."""

    def __init__(
        self,
        modules: tuple[str, ...],
        on_message: Callable[[Any, Any], None],
        on_gone: Callable[[Any, str], None],
        now: Callable[[], float],
    ) -> None:
        self.on_message, self._on_gone = on_message, on_gone
        owner: Any = asyncio.get_running_loop()
        self.node: str = owner.name
        self.seen: Seen = owner.seen
        self._warm: list[SimRunner] = []
        self.all: dict[SimRunner, None] = {}

    async def hello(self) -> Hello:
        return Hello(tuple(FunctionOffer(name) for name in FUNCTIONS))

    def take(self) -> SimRunner:
        if self._warm:
            return self._warm.pop()
        runner = SimRunner(self)
        self.all[runner] = None
        return runner

    def give_back(self, runner: SimRunner) -> None:
        runner.lane = None
        self._warm.append(runner)

    def gone(self, runner: SimRunner, how: str) -> None:
        self.all.pop(runner, None)
        if runner in self._warm:
            self._warm.remove(runner)
        self._on_gone(runner, how)

    async def close(self) -> None:
        for runner in list(self.all):
            runner.stop()
