"""Holding all running work to its ceilings, and stopping all of it for a while: what the rest of the daemon uses.

While nothing runs, or nothing is limited, this does nothing at all. While limited work runs, it is looked at about ten times
a second where it has to be slowed down, else four times.
"""

from __future__ import annotations

import asyncio
import logging
import os

from msgspec import to_builtins
from msgspec.structs import replace

from node.core.ceilings import Ceilings, advised, lowest
from node.core.duty import LOOK_S, Duty, Measured, Slice
from node.core.endings import exceeded, exceeded_by_kernel
from node.core.memory import MIB, culprit
from node.core.usage import Look, all_used_s
from node.enforce import backstop
from node.enforce.cgroup import Group
from node.enforce.holding import CAN_HOLD, Holding
from node.enforce.throttle import Throttle
from node.enforce.trees import Trees, pss
from node.executor import Executor
from node.runners.runner import Runner
from schemas.advice import Limits
from schemas.enforced import Enforced
from schemas.logs import fields

log = logging.getLogger("fog.node.enforce")

SETTLE_S = 0.05  # between the looks that catch what was just being started when everything was stopped


def usable_cores(said: int) -> int:
    """The cores that a share is of: what the device says of itself, but no more than this process may use."""
    return max(1, min(said, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else said))


def means(ceilings: Ceilings, by_kernel: bool = False) -> Enforced:
    """By which mechanism work is held to these ceilings."""
    duty = "cgroup cpu.max" if by_kernel else "duty cycle" if CAN_HOLD else "nothing: this system cannot stop processes"
    return Enforced(
        cpu="" if ceilings.cpu_percent >= 100 else duty,
        cpu_percent=ceilings.cpu_percent,
        memory="" if ceilings.memory_mb is None else "polled" + (", cgroup memory.max behind" if by_kernel else ""),
        memory_mb=ceilings.memory_mb,
        bandwidth_mbps=ceilings.bandwidth_mbps,
    )


class Enforcer:
    """One node's, on a device with so many `cores`. `owner` are the ceilings from its configuration."""

    def __init__(
        self, executor: Executor, cores: int, owner: Ceilings, throttle: Throttle, group: Group | None = None
    ) -> None:
        self._executor, self._cores, self._throttle = executor, cores, throttle
        self._by = {"owner": owner}
        self._ceilings = owner
        self._suspended = False
        self._trees, self._holding, self._group = Trees(), Holding(), group or Group()
        self._by_kernel = False
        self._duty: Duty | None = None
        self._slice = Slice(0.0, LOOK_S)
        self._measured = Measured(cores)
        self._looked: dict[int, Look] = {}
        self._looked_at = 0.0
        self._memory = 0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._loop = asyncio.get_running_loop()
        executor.pool.on_spawn, executor.why_gone = self._spawned, self._why_gone
        self._set(owner)

    # What others ask for.

    @property
    def ceilings(self) -> Ceilings:
        """Those in force: of all that were set, the lowest."""
        return self._ceilings

    def apply(self, limits: Limits | None) -> None:
        """Advice says this now (None: nothing), and running work feels it at once."""
        self.cap("advice", None if limits is None else advised(limits))

    def cap(self, by: str, ceilings: Ceilings | None) -> None:
        """The same for whoever else sets ceilings, by name; those of others stay in force where they are lower."""
        if ceilings is None:
            self._by.pop(by, None)
        else:
            self._by[by] = ceilings
        lowered = lowest(self._by.values())
        if lowered != self._ceilings:
            log.info("running work is limited", extra=fields(**to_builtins(lowered), because_of=by))
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
        if self._task is None and not self._suspended:
            return self._means
        planned = replace(self._means, suspended=self._suspended)
        if self._task is None:
            return planned
        share = self._measured.share
        return replace(
            planned,
            cpu_measured=None if share is None else round(100 * share, 1),
            processes=sum(map(len, self._looked.values())),
            memory_measured_mb=self._memory // MIB if planned.memory else None,
        )

    async def close(self) -> None:
        """Let everything go on, and watch no more: what runs is about to be ended."""
        self._executor.on_busy = None
        self._throttle.set(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._go_on()

    # Watching while work runs.

    def _set(self, ceilings: Ceilings) -> None:
        self._ceilings = ceilings
        share = ceilings.cpu_percent / 100
        pids = [pid for look in self._look().values() for pid, _ in look]
        cores = self._cores * share if share < 1 else None
        self._by_kernel = self._group.limit(cores, ceilings.memory_mb, pids)
        self._means = means(ceilings, self._by_kernel)
        if self._group.why:
            log.debug("there is no control group for work", extra=fields(reason=self._group.why))
        self._duty = Duty(share, self._cores) if share < 1 and CAN_HOLD and not self._by_kernel else None
        self._slice = self._duty.begin() if self._duty else Slice(0.0, LOOK_S)
        for pid in pids:
            backstop.hold(pid, ceilings.memory_mb)
        self._watch()
        self._wake()
        self._throttle.set(ceilings.bandwidth_mbps)

    @property
    def _wanted(self) -> bool:
        return self._ceilings.cpu_percent < 100 or self._ceilings.memory_mb is not None or self._suspended

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
            held = self._hold()
            await self._wait(None if held and settled else SETTLE_S)
            settled = held  # twice in a row: what was forked as its parent was being stopped is seen by the second look
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

    def _why_gone(self, how: str) -> str:
        limit_mb = self._ceilings.memory_mb
        return exceeded_by_kernel(limit_mb) if limit_mb is not None and self._group.has_killed() else how

    def _spawned(self, runner: Runner) -> None:
        self._group.add(runner.pid)
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
