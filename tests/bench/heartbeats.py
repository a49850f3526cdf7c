"""What 10,000 beating nodes cost the coordinator: share of a core, memory a node; and by way of their clusters' leaders."""

from __future__ import annotations

import asyncio
import sys
import time
from asyncio.subprocess import PIPE, Process
from typing import NamedTuple

from schemas import limits
from tests.bench.figures import Figure
from tests.bench.processes import MIB, ROOT, cpu_seconds, environment, rss_mib
from tests.bench.stack import Stack

PLAYERS = 10_000
REGISTER_S = 300.0
SETTLE_S = 10.0  # two rounds of beats, so that what registering left behind is done
WINDOW_S = 30.0
RELAYED = 0.97  # of the players, before it is measured: the others' clusters are being told of
# No requirement names a figure: this was set together with the first measurement of what is built (0.72), with room for a busy
# machine. So it says only that a quiet fleet's relayed beats cost the coordinator noticeably less.
RELAY_RATIO_MAX = 0.8
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
            sent, *_ = await ask(players)
            stack.events.clear()
            cpu, began = cpu_seconds(coordinator), time.monotonic()
            await asyncio.sleep(WINDOW_S)
            used, took = cpu_seconds(coordinator) - cpu, time.monotonic() - began
            sent_after, late_s, *_ = await ask(players)
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


class Told(NamedTuple):
    """What the players say of themselves: beats sent so far, the worst lateness since the last question, digests sent, how
    many of those were taken in whole, and how many players are relayed."""

    sent: int
    late_s: float
    digests: int
    taken: int
    relayed: int


async def ask(players: Process, word: str = "?") -> Told:
    """Ask them; some words (see `players`) change how they beat from now on."""
    assert players.stdin is not None and players.stdout is not None
    players.stdin.write(f"{word}\n".encode())
    sent, late, *more = (await players.stdout.readline()).split()
    return Told(int(sent), float(late), *map(int, more))


async def heartbeat_relay_ratio() -> Figure:
    """CPU of the coordinator's process a beat that comes in a leader's digest, against one that comes by itself, in one run:
    in a fleet of which four of five devices are quiet, and (as detail) in one of which every device is busy."""
    async with Stack(coordinator=("--heartbeat-relay", "on")) as stack:
        players = await start_players(stack)
        found: dict[str, dict[str, float]] = {}
        try:
            await ask(players, "apart")
            stack.events.clear()
            for fleet in ("busy", "quiet"):
                found[f"direct_{fleet}"] = await _window(stack, players, fleet)
            await _relayed(players)
            for fleet in ("quiet", "busy"):
                found[f"relayed_{fleet}"] = await _window(stack, players, fleet)
        finally:
            players.kill()
            await players.wait()
        unhappy = stack.events["node.late"] + stack.events["node.lost"]
        if unhappy:
            raise RuntimeError(f"{unhappy} nodes were called late or lost while all were beating")
    ratios = {
        fleet: round(found[f"relayed_{fleet}"]["us_per_beat"] / found[f"direct_{fleet}"]["us_per_beat"], 3)
        for fleet in ("quiet", "busy")
    }
    told = {f"{which}_{name}": value for which, values in found.items() for name, value in values.items()}
    detail = {"nodes": PLAYERS, "busy_ratio": ratios["busy"], **told}
    what = "the same beats, sent by each node itself"
    return Figure("heartbeat_relay_ratio", ratios["quiet"], "x", RELAY_RATIO_MAX, what, at_most=True, detail=detail)


async def _relayed(players: Process) -> None:
    """Have them relay, and wait until nearly all do."""
    told = await ask(players, "relay")
    deadline = time.monotonic() + REGISTER_S
    while told.relayed < RELAYED * PLAYERS:
        if time.monotonic() > deadline:
            raise RuntimeError(f"of {PLAYERS} players only {told.relayed} are relayed")
        await asyncio.sleep(1.0)
        told = await ask(players)


async def _window(stack: Stack, players: Process, fleet: str) -> dict[str, float]:
    """What the coordinator and the broker use while the players of such a fleet beat for `WINDOW_S`."""
    pids = [stack.pid("coordinator")], [stack.broker_pid]
    await ask(players, fleet)
    await asyncio.sleep(SETTLE_S)
    before = await ask(players)
    used, began = [cpu_seconds(of) for of in pids], time.monotonic()
    await asyncio.sleep(WINDOW_S)
    used, took = [cpu_seconds(of) - was for of, was in zip(pids, used, strict=True)], time.monotonic() - began
    after = await ask(players)
    if after.late_s > LATE_MAX_S:
        raise RuntimeError(f"the players fell {after.late_s} s behind: the machine is too busy to measure")
    beats, digests = after.sent - before.sent, after.digests - before.digests
    if digests - (after.taken - before.taken) > digests / 100:
        raise RuntimeError(f"of {digests} digests only {after.taken - before.taken} were taken in")
    return {
        "cores": round(used[0] / took, 4),
        "us_per_beat": round(used[0] / beats * 1e6, 1),
        "s_per_period": round(used[0] / took * limits.HEARTBEAT_S, 3),
        "broker_us_per_beat": round(used[1] / beats * 1e6, 1),
        "beats_per_s": round(beats / took),
        "messages_per_s": round((digests if digests else beats) / took),
    }
