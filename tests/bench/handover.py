"""How long nothing is completed when the acting coordinator goes: handed over by SIGTERM, or killed; a follower is there.

Tasks are submitted at a steady pace all the time. The pause is the longest time between two results around the moment.
"""

from __future__ import annotations

import asyncio
import signal
import time
from itertools import pairwise
from statistics import median

import msgspec

from schemas import limits, subjects
from schemas.codec import encode
from schemas.names import new_id
from schemas.store import Store
from schemas.task import FunctionRun, Task
from tests.bench.figures import Figure
from tests.bench.stack import Stack

ROUNDS = 5
PACE_S = 0.005
BEFORE_S, AFTER_S = 1.0, 4.0  # the pause is looked for from so long before the signal until so long after it


async def handover_gap_ms() -> Figure:
    """SIGTERM: the follower hears that the lease is given up."""
    gaps = await _gaps(signal.SIGTERM)
    return _figure("handover_gap_ms", gaps, 1000.0 * limits.LEASE_S / 2, "half a lease")


async def coordinator_kill_gap_ms() -> Figure:
    """SIGKILL: the lease must run out first."""
    gaps = await _gaps(signal.SIGKILL)
    return _figure("coordinator_kill_gap_ms", gaps, 1000.0 * limits.LEASE_S + 1000.0, "a lease and a second")


def _figure(name: str, gaps: list[float], target: float, what: str) -> Figure:
    detail = {"gaps": [round(gap) for gap in gaps], "lease_ms": round(1000 * limits.LEASE_S)}
    return Figure(name, round(median(gaps), 1), "ms", target, what, at_most=True, detail=detail)


async def _gaps(how: signal.Signals) -> list[float]:
    async with Stack(nodes=2) as stack:
        store, came = Store(stack.bus), []

        def on_done(_subject: str, _reply: str, _data: bytes, _headers: bytes) -> None:
            came.append(time.monotonic())

        await stack.bus.subscribe(subjects.done("*", "*"), on_done)
        submitting = asyncio.ensure_future(_submit(store))
        acting, gaps = "coordinator", []
        for number in range(ROUNDS):
            follower = f"follower-{number}"
            await stack.start_follower(follower)
            await asyncio.sleep(BEFORE_S)
            began, seen = time.monotonic(), len(came)
            stack.end(acting, how)
            await stack.acts(follower)
            await asyncio.sleep(AFTER_S)
            around = [at for at in came[max(0, seen - 50) :] if at > began - BEFORE_S]
            gaps.append(1000 * max(later - earlier for earlier, later in pairwise(around)))
            acting = follower
        submitting.cancel()
        store.close()
        return gaps


async def _submit(store: Store) -> None:
    run = FunctionRun("echo", msgspec.Raw(b"[1]"))
    while True:
        task = Task(new_id("t"), "bench", run)
        store.post(subjects.submit(task.priority, "bench", task.id), encode(task), task.id, lambda _answer: None)
        await asyncio.sleep(PACE_S)
