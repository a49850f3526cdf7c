"""Holding all running work to its ceilings, and stopping all of it for a while: what the rest of the daemon uses.

While nothing runs, or nothing is limited, this does nothing at all. While limited work runs, it is looked at about ten times
a second where it has to be slowed down, else four times.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from node.core.ceilings import Ceilings, Limits
from node.core.duty import LOOK_S, Duty, Measured, Slice
from node.core.endings import exceeded
from node.core.memory import MIB, culprit
from node.core.usage import Look, all_used_s
from node.enforce import backstop
from node.enforce.holding import CAN_HOLD, Holding
from node.enforce.trees import Trees, pss
from node.executor import Executor
from node.runners.runner import Runner
from schemas.enforced import Enforced
from schemas.logs import fields

log = logging.getLogger("fog.node.enforce")

SETTLE_S = 0.05  # between the looks that catch what was just being started when everything was stopped


def usable_cores(said: int) -> int:
    """The cores that a share is of: what the device says of itself, but no more than this process may use."""
    return max(1, min(said, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else said))


class Enforcer:
    """One node's. `owner` are the ceilings from its configuration, on a device with so many `cores`."""

    def __init__(self, executor: Executor, cores: int, owner: Ceilings) -> None:
        self._executor, self._cores, self._owner = executor, cores, owner
        self._ceilings = owner
        self._suspended = False
        self._trees, self._holding = Trees(), Holding()
        self._duty: Duty | None = None
        self._slice = Slice(0.0, LOOK_S)
        self._measured = Measured(cores)
        self._looked: dict[int, Look] = {}
        self._looked_at = 0.0
        self._memory = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        self.on_ceilings: Callable[[Ceilings], None] = lambda _: None
        executor.pool.on_spawn = self._spawned
        self._set(owner)

    # What others ask for.

    @property
    def ceilings(self) -> Ceilings:
        """Those in force: the owner's, lowered by the latest advice."""
        return self._ceilings

    def apply(self, limits: Limits | None) -> None:
        """Advice says this now (None: nothing), and running work feels it at once. The owner's ceilings count where lower."""
        lowered = self._owner.lowered(limits)
        if lowered != self._ceilings:
            log.info(
                "running work is limited", extra=fields(cpu_percent=lowered.cpu_percent, memory_mb=lowered.memory_mb)
            )
            self._set(lowered)

    def suspend(self) -> None:
        """Stop all that runs, and start nothing: the device is its owner's. What runs is held, not ended. Twice is once."""
        if self._suspended:
            return
        self._suspended = self._executor.desk.suspended = True
        self._watch()
        self._hold()
        self._wake()

    def resume(self) -> None:
        """Go on where it was stopped, within the ceilings."""
        if not self._suspended:
            return
        self._suspended = self._executor.desk.suspended = False
        self._watch()
        self._go_on()
        self._wake()
        self._executor.pump()

    def report(self) -> Enforced:
        """How work is held to what, and what it uses."""
        ceilings, share = self._ceilings, self._measured.share
        runs = self._task is not None
        return Enforced(
            cpu=self._cpu_by(),
            cpu_percent=ceilings.cpu_percent,
            cpu_measured=round(100 * share, 1) if runs and share is not None else None,
            processes=sum(map(len, self._looked.values())) if runs else 0,
            memory="" if ceilings.memory_mb is None else "polled",
            memory_mb=ceilings.memory_mb,
            memory_measured_mb=self._memory // MIB if runs and ceilings.memory_mb is not None else None,
            bandwidth_mbps=ceilings.bandwidth_mbps,
            suspended=self._suspended,
        )

    async def close(self) -> None:
        """Let everything go on, and watch no more: what runs is about to be ended."""
        self._executor.on_busy = None
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._go_on()

    # Watching while work runs.

    def _cpu_by(self) -> str:
        if self._ceilings.cpu_percent >= 100:
            return ""
        return "duty cycle" if CAN_HOLD else "nothing: this system cannot stop processes"

    def _set(self, ceilings: Ceilings) -> None:
        self._ceilings = ceilings
        share = ceilings.cpu_percent / 100
        self._duty = Duty(share, self._cores) if share < 1 and CAN_HOLD else None
        self._slice = self._duty.begin() if self._duty else Slice(0.0, LOOK_S)
        for look in self._look().values():
            for pid, _ in look:
                backstop.hold(pid, ceilings.memory_mb)
        self._watch()
        self._wake()
        self.on_ceilings(ceilings)

    @property
    def _wanted(self) -> bool:
        return self._duty is not None or self._ceilings.memory_mb is not None or self._suspended

    def _watch(self) -> None:
        """Begin to watch once something runs that has to be watched."""
        self._executor.on_busy = self._busy if self._wanted else None
        if self._wanted and self._executor.desk.lanes.open:
            self._busy()

    def _busy(self) -> None:
        if self._task is None:
            self._task = self._loop.create_task(self._run())
            self._task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()):
            log.error("watching running work failed", exc_info=error)
            self._loop.call_later(1.0, self._watch)

    def _wake(self) -> None:
        self._changed.set()

    async def _wait(self, wait_s: float | None) -> None:
        """For so long, or until something is to be done differently."""
        try:
            async with asyncio.timeout(wait_s):
                await self._changed.wait()
        except TimeoutError:
            pass

    async def _run(self) -> None:
        self._measured = Measured(self._cores)
        self._looked, self._looked_at = self._look(), self._loop.time()
        try:
            while self._wanted and self._executor.desk.lanes.open:
                self._changed.clear()
                await (self._stay() if self._suspended else self._cycle())
        finally:
            self._go_on()

    async def _stay(self) -> None:
        """Everything is stopped; what was being started meanwhile is caught as well."""
        settled = False
        while self._suspended and self._executor.desk.lanes.open and not self._changed.is_set():
            settled = self._hold() and settled
            await self._wait(None if settled else SETTLE_S)
            settled = True
        self._looked, self._looked_at = self._look(), self._loop.time()

    async def _cycle(self) -> None:
        """One turn: stopped for a while, running for a while, measured."""
        following = self._slice
        if following.stop_s:
            self._hold()
            await self._wait(following.stop_s)
            if self._suspended:
                return
            self._go_on()
        went_on = self._loop.time() if following.stop_s else self._looked_at
        if not self._changed.is_set():
            await self._wait(following.run_s)
        before, before_at = self._looked, self._looked_at
        self._looked, self._looked_at = self._look(), self._loop.time()
        used_s, elapsed_s = all_used_s(before, self._looked), self._looked_at - before_at
        self._measured.add(elapsed_s, used_s)
        if self._duty is not None and not self._changed.is_set():
            self._slice = self._duty.step(elapsed_s, self._looked_at - went_on, used_s)
        if self._ceilings.memory_mb is not None:
            self._check_memory(self._ceilings.memory_mb)

    def _spawned(self, runner: Runner) -> None:
        if self._ceilings.memory_mb is not None:
            backstop.hold(runner.pid, self._ceilings.memory_mb)

    def _look(self) -> dict[int, Look]:
        return self._trees.look(runner.pid for runner in self._executor.pool.all)

    # Stopping and going on.

    def _hold(self) -> bool:
        """Stop whatever works; False while something cannot be stopped yet."""
        if not CAN_HOLD:
            return True
        working = [runner for runner in self._executor.pool.all if runner.lane is not None and not runner.lane.doomed]
        if self._suspended:
            self._look()
        groups = self._trees.groups
        self._holding.hold({r.pid: groups.get(r.pid, {r.pid}) for r in working if r.holdable})
        if self._holding.held:
            self._executor.hold()
        return all(runner.holdable for runner in working)

    def _go_on(self) -> None:
        if self._holding.held:
            self._executor.stop_unleased()
            self._holding.release()
        self._executor.go_on()

    # Memory.

    def _check_memory(self, limit_mb: int) -> None:
        self._memory = sum(sample.rss for look in self._looked.values() for sample in look.values())
        if self._memory <= limit_mb * MIB:
            return
        # Idle runners go first; if the others keep to the limit without them, that is all.
        self._executor.pool.shed()
        working = {runner.pid: runner for runner in self._executor.pool.all if runner.lane is not None}
        used = {root: _in_memory(look) for root, look in self._looked.items() if root in working}
        self._memory = sum(used.values())
        root = culprit(used, limit_mb)
        if root is not None:
            self._end(working[root], limit_mb)

    def _end(self, runner: Runner, limit_mb: int) -> None:
        lane, seen_mb = runner.lane, self._memory // MIB
        task = lane.line[0].task.id if lane is not None and lane.line else ""
        log.warning("Memory allocation exceeded", extra=fields(task=task, limit_mb=limit_mb, seen_mb=seen_mb))
        self._executor.kill(runner, exceeded(seen_mb, limit_mb))


def _in_memory(look: Look) -> int:
    """Bytes that a tree takes, what its processes share counted once where the system tells."""
    sizes = [(pss(pid), sample.rss) for (pid, _), sample in look.items()]
    return sum(rss if shared is None else shared for shared, rss in sizes)
