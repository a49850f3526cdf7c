"""How quickly work moves when its node dies: from the signal to the task running elsewhere.

The task writes the monotonic clock when it begins, which all processes of one machine share; so what is measured ends in
the user's function itself, not in an event about it. Dask is put beside it where it is installed (``pip install
'.[bench]'``): the same kill of a worker of the same kind, in the same run.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from statistics import median

import client
from schemas import jetstream, limits, streams, subjects
from tests.bench import dask
from tests.bench.figures import Figure
from tests.bench.stack import Stack

KILLS = 50
DASK_KILLS = 20
FREEZES = 3
QUEUED = 200
QUEUED_ROUNDS = 5
WARM_UP = 200
GIVE_UP_S = 60.0
POLL_S = 0.002
HOLD_S = 2.0  # what the killed node's task does
NODE = ("--cores", "2", "--slots", "2")
WIDE = ("--cores", "4", "--slots", "4")


class Starts:
    """The moments at which a task's attempts began, as the task itself wrote them: ``<monotonic> <node>``, a line each."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> list[tuple[float, str]]:
        """All so far."""
        if not self.path.exists():
            return []
        lines = self.path.read_text().split("\n")[:-1]
        return [(float(at), node) for at, _, node in (line.partition(" ") for line in lines)]

    async def wait_for(self, count: int) -> tuple[float, str]:
        """The `count`-th start, once there is one."""
        deadline = time.monotonic() + GIVE_UP_S
        while len(found := self.read()) < count:
            if time.monotonic() > deadline:
                raise RuntimeError(f"start {count} did not come within {GIVE_UP_S:g} s: {found}")
            await asyncio.sleep(POLL_S)
        return found[count - 1]


@asynccontextmanager
async def fleet_of(*options: str) -> AsyncIterator[tuple[Stack, client.Fleet]]:
    """Two warm nodes, ``bench-0`` and ``bench-1``, and a client."""
    async with Stack() as stack, client.connect(nats=stack.target.url, creds=stack.home / "fog.creds") as fleet:
        for name in ("bench-0", "bench-1"):
            await stack.start_node(name, *options)
        await asyncio.gather(*(fleet.submit("noop", i) for i in range(WARM_UP)))
        yield stack, fleet


async def _one(stack: Stack, fleet: client.Fleet, number: int, how: signal.Signals) -> float:
    """Seconds from the signal to the node that runs the task until the task runs on the other; then both are as before."""
    starts = Starts(stack.home / f"starts-{number}")
    task = await fleet.start("hold", str(starts.path), HOLD_S)
    _, first = await starts.wait_for(1)
    signalled = time.monotonic()
    if how is signal.SIGKILL:
        stack.end(first, how)
    else:
        os.kill(stack.pid(first), how)
    began, second = await starts.wait_for(2)
    if second == first:
        raise RuntimeError(f"it began again on {first}, which is gone")
    if how is not signal.SIGKILL:
        stack.end(first, signal.SIGKILL)
    await task.result()
    await stack.start_node(first, *NODE)
    await asyncio.gather(*(fleet.submit("noop", i) for i in range(WARM_UP)))  # both have a warm runner again
    return began - signalled


_kills_ms: list[float] = []


async def _kills() -> list[float]:
    """Milliseconds of each kill, sorted. Both figures are of the same kills."""
    if not _kills_ms:
        async with fleet_of(*NODE) as (stack, fleet):
            _kills_ms.extend([1e3 * await _one(stack, fleet, n, signal.SIGKILL) for n in range(KILLS)])
    return sorted(_kills_ms)


async def kill_recovery_ms() -> Figure:
    """The median over `KILLS` real SIGKILLs of node daemons, each with one task running on it."""
    found = await _kills()
    theirs = await asyncio.to_thread(dask.dask_kills, DASK_KILLS) if dask.installed() else []
    detail: dict[str, object] = {"kills": len(found), "quickest": round(found[0], 1), "slowest": round(found[-1], 1)}
    if theirs:
        detail |= {
            "dask_ms": round(median(theirs), 1),
            "dask_slowest": round(max(theirs), 1),
            "dask_kills": len(theirs),
        }
    else:
        detail["dask"] = "not installed"
    what = "SIGKILL of a node until its task runs on another"
    return Figure("kill_recovery_ms", round(median(found), 2), "ms", 20, what, at_most=True, detail=detail)


