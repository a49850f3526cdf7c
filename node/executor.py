"""Running what the desk hands out: lanes on runners, their answers, timeouts, and stopping."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Protocol

from node.core.attempts import Attempt
from node.core.burial import Buried
from node.core.desk import Desk
from node.core.endings import CANCELLED, DROPPED, LEASE_OVER, TIMEOUT
from node.core.lanes import Lane
from node.core.last import Last
from node.core.runclock import RunClock
from node.core.useful import Busy
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
    Withdrawn,
)
from node.runners.pool import Pool
from node.runners.runner import Runner
from schemas.logs import fields
from schemas.task import CommandRun, FunctionRun
from schemas.ticks import ticks

log = logging.getLogger("fog.node.executor")

ANSWER_S = (
    0.3  # for a runner to give back one that is to be stopped; what holds Python's lock for longer is stopped instead
)
SPAWN_AGAIN_S = (
    1.0  # after a runner could not be started; whoever had its turn failed, what waits is not to fail all at once
)
CUT = "its runner ended with another task"
NOTHING = Last(0, 0)


class Sink(Protocol):
    """What the executor tells of the attempts that it runs. Each handed-over attempt ends in exactly one of the last four,
    or goes back to the queue."""

    def started(self, attempt: Attempt) -> None:
        """It has begun."""

    def unstarted(self, attempt: Attempt) -> None:
        """It had not, after all: the runner has just given it back."""

    def printed(self, attempt: Attempt, message: Printed | Progressed) -> None:
        """It wrote or told its progress."""

    def finished(self, attempt: Attempt, message: Finished) -> None:
        """It is through."""

    def failed(self, attempt: Attempt, message: Failed) -> None:
        """It raised."""

    def died(self, attempt: Attempt, how: str, began: bool) -> None:
        """Its runner ended by itself."""

    def stopped(self, attempt: Attempt, why: str, began: bool) -> None:
        """It was stopped, for the reason that `Executor.stop` was given, or ``timeout``; or another one took its runner."""


class Executor:
    """Keeps as many lanes running as the desk allows. `on_busy`, while set, is called whenever a runner was handed something.

    Its time is that of running work: it stands still between `hold` and `go_on`.
    """

    def __init__(self, desk: Desk, modules: tuple[str, ...], sink: Sink) -> None:
        self.desk = desk
        self.pool = Pool(modules, self._on_message, self._on_gone, self._now)
        self.on_busy: Callable[[], None] | None = None
        self.why_gone: Callable[[str], str] = lambda how: how  # may know better why a runner ended by itself
        self.busy = Busy()  # for how long anything has run, by the loop's time
        self._clock = RunClock()
        self._sink = sink
        self._runners: dict[int, Runner] = {}  # by lane number
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
        if self._runners:
            self.busy.begin(self._loop.time())
            if self.on_busy is not None:
                self.on_busy()

    def _cannot_spawn(self, lane: Lane, error: OSError) -> None:
        log.error("cannot start a runner", extra=fields(error=error))
        self._buried(self.desk.bury(lane, NOTHING), f"cannot start a runner: {error}")
        self._loop.call_later(SPAWN_AGAIN_S, self._moved)

    def _message_for(self, attempt: Attempt) -> ToRunner:
        key, run, inputs = attempt.key, attempt.task.run, attempt.inputs
        if isinstance(run, FunctionRun):
            files = tuple((file.index, data) for file, data in zip(run.files, inputs, strict=True)) if inputs else ()
            return Call(key, run.name, bytes(run.args), files)
        if isinstance(run, CommandRun):
            return Launch(key, run.argv, run.env, inputs[0] if inputs else None)
        if run.packed is not None:
            return CallEach(key, run.name, run.first, inputs[0])
        return CallEach(key, run.name, run.first, bytes(run.items), inputs)

    def _begin(self, lane: Lane) -> None:
        head = self.desk.begin(lane, self._now())
        if head is not None:
            self._started(head)
            self._watch()

    def _started(self, head: Attempt) -> None:
        head.started_at = time.time()
        self._sink.started(head)

    # Hearing.

    def _on_message(self, runner: Runner, message: FromRunner) -> None:
        lane = runner.lane
        if lane is None:
            return
        if isinstance(message, Withdrawn):
            self._withdrawn(runner, lane, message.keys)
            return
        if lane.doomed:
            self._hear_late(lane, message)
            return
        if isinstance(message, Hello):
            if not message.error:
                self._begin(lane)
            return
        if not lane.line or lane.line[0].key != message.key:
            return  # said between two
        head = lane.line[0]
        if isinstance(message, Printed) or isinstance(message, Progressed):  # noqa: SIM101 - a union is made anew each time
            self._sink.printed(head, message)
            return
        following = self.desk.advance(lane, self._now(), message.duration_s)
        self._ended(head, message)
        if following is not None:
            self._started(following)
        else:
            if head.task.exclusive:
                runner.lease(0.0)
            self._release(runner, lane)
        self._moved()

    def _ended(self, attempt: Attempt, message: Finished | Failed) -> None:
        if attempt.stop_why and not attempt.renewed:
            self._sink.stopped(attempt, attempt.stop_why, True)
        elif isinstance(message, Finished):
            self._sink.finished(attempt, message)
        else:
            self._sink.failed(attempt, message)

    def _hear_late(self, lane: Lane, message: FromRunner) -> None:
        """Its runner is being stopped: of the others in its line what it still tells counts."""
        if not isinstance(message, Finished | Failed):
            return
        attempt = self.desk.told_late(lane, message.key, message.duration_s)
        if attempt is not None:
            attempt.started_at = attempt.started_at or time.time() - message.duration_s
            self._ended(attempt, message)

    def _withdrawn(self, runner: Runner, lane: Lane, keys: tuple[int, ...]) -> None:
        """What the runner gave back waits again, or is stopped without having begun."""
        head = lane.line[0] if lane.line else None
        back, following = self.desk.withdrawn(lane, keys, self._now())
        for attempt in back:
            if attempt is head:
                self._sink.unstarted(attempt)
            if attempt.stop_why:
                self._stopped(attempt, False)
        if following is not None:
            self._started(following)
        elif back and not lane.line and not lane.doomed:
            self._release(runner, lane)
        if lane.line and lane.line[0].stop_why:  # it was not given back: it had begun
            self._doom(lane)
        self._watch()
        self._moved()

    def _release(self, runner: Runner, lane: Lane) -> None:
        del self._runners[lane.number]
        self.pool.give_back(runner)

    def _on_gone(self, runner: Runner, how: str) -> None:
        lane = runner.lane
        if lane is None:
            return
        runner.lane = None
        self._runners.pop(lane.number, None)
        if lane in self.desk.unleased(ticks()):  # it stopped by itself, while this process stood still
            self.desk.condemn(lane.line[0], LEASE_OVER)
            self.desk.doom(lane)
        buried = self.desk.bury(lane, runner.last)
        if not lane.doomed:
            how = self.why_gone(how)
            log.warning("a runner died", extra=fields(task=buried.blamed and buried.blamed.task.id, how=how))
        self._buried(buried, how)
        self._moved()

    def _buried(self, buried: Buried, how: str) -> None:
        if buried.blamed is not None:
            self._sink.died(buried.blamed, how, buried.began)
        for attempt, began in buried.stopped:
            self._stopped(attempt, began)
        for attempt in buried.cut:
            self._sink.stopped(attempt, CUT, True)

    def _stopped(self, attempt: Attempt, began: bool) -> None:
        """It was to be stopped, and is. What came again meanwhile, under a newer number, goes on if the stop was not meant for
        that."""
        why = attempt.stop_why
        if not attempt.renewed:
            self._sink.stopped(attempt, why, began)
            return
        attempt.started_at, attempt.stop_why = 0.0, ""
        if why in (CANCELLED, DROPPED, TIMEOUT):
            self.desk.queue(attempt)
        else:
            self._sink.stopped(attempt, why, False)

    def _moved(self) -> None:
        self.pump()
        if not self.desk.lanes.open:
            self.busy.end(self._loop.time())
            self._idle.set()

    # Stopping.

    def stop(self, task: str, why: str) -> bool:
        """Stop what a runner has of that task, its whole process tree; `Sink.stopped` tells when it is over. False: none does.

        What stands behind another one is asked back. A runner that had begun it, or does not answer, is stopped.
        """
        lane = self.desk.lane_of(task)
        if lane is None:
            return False
        attempt = next(one for one in lane.line if one.task.id == task)
        self.desk.condemn(attempt, why)
        if attempt is lane.line[0]:
            self._doom(lane)
        elif not lane.doomed:
            self._ask_back(lane, [attempt])
            self._loop.call_later(ANSWER_S, self._insist, lane, attempt, self._now() + ANSWER_S)
        return True

    def _ask_back(self, lane: Lane, attempts: list[Attempt]) -> None:
        self._runners[lane.number].send([Withdraw(tuple(attempt.key for attempt in attempts))])

    def _insist(self, lane: Lane, attempt: Attempt, at: float) -> None:
        """It was not given back in time; a runner that we keep stopped cannot answer, and has its time when it goes on."""
        if attempt not in lane.line:
            return
        if self._now() < at - 0.001:
            self._loop.call_later(ANSWER_S, self._insist, lane, attempt, at)
        else:
            self._doom(lane)

    def _doom(self, lane: Lane, why: str = "") -> None:
        """Stop the lane's runner; `why`: for what it does now."""
        if why:
            self.desk.condemn(lane.line[0], why)
        if self.desk.doom(lane):
            self._runners[lane.number].stop()
            self.pump()

    def kill(self, runner: Runner, why: str) -> None:
        """End the runner at once, for what it does now."""
        lane = runner.lane
        if lane is not None and lane.line:
            key = runner.at_work_on
            self.desk.condemn(next((one for one in lane.line if one.key == key), lane.line[0]), why)
            self.desk.doom(lane)
        runner.kill()
        self.pump()

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
            for attempt in lane.line:
                self.desk.condemn(attempt, why)
            self._doom(lane)

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

    def _now(self) -> float:
        return self._clock.read(self._loop.time())

    def hold(self) -> None:
        """Whoever enforces limits has stopped all running work: its time stands still."""
        self._clock.stop(self._loop.time())

    def go_on(self) -> None:
        """It runs again."""
        self._clock.go(self._loop.time())
        self._watch()

    def _watch(self) -> None:
        at = self.desk.next_check()
        if at is None or self._clock.stopped or (self._check is not None and self._check_at <= at):
            return
        if self._check is not None:
            self._check.cancel()
        self._check_at = at
        self._check = self._loop.call_later(at - self._now() + 0.001, self._look)

    def _look(self) -> None:
        self._check = None
        now = self._now()
        for lane in self.desk.overdue(now):
            self._doom(lane, TIMEOUT)
        for lane in self.desk.stuck(now):
            self._ask_back(lane, self.desk.behind(lane))
        self._watch()
