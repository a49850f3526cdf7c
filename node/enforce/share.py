"""Holding one process tree to its share of the device, by the duty cycle that holds all running work (`enforcer`)."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from node.core.duty import Duty
from node.core.usage import all_used_s
from node.enforce.holding import Holding
from node.enforce.trees import Trees

START_S = (
    1.0  # in which it is not stopped: it first has to ask the kernel to end it with this process (`schemas.procs`)
)


async def hold_to(share: float, cores: int, pid: int, up: Callable[[], bool]) -> None:
    """Hold the tree below `pid`, with it, to `share` (0..1) of all `cores`, until it is not `up` any more.

    Cancelled, it lets everything go on. `up` is asked just before it is stopped: `pid` must be nobody else's by then.
    """
    trees, holding, duty = Trees(), Holding(), Duty(share, cores)
    looked, looked_at = trees.look((pid,)), time.monotonic()
    stop_s, run_s = 0.0, START_S
    try:
        while up():
            if stop_s:
                holding.hold({pid: trees.groups.get(pid, {pid})})
                await asyncio.sleep(stop_s)
                holding.release()
            went_on = time.monotonic() if stop_s else looked_at
            await asyncio.sleep(run_s)
            before, before_at = looked, looked_at
            looked, looked_at = trees.look((pid,)), time.monotonic()
            following = duty.step(looked_at - before_at, looked_at - went_on, all_used_s(before, looked))
            stop_s, run_s = following.stop_s, following.run_s
    finally:
        holding.release()