async def kill_recovery_p99_ms() -> Figure:
    """The 99th percentile of the same kills: of 50, the slowest."""
    found = await _kills()
    slowest = found[min(len(found) - 1, int(0.99 * len(found)))]
    detail = {"kills": len(found), "slowest": [round(one, 1) for one in found[-5:]]}
    return Figure("kill_recovery_p99_ms", round(slowest, 2), "ms", 200, "the same kills", at_most=True, detail=detail)


async def _queued_at(stack: Stack, node: str, count: int) -> list[float]:
    """When each message in the node's queue was stored, by the broker; waits until there are `count`."""
    deadline = time.monotonic() + GIVE_UP_S
    while True:
        found = await jetstream.multi_last(stack.bus, streams.WORK, [subjects.work(node, ">")])
        if len(found) >= count:
            return [datetime.fromisoformat(message.time).timestamp() for message in found]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(found)} of {count} tasks came to {node} within {GIVE_UP_S:g} s")
        await asyncio.sleep(0.02)


async def _until(fleet: client.Fleet, node: str, state: str) -> None:
    deadline = time.monotonic() + GIVE_UP_S
    while not any(row.node == node and row.state == state for row in await fleet.nodes()):
        if time.monotonic() > deadline:
            raise RuntimeError(f"{node} was not {state} within {GIVE_UP_S:g} s")
        await asyncio.sleep(0.02)


async def _full_kill() -> float:
    """Milliseconds from SIGKILL of a node with `QUEUED` tasks, four of them running, until the last is placed elsewhere.

    A fleet of its own: the function is known to be quick, so that a node's queue takes so many, until its gate closes.
    """
    async with fleet_of(*WIDE) as (stack, fleet):
        gate = stack.home / "gate"
        await asyncio.gather(*(fleet.submit("gated", str(gate)) for _ in range(WARM_UP)))
        gate.touch()
        await fleet.drain("bench-1")
        await _until(fleet, "bench-1", "draining")
        tasks = await asyncio.gather(*(fleet.start("gated", str(gate)) for _ in range(QUEUED)))
        await _queued_at(stack, "bench-0", QUEUED)
        await fleet.drain("bench-1", resume=True)
        await _until(fleet, "bench-1", "online")
        killed = time.time()  # the broker's times are of the same clock
        stack.end("bench-0", signal.SIGKILL)
        last = max(await _queued_at(stack, "bench-1", QUEUED))
        gate.unlink()
        await asyncio.gather(*(task.result() for task in tasks))
        return (last - killed) * 1e3


async def kill_200_ms() -> Figure:
    """The median of some kills of a node that holds 200 tasks."""
    found = [await _full_kill() for _ in range(QUEUED_ROUNDS)]
    detail = {"tasks": QUEUED, "rounds": [round(one, 1) for one in found]}
    what = "SIGKILL of a node with 200 tasks until the last is placed elsewhere"
    return Figure("kill_200_ms", round(median(found), 1), "ms", 100, what, at_most=True, detail=detail)


async def freeze_recovery_beats() -> Figure:
    """The slowest of some SIGSTOPs, in heartbeat intervals."""
    async with fleet_of(*NODE) as (stack, fleet):
        found = [await _one(stack, fleet, n, signal.SIGSTOP) / limits.HEARTBEAT_S for n in range(FREEZES)]
    detail = {"freezes": FREEZES, "beats": [round(one, 2) for one in found], "interval_s": limits.HEARTBEAT_S}
    what = "SIGSTOP of a node until its task runs on another"
    return Figure("freeze_recovery_beats", round(max(found), 2), "beats", 3.5, what, at_most=True, detail=detail)
