"""Real runners under an enforcer, without a broker: what the tests of limits play with."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
from msgspec import Raw

from node.core.attempts import Attempt, Place, attempt_of
from node.core.ceilings import Ceilings
from node.core.desk import Desk
from node.core.lanes import Room
from node.enforce.cgroup import Group, Leaf
from node.enforce.enforcer import Enforcer
from node.enforce.throttle import Throttle
from node.executor import Executor
from node.runners.frames import Failed, Finished, Printed, Progressed
from schemas.codec import encode
from schemas.task import CommandRun, FunctionRun, History, Run, Task, Work

CORES = len(os.sched_getaffinity(0))
NONE = Ceilings()
SPIN = "while :; do :; done"


def spinning(processes: int = 1) -> CommandRun:
    """A command of a shell whose children are busy for ever."""
    return CommandRun(("sh", "-c", f"({SPIN}) & " * processes + "wait"))


def no_leaf() -> Leaf:
    """The tests themselves are not moved into a control group, also where that could be done."""
    raise ValueError("not in a test")


class Sink:
    """Keeps what became of attempts, by task."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self.began: set[str] = set()
        self.ends: dict[str, tuple[str, Any]] = {}

    def started(self, attempt: Attempt) -> None:
        self.began.add(attempt.task.id)

    def printed(self, attempt: Attempt, message: Printed | Progressed) -> None:
        pass

    def _end(self, attempt: Attempt, how: str, more: Any) -> None:
        self.ends[attempt.task.id] = how, more
        self._desk.forget(attempt)

    def finished(self, attempt: Attempt, message: Finished) -> None:
        self._end(attempt, "finished", message)

    def failed(self, attempt: Attempt, message: Failed) -> None:
        self._end(attempt, "failed", message)

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        self._end(attempt, "died", how)

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        self._end(attempt, "stopped", why)


class Device:
    """A device that works."""

    def __init__(self, ceilings: Ceilings, modules: tuple[str, ...], group: Group | None = None) -> None:
        self.desk = Desk(Room(8, 8.0, 100_000))
        self.sink = Sink(self.desk)
        self.executor = Executor(self.desk, modules, self.sink)
        self.enforcer = Enforcer(self.executor, CORES, ceilings, Throttle(), group or Group(no_leaf))
        self._placed = 0

    def place(self, run: Run, **more: Any) -> str:
        """Give it a task; returns its id."""
        self._placed += 1
        task = Task(f"t{self._placed}", "me", run, **more)
        attempt = attempt_of(task, Work(Raw(encode(task)), History(placement=1)), self._placed, "")
        self.desk.take(attempt)
        self.desk.queue(attempt)
        assert attempt.place is Place.QUEUED
        self.executor.pump()
        return task.id

    def call(self, name: str, args: str = "[]", **more: Any) -> str:
        """Give it a call of a function."""
        return self.place(FunctionRun(name, Raw(args.encode())), **more)

    def processes(self) -> list[psutil.Process]:
        """The runners that work, with everything below them."""
        found = []
        for runner in self.executor.pool.all:
            if runner.lane is not None and psutil.pid_exists(runner.pid):
                top = psutil.Process(runner.pid)
                found += [top, *top.children(recursive=True)]
        return found

    def states(self) -> set[str]:
        """Of all those processes, in psutil's words."""
        return {process.status() for process in self.processes()}

    def seconds(self) -> tuple[float, float]:
        """Now, and the processor time of all those processes so far: measured otherwise than the enforcer does it."""
        times = [process.cpu_times() for process in self.processes()]
        used = sum(t.user + t.system + t.children_user + t.children_system for t in times)
        return time.monotonic(), used


@asynccontextmanager
async def device(ceilings: Ceilings = NONE, *modules: str, group: Group | None = None) -> AsyncIterator[Device]:
    """A device, and its end."""
    made = Device(ceilings, modules, group)
    try:
        yield made
    finally:
        await made.enforcer.close()
        made.executor.stop_all("the test is over")
        await made.executor.pool.close()
