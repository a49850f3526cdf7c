"""What 10,000 beating nodes cost the coordinator: share of a core, and memory a node."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process

from tests.bench.figures import Figure
from tests.bench.processes import MIB, ROOT, cpu_seconds, environment, rss_mib
from tests.bench.stack import Stack

PLAYERS = 10_000
REGISTER_S = 300.0
SETTLE_S = 10.0  # two rounds of beats, so that what registering left behind is done
WINDOW_S = 30.0
LATE_MAX_S = 1.0  # a generator that falls further behind measures itself


async def heartbeat_cpu_share() -> Figure:
    """CPU of the coordinator's process over half a minute, with nothing else to do."""
    async with Stack() as stack:
        coordinator = [stack.pid("coordinator")]
        empty_mib = rss_mib(coordinator)
        began = time.monotonic()
        players = await start_players(stack)
        try:
            registering_s = time.monotonic() - began
            await asyncio.sleep(SETTLE_S)
            sent, _ = await ask(players)
            stack.events.clear()
            cpu, began = cpu_seconds(coordinator), time.monotonic()
            await asyncio.sleep(WINDOW_S)
            used, took = cpu_seconds(coordinator) - cpu, time.monotonic() - began
            sent_after, late_s = await ask(players)
        finally:
            players.kill()
            await players.wait()
        if late_s > LATE_MAX_S:
            raise RuntimeError(f"the players fell {late_s} s behind: the machine is too busy to measure")
        unhappy = stack.events["node.late"] + stack.events["node.lost"]
        if unhappy:
            raise RuntimeError(f"{unhappy} nodes were called late or lost while all were beating")
        detail = {
            "nodes": PLAYERS,
            "beats_per_s": round((sent_after - sent) / took),
            "cpu_us_per_beat": round(used / (sent_after - sent) * 1e6, 1),
            "memory_kib_per_node": round((rss_mib(coordinator) - empty_mib) * MIB / 1024 / PLAYERS, 2),
            "coordinator_rss_mib": round(rss_mib(coordinator), 1),
            "registering_s": round(registering_s, 1),
        }
    what = f"one core; {PLAYERS} nodes beating every 5 s from one process"
    return Figure("heartbeat_cpu_share", round(used / took, 4), "cores", 0.25, what, at_most=True, detail=detail)


async def start_players(stack: Stack) -> Process:
    """The crowd, once it is registered. Raises RuntimeError when it ends instead."""
    argv = (sys.executable, "-m", "tests.bench.players", stack.target.url, stack.target.seed, str(PLAYERS))
    players = await asyncio.create_subprocess_exec(*argv, cwd=ROOT, env=environment(), stdin=PIPE, stdout=PIPE)
    assert players.stdout is not None
    async with asyncio.timeout(REGISTER_S):
        if await players.stdout.readline() != b"ready\n":
            raise RuntimeError("the players could not register")
    return players


async def ask(players: Process) -> tuple[int, float]:
    """Beats sent so far, and the worst lateness since the last question."""
    assert players.stdin is not None and players.stdout is not None
    players.stdin.write(b"?\n")
    sent, late = (await players.stdout.readline()).split()
    return int(sent), float(late)
