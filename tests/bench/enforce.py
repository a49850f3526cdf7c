"""How near running work comes to its CPU limit: busy processes under the duty cycle, measured by the system's own accounts."""

from __future__ import annotations

import asyncio

import psutil

from node.core.ceilings import Ceilings
from tests.bench.figures import Figure
from tests.integration.limited import CORES, device, spinning
from tests.integration.node_fleet import until

LIMITS, BUSY = (15, 35, 50), (1, 2, 4)
SETTLE_S, WINDOW_S = 1.5, 5.0


async def cpu_limit_error_points() -> Figure:
    """The largest error of nine cases, in points of the device. Too little counts as far as the device stood idle meanwhile:
    on a shared machine others may have had the rest."""
    detail, worst = {}, 0.0
    for limit in LIMITS:
        for busy in BUSY:
            share, idle = await _measure(limit, busy)
            wanted = min(float(limit), 100.0 * busy / CORES)
            error = share - wanted if share > wanted else min(wanted - share, idle)
            worst = max(worst, error)
            detail[f"{limit}_percent_{busy}_busy"] = f"{share:.1f} (idle {idle:.0f})"
    what = f"the limit; {CORES} cores, 1, 2 and 4 busy processes that tasks started, over {WINDOW_S:g} s"
    return Figure("cpu_limit_error_points", round(worst, 2), "points", 5.0, what, at_most=True, detail=detail)


async def _measure(limit: int, busy: int) -> tuple[float, float]:
    """Percent of the device that the work used, and that nobody used."""
    async with device(Ceilings(cpu_percent=limit)) as made:
        for _ in range(busy):
            made.place(spinning())
        await until(lambda: len(made.processes()) >= 3 * busy)
        await asyncio.sleep(SETTLE_S)
        (begun, used), idle = made.seconds(), psutil.cpu_times().idle
        await asyncio.sleep(WINDOW_S)
        (ended, used_now), idle_now = made.seconds(), psutil.cpu_times().idle
        device_s = (ended - begun) * CORES
        return 100 * (used_now - used) / device_s, 100 * max(0.0, idle_now - idle) / device_s
