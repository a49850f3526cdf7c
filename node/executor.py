"""Running what the desk hands out: lanes on runners, their answers, timeouts, and stopping."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Protocol

from node.core.attempts import Attempt
from node.core.desk import Desk
from node.core.endings import CANCELLED, DROPPED, LEASE_OVER, TIMEOUT
from node.core.lanes import Lane
from node.runners.frames import (
    Call,
    CallEach,
    Failed,
    Finished,
    FromRunner,
    Hello,
    Launch,
    Printed,
    Progressed,
    ToRunner,
    Withdraw,
)
from node.runners.pool import Pool
from node.runners.runner import Runner
from schemas.logs import fields
from schemas.task import CommandRun, FunctionRun
from schemas.ticks import ticks

log = logging.getLogger("fog.node.executor")


class Sink(Protocol):
    """What the executor tells of the attempts that it runs. Each handed-over attempt ends in exactly one of the last four,
    or goes back to the queue."""

    def started(self, attempt: Attempt) -> None:
        """It has begun."""

    def printed(self, attempt: Attempt, message: Printed | Progressed) -> None:
        """It wrote or told its progress."""

    def finished(self, attempt: Attempt, message: Finished) -> None:
        """It is through."""

    def failed(self, attempt: Attempt, message: Failed) -> None:
        """It raised."""

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        """Its runner ended by itself."""

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        """It was stopped, for the reason that `Executor.stop` was given, or ``timeout``."""


class Executor:
    """Keeps as many lanes running as the desk allows."""

    def __init__(self, desk: Desk, modules: tuple[str, ...], sink: Sink) -> None:
        self.desk = desk
        self.pool = Pool(modules, self._on_message, self._on_gone)
        self._sink = sink
        self._runners: dict[int, Runner] = {}  # by lane number
        self._keys = 0
        self._loop = asyncio.get_running_loop()
        self._pumping = False
        self._check: asyncio.TimerHandle | None = None
        self._check_at = 0.0
        self._idle = asyncio.Event()

    # Handing over.

    def pump(self) -> None:
        """Start what fits, at the end of this turn of the event loop."""
        if not self._pumping:
            self._pumping = True
            self._loop.call_soon(self._pump)

    def _pump(self) -> None:
        self._pumping = False
        for lane, attempts in self.desk.assign(ticks()):
            runner = self._runners.get(lane.number)
            if runner is None:
                try:
                    runner = self.pool.take()
                except OSError as error:
                    self._cannot_spawn(lane, error)
                    continue
                runner.lane = lane
                self._runners[lane.number] = runner
            if attempts[0].task.exclusive:
                runner.lease(attempts[0].leased_until)
            runner.send([self._message_for(attempt) for attempt in attempts])
            if lane.since is None and runner.ready:
                self._begin(lane)
            elif len(lane.line) > 1:
                self._watch()

    def _cannot_spawn(self, lane: Lane, error: OSError) -> None:
        log.error("cannot start a runner", extra=fields(error=error))
        head = self.desk.bury(lane)
        if head is not None:
            self._sink.died(head, f"cannot start a runner: {error}", False)

    def _message_for(self, attempt: Attempt) -> ToRunner:
        self._keys += 1
        attempt.key = key = self._keys
        run, inputs = attempt.task.run, attempt.inputs
        if isinstance(run, FunctionRun):
            files = tuple((file.index, data) for file, data in zip(run.files, inputs, strict=True)) if inputs else ()
            return Call(key, run.name, bytes(run.args), files)
        if isinstance(run, CommandRun):
            return Launch(key, run.argv, run.env, inputs[0] if inputs else None)
        if run.packed is not None:
            return CallEach(key, run.name, run.first, inputs[0])
        return CallEach(key, run.name, run.first, bytes(run.items), inputs)

    def _begin(self, lane: Lane) -> None:
        head = self.desk.begin(lane, self._loop.time())
        if head is not None:
            head.started_at = time.time()
            self._sink.started(head)
            self._watch()

    # Hearing.

    def _on_message(self, runner: Runner, message: FromRunner) -> None:
        lane = runner.lane
        if lane is None or lane.doom:
            return
        if isinstance(message, Hello):
            if not message.error:
                self._begin(lane)
            return
        if not lane.line or lane.line[0].key != message.key:
            return  # withdrawn
        head = lane.line[0]
        if isinstance(message, Printed) or isinstance(message, Progressed):  # noqa: SIM101 - a union is made anew each time
            self._sink.printed(head, message)
            return
        following = self.desk.advance(lane, self._loop.time(), message.duration_s)
        if isinstance(message, Finished):
            self._sink.finished(head, message)
        else:
            self._sink.failed(head, message)
        if following is not None:
            following.started_at = time.time()
            self._sink.started(following)
        else:
            del self._runners[lane.number]
            if head.task.exclusive:
                runner.lease(0.0)
            self.pool.give_back(runner)
        self._moved()

    def _on_gone(self, runner: Runner, how: str) -> None:
        lane = runner.lane
        if lane is None:
            return
        runner.lane = None
        self._runners.pop(lane.number, None)
        began = lane.since is not None
        if lane in self.desk.unleased(ticks()):  # it stopped by itself, while this process stood still
            self.desk.doom(lane, LEASE_OVER)
        if self.desk.acquit(lane):
            log.warning("a runner died", extra=fields(how=how))
            self._moved()
            return
        head = self.desk.bury(lane)
        if head is not None and lane.doom and self.desk.renewed(lane, head):
            self._go_on(head, lane.doom)
        elif head is not None and lane.doom:
            self._sink.stopped(head, lane.doom, began)
        elif head is not None:
            log.warning("a runner died", extra=fields(task=head.task.id, how=how))
            self._sink.died(head, how, True)
        self._moved()

    def _go_on(self, head: Attempt, why: str) -> None:
        """What was being stopped came again under a newer number: the stop was not meant for that."""
        head.started_at = 0.0
        if why in (CANCELLED, DROPPED, TIMEOUT):
            self.desk.queue(head)
        else:
            self._sink.stopped(head, why, False)

    def _moved(self) -> None:
        self.pump()
        if not self.desk.lanes.open:
            self._idle.set()

    # Stopping.

    def stop(self, task: str, why: str) -> bool:
        """Stop what runs of that task, its whole process tree; `Sink.stopped` tells when it is over. False: nothing does.

        Other attempts of the same runner go back to the queue.
        """
        lane = self.desk.lane_of(task)
        if lane is None:
            return False
        if lane.line[0].task.id != task:  # it stands behind another: take the line back, and it is only queued
            self._unline(lane)
            self.pump()
            return False
        self._doom(lane, why)
        return True

    def _doom(self, lane: Lane, why: str) -> None:
        if self.desk.doom(lane, why):
            self._runners[lane.number].stop()
            self.pump()

    def _unline(self, lane: Lane) -> None:
        back = self.desk.unline(lane)
        if back:
            self._runners[lane.number].send([Withdraw(tuple(attempt.key for attempt in back))])

    def leased(self, attempt: Attempt) -> None:
        """Its lease was renewed: its runner is told, which ends by itself should this process stand still."""
        lane = self.desk.lane_of(attempt.task.id)
        if lane is not None and lane.line[0] is attempt:
            self._runners[lane.number].lease(attempt.leased_until)

    def stop_unleased(self) -> None:
        """Stop what runs under a lease that is over."""
        for lane in self.desk.unleased(ticks()):
            log.warning("an exclusive task is stopped: its lease ended", extra=fields(task=lane.line[0].task.id))
            self._doom(lane, LEASE_OVER)

    def stop_all(self, why: str) -> None:
        """Stop everything that runs."""
        for lane in list(self.desk.lanes.open.values()):
            self._doom(lane, why)

    async def until_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False when `timeout_s` ended first."""
        try:
            async with asyncio.timeout(timeout_s):
                while self.desk.lanes.open:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    # Watching the clock.

    def _watch(self) -> None:
        at = self.desk.next_check()
        if at is None or (self._check is not None and self._check_at <= at):
            return
        if self._check is not None:
            self._check.cancel()
        self._check_at = at
        self._check = self._loop.call_at(at + 0.001, self._look)

    def _look(self) -> None:
        self._check = None
        now = self._loop.time()
        for lane in self.desk.overdue(now):
            self._doom(lane, TIMEOUT)
        for lane in self.desk.stuck(now):
            self._unline(lane)
            self.pump()
        self._watch()
