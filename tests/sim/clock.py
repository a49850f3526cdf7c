"""Virtual time: one heap of events for the whole world, and an event loop on it for every process.

The processes' own code is run as it is: it asks asyncio for the running loop and gets one whose time is the world's. A
process is stalled (SIGSTOP) by keeping back all that its loop would run, and killed by running none of it any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from operator import attrgetter
from typing import Any

from msgspec import Struct

GHOST_STEPS = 500  # of a killed process's clean-up, which nobody sees


class Handle(Struct, eq=False):
    """Something that is to be run at `when_s`; `loop` is whose process does it (None: the world itself)."""

    when_s: float
    loop: Any
    fn: Callable[..., Any] | None
    args: tuple[Any, ...]

    def cancel(self) -> None:
        self.fn, self.args = None, ()

    def cancelled(self) -> bool:
        return self.fn is None

    def when(self) -> float:
        return self.when_s


class Timeline:
    """The world's time, in seconds since it began, and what happens in it, in order."""

    def __init__(self) -> None:
        self.now = 0.0
        self.events = 0
        self.failed: BaseException | None = None
        self.grain_s = 0.0  # what is due within this falls due together, at its end: fewer moments in a large world
        self._times: list[float] = []  # a heap of the moments at which something is due
        self._due: dict[float, list[Handle]] = {}
        self._ready: deque[Handle] = deque()
        self._running: Loop | None = None

    def at(self, when_s: float, fn: Callable[..., Any], *args: Any, loop: Loop | None = None) -> Handle:
        """Run it then; what is due at the same time runs in the order in which it was asked for."""
        return self.put(when_s, loop, fn, args)

    def put(self, when_s: float, loop: Loop | None, fn: Callable[..., Any], args: tuple[Any, ...]) -> Handle:
        """As `at`, in that process."""
        if self.grain_s and when_s > self.now:
            when_s = -(-when_s // self.grain_s) * self.grain_s
        handle = Handle(when_s, loop, fn, args)
        due = self._due.get(when_s)
        if due is None:
            self._due[when_s] = [handle]
            heapq.heappush(self._times, when_s)
        else:
            due.append(handle)
        return handle

    def after(self, seconds: float, fn: Callable[..., Any], *args: Any) -> Handle:
        return self.at(self.now + seconds, fn, *args)

    def soon(self, handle: Handle) -> None:
        self._ready.append(handle)

    def run(self, until_s: float) -> None:
        """Let time pass. Raises what the world itself raised (a broken invariant)."""
        ready, times = self._ready, self._times
        try:
            while True:
                self._drain(ready)
                if not times or times[0] > until_s:
                    break
                self.now = now = max(self.now, times[0])
                while times and times[0] <= now:  # as a loop takes all that is due before what follows from it
                    ready.extend(self._due.pop(heapq.heappop(times)))
            self.now = max(self.now, until_s)
        finally:
            self._running = None
            events._set_running_loop(None)

    def _drain(self, ready: deque[Handle]) -> None:
        """Run what is ready, and what gets ready by that: the one loop in which a world's time is spent."""
        while ready:
            handle = ready.popleft()
            fn, loop = handle.fn, handle.loop
            if fn is None:
                continue
            if loop is not None:
                if loop.dead:
                    continue
                if loop.stalled:
                    loop.backlog.append(handle)
                    continue
            if loop is not self._running:
                self._running = loop
                events._set_running_loop(loop)
            self.events += 1
            if loop is None:
                fn(*handle.args)
                continue
            try:
                fn(*handle.args)
            except Exception as error:
                loop.call_exception_handler({"message": f"{fn!r}", "exception": error})
            if self.failed is not None:
                raise self.failed

    def as_running(self, loop: Loop, fn: Callable[..., Any], *args: Any) -> Any:
        """Call something of a process's own, from outside of it."""
        before = self._running
        self._running = loop
        events._set_running_loop(loop)
        try:
            return fn(*args)
        finally:
            self._running = before
            events._set_running_loop(before)


class Loop(asyncio.AbstractEventLoop):
    """The event loop of one process. `on_fault(context)` is told of exceptions that nobody caught."""

    def __init__(self, timeline: Timeline, name: str, on_fault: Callable[[dict[str, Any]], None]) -> None:
        self.timeline, self.name, self._on_fault = timeline, name, on_fault
        self.owner: Any = None  # the process
        self.time = partial(attrgetter("now"), timeline)  # type: ignore[method-assign,assignment]
        self.dead = self.stalled = False
        self.backlog: deque[Handle] = deque()
        self.on_wake: list[Callable[[], None]] = []
        self._tasks: list[asyncio.Task[Any]] = []
        self._pruned = 64
        self._ghosts: deque[Handle] | None = None
        self.thread_s = 0.002
        self._thread_at = 0.0

    # What asyncio wants of a loop.

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        handle = Handle(self.timeline.now, self, callback, args)
        if self._ghosts is None:
            self.timeline._ready.append(handle)
        else:
            self._ghosts.append(handle)
        return handle

    def call_later(self, delay: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        if self._ghosts is None:
            return self.timeline.put(self.timeline.now + delay, self, callback, args)
        return Handle(self.timeline.now + delay, self, callback, args)

    def call_at(self, when: float, callback: Callable[..., Any], *args: Any, context: Any = None) -> Any:
        if self._ghosts is None:
            return self.timeline.put(when, self, callback, args)
        return Handle(when, self, callback, args)  # of a killed process: never

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Coroutine[Any, Any, Any], *, name: Any = None, context: Any = None) -> Any:
        task = asyncio.Task(coro, loop=self)
        tasks = self._tasks
        tasks.append(task)
        if len(tasks) > self._pruned:
            tasks[:] = [t for t in tasks if not t.done()]
            self._pruned = 2 * len(tasks) + 64
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> Any:
        """A thread's work is done in one piece, a moment later, in order. A killed process does none of it."""
        future = self.create_future()
        if self.dead:
            future.cancel()
        else:
            self._thread_at = max(self._thread_at, self.timeline.now) + self.thread_s
            self.call_at(self._thread_at, self._work, future, func, args)
        return future

    def _work(self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]) -> None:
        try:
            result = func(*args)
        except Exception as error:
            if not future.done():
                future.set_exception(error)
        else:
            if not future.done():
                future.set_result(result)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        if not self.dead:
            self._on_fault(context)

    def add_signal_handler(self, sig: int, callback: Callable[..., object], *args: Any) -> None:
        raise NotImplementedError

    # What happens to a process.

    def stall(self, seconds: float) -> None:
        """SIGSTOP, and SIGCONT after that."""
        if not self.stalled and not self.dead:
            self.stalled = True
            self.timeline.after(seconds, self.wake)

    def wake(self) -> None:
        """It goes on: what was on its way out leaves first, then comes what it missed."""
        if self.stalled and not self.dead:
            self.stalled = False
            for fn in self.on_wake:
                fn()
            self.timeline._ready.extend(self.backlog)
        self.backlog.clear()

    def kill(self) -> None:
        """SIGKILL. Its coroutines are closed here, unseen: its connection must be cut before."""
        if self.dead:
            return
        self.dead = True
        self.backlog.clear()
        self._ghosts = deque()
        self.timeline.as_running(self, self._lay_to_rest)
        for task in self._tasks:
            with contextlib.suppress(Exception):
                if not task.done():
                    task.get_coro().close()  # type: ignore[union-attr]
        self._ghosts.clear()
        self._tasks.clear()
        self.on_wake.clear()

    def _lay_to_rest(self) -> None:
        for task in self._tasks:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            task.cancel()
        ghosts = self._ghosts
        assert ghosts is not None
        for _ in range(GHOST_STEPS):
            if not ghosts:
                return
            handle = ghosts.popleft()
            if handle.fn is not None:
                with contextlib.suppress(Exception):  # it is dead
                    handle.fn(*handle.args)
